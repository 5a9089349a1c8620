//! Products of matrices as they lie in memory, whatever their strides: the crate `gemm` does the arithmetic on one thread, and the team
//! shares the blocks of the output.

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use crate::parallel;
use crate::parts::Parts;

/// Multiply-adds of one task at most: what is under way cannot be left before its end.
const TASK: u64 = 1 << 23;

/// Rows and columns of a block at least, where there are as many, before all are made equal: with fewer, `gemm` copies more than it
/// multiplies.
const SIDE: [usize; 2] = [16, 64];

/// Rows and columns of a block are multiples of what `gemm` takes at once.
const STEP: usize = 16;

/// Multiply-adds that a matrix costs beside its own.
const OVERHEAD: u64 = 4096;

/// Elements of a vector that are widened at once.
const STRIP: usize = 512;

/// Floats that one thread adds to at once.
const CHUNK: usize = 16 << 10;

/// Elements that can be multiplied.
pub trait Element: Copy + Send + Sync + 'static {
    /// 0 and 1.
    const UNITS: [Self; 2];
    /// Multiply-adds of one core in a nanosecond, about.
    const RATE: u64;

    /// Writes the product of a row by a matrix, where `gemm` does that worse. Whether it does.
    fn row(_k: usize, _row: (&[Self], usize), _matrix: (&[Self], [usize; 2]), _out: &mut [Self]) -> bool {
        false
    }
}

impl Element for f32 {
    const UNITS: [Self; 2] = [0.0, 1.0];
    const RATE: u64 = 32;
}

impl Element for f16 {
    const UNITS: [Self; 2] = [f16::ZERO, f16::ONE];
    const RATE: u64 = 8;

    /// `gemm` adds up in f16.
    fn row(
        k: usize,
        (row, step): (&[Self], usize),
        (matrix, [down, along]): (&[Self], [usize; 2]),
        out: &mut [Self],
    ) -> bool {
        let mut strip = [0.0; STRIP];
        let left = |i: usize| row[i * step].to_f32();
        if along == 1 {
            // Row after row of the matrix, some columns at a time.
            for (part, out) in out.chunks_mut(STRIP).enumerate() {
                let (mut sums, strip) = ([0.0_f32; STRIP], &mut strip[..out.len()]);
                for i in 0..k {
                    matrix[i * down + part * STRIP..][..strip.len()].convert_to_f32_slice(strip);
                    let x = left(i);
                    sums.iter_mut().zip(&*strip).for_each(|(sum, y)| *sum += x * y);
                }
                out.convert_from_f32_slice(&sums[..out.len()]);
            }
        } else {
            let row: Vec<f32> = (0..k).map(left).collect();
            for (column, out) in out.iter_mut().enumerate() {
                let mut sum = 0.0;
                for (part, row) in row.chunks(STRIP).enumerate() {
                    let (strip, at) = (&mut strip[..row.len()], part * STRIP * down + column * along);
                    if down == 1 {
                        matrix[at..][..row.len()].convert_to_f32_slice(strip);
                    } else {
                        strip
                            .iter_mut()
                            .enumerate()
                            .for_each(|(i, y)| *y = matrix[at + i * down].to_f32());
                    }
                    sum += dot(row, strip);
                }
                *out = f16::from_f32(sum);
            }
        }
        true
    }
}

/// In several sums, which a processor makes at once.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    let (a, b) = (a.chunks(sums.len()), b.chunks(sums.len()));
    for (a, b) in a.zip(b) {
        sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
    }
    sums.iter().sum()
}

/// Matrices in memory that others may share.
#[derive(Debug)]
pub struct Matrices<'a, T> {
    /// The elements, and others.
    pub elements: &'a [T],
    /// From a row to the next, and from a column to the next.
    pub strides: [usize; 2],
    /// Where each matrix begins.
    pub starts: &'a [usize],
}

impl<T> Matrices<'_, T> {
    /// # Panics
    /// If an element of a matrix lies outside.
    fn check(&self, rows: usize, columns: usize) {
        let last = (rows - 1)
            .checked_mul(self.strides[0])
            .zip((columns - 1).checked_mul(self.strides[1]))
            .and_then(|(rows, columns)| rows.checked_add(columns));
        let inside = |start: &usize| {
            let last = last.and_then(|last| last.checked_add(*start));
            last.is_some_and(|last| last < self.elements.len())
        };
        assert!(
            self.starts.iter().all(inside),
            "{rows} x {columns} elements lie among {}",
            self.elements.len()
        );
    }

    /// The elements from one of a matrix on.
    fn from(&self, matrix: usize, row: usize, column: usize) -> &[T] {
        &self.elements[self.starts[matrix] + row * self.strides[0] + column * self.strides[1]..]
    }
}

/// Who does what: some matrices, or a block of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Split {
    /// Matrices of a task.
    matrices: usize,
    /// Rows of a block, and columns.
    block: [usize; 2],
}

impl Split {
    fn of(many: usize, [m, k, n]: [usize; 3], threads: usize) -> Self {
        let each = (m as u64)
            .saturating_mul(k as u64)
            .saturating_mul(n as u64)
            .saturating_add(OVERHEAD);
        let work = each.saturating_mul(many as u64);
        let tasks = usize::try_from(work.div_ceil(TASK)).unwrap_or(usize::MAX);
        let tasks = tasks.next_multiple_of(threads).max(1);
        if tasks <= many {
            return Self {
                matrices: many / tasks,
                block: [m, n],
            };
        }
        // As square as can be: of what `gemm` copies for a block, each element is then used most.
        let area = m.saturating_mul(n).div_ceil(tasks.div_ceil(many));
        let height = (area.isqrt() / STEP * STEP).max(SIDE[0]).min(m);
        let width = area.div_ceil(height).max(SIDE[1]).min(n);
        let height = area.div_ceil(width).max(SIDE[0]).min(m);
        Self {
            matrices: 1,
            block: [even(m, height), even(n, width)],
        }
    }
}

/// How long the parts are into which a length is divided evenly, each of `most` or a little more.
fn even(length: usize, most: usize) -> usize {
    let part = length.div_ceil(length.div_ceil(most));
    part.next_multiple_of(STEP).min(length)
}

/// Writes `a[i] * b[i]`, of `[m, k]` and `[k, n]`, for each matrix to `out`, which holds them one after the other in row-major order.
///
/// # Panics
/// If there are not as many matrices everywhere, or one lies outside its elements. Unwinds if it has to [stop](crate::stop).
pub fn product<T: Element>(a: &Matrices<'_, T>, b: &Matrices<'_, T>, [m, k, n]: [usize; 3], out: &mut [T]) {
    let many = a.starts.len();
    assert_eq!(many, b.starts.len(), "as many right sides as left sides");
    assert_eq!(out.len(), many * m * n, "{many} products of {m} x {n}");
    if out.is_empty() {
        return;
    }
    if k == 0 {
        out.fill(T::UNITS[0]);
        return;
    }
    a.check(m, k);
    b.check(k, n);
    let split = Split::of(many, [m, k, n], crate::team::team().threads());
    let [rows, columns] = split.block;
    let blocks = [m.div_ceil(rows), n.div_ceil(columns)];
    let groups = many.div_ceil(split.matrices);
    let work = (m as u64)
        .saturating_mul(k as u64)
        .saturating_mul(n as u64)
        .saturating_add(OVERHEAD);
    let nanoseconds = work.saturating_mul(many as u64) / T::RATE;
    let out = Parts::new(out, m * n);
    parallel(groups * blocks[0] * blocks[1], nanoseconds, |task| {
        let (group, block) = (task / (blocks[0] * blocks[1]), task % (blocks[0] * blocks[1]));
        let (row, column) = (block / blocks[1] * rows, block % blocks[1] * columns);
        let (height, width) = (rows.min(m - row), columns.min(n - column));
        for matrix in group * split.matrices..many.min((group + 1) * split.matrices) {
            let (left, right) = (a.from(matrix, row, 0), b.from(matrix, 0, column));
            let [zero, one] = T::UNITS;
            let at = matrix * m * n + row * n + column;
            if height == 1 {
                // SAFETY: a row of the output that no other task has.
                let to = unsafe { out.range(at..at + width) };
                if T::row(k, (left, a.strides[1]), (right, b.strides), to) {
                    continue;
                }
            } else if n == 1 {
                // SAFETY: a column, which is the whole of its rows, that no other task has.
                let to = unsafe { out.range(at..at + height) };
                let [down, along] = a.strides;
                if T::row(k, (right, b.strides[0]), (left, [along, down]), to) {
                    continue;
                }
            }
            // SAFETY: `check` has seen that the operands' elements are there, and no other task has this block of the output.
            unsafe {
                let to = out.pointer(at);
                gemm::gemm(
                    height,
                    width,
                    k,
                    to,
                    1,
                    n as isize,
                    false,
                    left.as_ptr(),
                    a.strides[1] as isize,
                    a.strides[0] as isize,
                    right.as_ptr(),
                    b.strides[1] as isize,
                    b.strides[0] as isize,
                    zero,
                    one,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        }
    });
}

/// Adds a vector, whose elements lie `stride` apart, to each row of a matrix.
///
/// # Panics
/// If the vector is too short. Unwinds if it has to [stop](crate::stop).
pub fn add_to_rows(matrix: &mut [f32], width: usize, vector: &[f32], stride: usize) {
    let chunk = CHUNK.div_ceil(width) * width;
    let (tasks, nanoseconds) = (matrix.len().div_ceil(chunk), matrix.len() as u64 / 8);
    let parts = Parts::new(matrix, chunk);
    parallel(tasks, nanoseconds, |task| {
        // SAFETY: each task takes its own part.
        for row in unsafe { parts.take(task) }.chunks_mut(width) {
            if stride == 1 {
                row.iter_mut().zip(&vector[..width]).for_each(|(x, y)| *x += y);
            } else {
                row.iter_mut().enumerate().for_each(|(i, x)| *x += vector[i * stride]);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Small whole numbers, so that sums are exact in any order.
    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7 + seed * 13) % 11) as f32 - 5.0).collect()
    }

    fn naive(a: &Matrices<'_, f32>, b: &Matrices<'_, f32>, [m, k, n]: [usize; 3]) -> Vec<f32> {
        let at = |x: &Matrices<'_, f32>, matrix: usize, row: usize, column: usize| {
            x.elements[x.starts[matrix] + row * x.strides[0] + column * x.strides[1]]
        };
        let mut out = Vec::new();
        for matrix in 0..a.starts.len() {
            for row in 0..m {
                for column in 0..n {
                    out.push((0..k).map(|i| at(a, matrix, row, i) * at(b, matrix, i, column)).sum());
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn products_are_what_sums_of_products_are(
            [m, k, n] in [0_usize..70, 0_usize..40, 0_usize..150],
            many in 1_usize..5,
            turned in any::<[bool; 2]>(),
            shared in any::<[bool; 2]>(),
        ) {
            let lay = |rows: usize, columns: usize, turned: bool, shared: bool| {
                let strides = if turned { [1, rows] } else { [columns, 1] };
                let starts: Vec<usize> = (0..many).map(|i| if shared { 0 } else { i * rows * columns }).collect();
                (strides, starts)
            };
            let (x, y) = (numbers(many * m * k, 1), numbers(many * k * n, 2));
            let (strides, starts) = lay(m, k, turned[0], shared[0]);
            let a = Matrices { elements: &x, strides, starts: &starts };
            let (strides, starts) = lay(k, n, turned[1], shared[1]);
            let b = Matrices { elements: &y, strides, starts: &starts };
            let mut out = vec![f32::NAN; many * m * n];
            product(&a, &b, [m, k, n], &mut out);
            prop_assert_eq!(&out, &naive(&a, &b, [m, k, n]));
            let halves = |x: &[f32]| x.iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>();
            let (x, y, mut out) = (halves(&x), halves(&y), vec![f16::NAN; out.len()]);
            let half = |of: &Matrices<'_, f32>| (of.strides, of.starts.to_vec());
            let ((s, t), (u, v)) = (half(&a), half(&b));
            let (left, right) = (
                Matrices { elements: &x, strides: s, starts: &t },
                Matrices { elements: &y, strides: u, starts: &v },
            );
            product(&left, &right, [m, k, n], &mut out);
            let out: Vec<f32> = out.iter().map(|x| x.to_f32()).collect();
            prop_assert_eq!(&out, &naive(&a, &b, [m, k, n]));
        }

        /// Every task is short enough to wait for, and together they are the whole.
        #[test]
        fn tasks_are_small(
            many in 1_usize..1000,
            shape in [1_usize..3000, 1_usize..3000, 1_usize..3000],
            threads in 1_usize..9,
        ) {
            let split = Split::of(many, shape, threads);
            let [m, k, n] = shape;
            let [rows, columns] = split.block;
            prop_assert!((1..=many).contains(&split.matrices) && (1..=m).contains(&rows) && (1..=n).contains(&columns));
            let task = (split.matrices * rows * columns) as u64 * k as u64;
            let least = (SIDE[0].min(m) * SIDE[1].min(n)) as u64 * k as u64;
            prop_assert!(task <= 2 * TASK.max(least), "{split:?}: {task}");
        }
    }

    #[test]
    fn large_products_and_rows_are_shared_by_all_threads() {
        for (many, shape) in [
            (1, [256, 256, 256]),
            (1, [1, 4096, 4096]),
            (1, [4096, 64, 16]),
            (12, [128, 32, 128]),
        ] {
            let split = Split::of(many, shape, 2);
            let [m, _, n] = shape;
            let tasks = many.div_ceil(split.matrices) * m.div_ceil(split.block[0]) * n.div_ceil(split.block[1]);
            assert!(tasks >= 2, "{many} of {shape:?}: {split:?}");
        }
    }

    #[test]
    fn halves_are_added_up_as_floats() {
        // In f16 a sum of ones ends at 2048.
        let (k, n) = (5000, 700);
        let (ones, mut out) = (vec![f16::ONE; k * n], vec![f16::ZERO; n]);
        for (strides, shape) in [([n, 1], [1, k, n]), ([1, k], [1, k, n]), ([2, 1], [1, k, 3])] {
            let row = Matrices {
                elements: &ones,
                strides: [k, 1],
                starts: &[0],
            };
            let right = Matrices {
                elements: &ones,
                strides,
                starts: &[0],
            };
            let out = &mut out[..shape[2]];
            out.fill(f16::ZERO);
            product(&row, &right, shape, out);
            assert!(out.iter().all(|x| x.to_f32() == 5000.0), "{strides:?}: {}", out[0]);
            let column = Matrices {
                elements: &ones,
                strides: [1, 1],
                starts: &[0],
            };
            let left = Matrices {
                elements: &ones,
                strides: [strides[1], strides[0]],
                starts: &[0],
            };
            out.fill(f16::ZERO);
            product(&left, &column, [shape[2], k, 1], out);
            assert!(out.iter().all(|x| x.to_f32() == 5000.0), "{strides:?}: {}", out[0]);
        }
    }

    #[test]
    fn a_vector_is_added_to_each_row() {
        let (width, rows) = (7, 9000);
        let mut matrix = vec![1.0; width * rows];
        add_to_rows(&mut matrix, width, &numbers(2 * width, 3), 2);
        add_to_rows(&mut matrix, width, &numbers(width, 4), 1);
        let (a, b) = (numbers(2 * width, 3), numbers(width, 4));
        for row in matrix.chunks(width) {
            for (i, x) in row.iter().enumerate() {
                assert_eq!(*x, 1.0 + a[2 * i] + b[i]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "3 x 2 elements lie among 5")]
    fn a_matrix_that_is_not_all_there_is_refused() {
        let (x, y, mut out) = ([0.0_f32; 5], [0.0; 2], [0.0; 3]);
        let a = Matrices {
            elements: &x,
            strides: [2, 1],
            starts: &[0],
        };
        let b = Matrices {
            elements: &y,
            strides: [1, 1],
            starts: &[0],
        };
        product(&a, &b, [3, 2, 1], &mut out);
    }
}
