//! The matrix product `x * w^T` of f32 with weights packed once, and what follows it (bias, activation, residual) done while the
//! numbers are still in the cache.
//!
//! The method is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), without packing the left
//! side: it is read as it lies, a few rows at a time.

use std::ops::Range;
use std::sync::Mutex;

use crate::lines::Lines;
use crate::math;
use crate::parallel;
use crate::simd::{Level, level, multiversion};
use crate::stop::spend;

/// Columns of a panel.
pub(crate) const NR: usize = 32;

/// Rows of a tile at most.
pub(crate) const MR: usize = 12;

/// Floats of the left side that one thread works on at once: they stay in its second-level cache.
const BLOCK: usize = 96 << 10;

/// Multiply-adds of one core in a nanosecond, about: what decides whether a second one is worth it.
const RATE: u64 = 32;

/// A right side `[k, n]` in panels of [`NR`] columns: panel by panel, row by row, the last padded with zeros.
#[derive(Debug)]
pub struct Packed {
    k: usize,
    n: usize,
    panels: Lines,
}

impl Packed {
    /// From a weight `[n, k]`, row-major, whose rows are the columns of the right side: that of a linear layer.
    ///
    /// # Panics
    /// If `weight` has not `n * k` elements.
    pub fn from_rows(weight: &[f32], n: usize, k: usize) -> Self {
        assert_eq!(weight.len(), n * k, "a weight of {n} x {k}");
        Self::from_panels(n, k, |rows, panel| {
            transpose(&weight[rows.start * k..rows.end * k], panel, k);
        })
    }

    /// From a weight `[n, k]` whose rows have to be made: `row(at, elements)` writes all `k` elements of a row. Rows are made on several
    /// threads, one at a time on each.
    pub fn from_made_rows(n: usize, k: usize, row: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        Self::from_panels(n, k, |rows, panel| {
            let mut made = vec![0.0; k];
            for (j, at) in rows.enumerate() {
                row(at, &mut made);
                for (i, value) in made.iter().enumerate() {
                    panel[i * NR + j] = *value;
                }
            }
        })
    }

    /// `fill(rows, panel)` puts some rows into their panel, which is zero.
    fn from_panels(n: usize, k: usize, fill: impl Fn(Range<usize>, &mut [f32]) + Sync) -> Self {
        let mut panels = Lines::zeroed(Self::len(n, k) * 4);
        if k > 0 {
            let each: Vec<_> = panels.floats_mut().chunks_mut(NR * k).map(Mutex::new).collect();
            parallel(n.div_ceil(NR), (n * k) as u64, |p| {
                if let Ok(mut panel) = each[p].lock() {
                    fill(p * NR..n.min((p + 1) * NR), &mut panel);
                }
            });
        }
        Self { k, n, panels }
    }

    fn len(n: usize, k: usize) -> usize {
        n.div_ceil(NR) * NR * k
    }

    /// How many bytes a packed `[k, n]` takes.
    pub fn bytes_for(n: u64, k: u64) -> u64 {
        n.div_ceil(NR as u64)
            .saturating_mul(NR as u64)
            .saturating_mul(k)
            .saturating_mul(4)
    }

    /// The inner dimension.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Row `at` of the weight that was packed, `k` elements.
    ///
    /// # Panics
    /// If there is no such row, or `row` has not `k` elements.
    pub fn row(&self, at: usize, row: &mut [f32]) {
        assert!(
            at < self.n && row.len() == self.k,
            "row {at} of {} x {}",
            self.n,
            self.k
        );
        let from = at / NR * NR * self.k + at % NR;
        let values = self.panels.floats().get(from..).unwrap_or_default().iter().step_by(NR);
        row.iter_mut().zip(values).for_each(|(to, value)| *to = *value);
    }
}

/// Rows of up to [`NR`] by `k` as columns of a panel.
fn transpose(rows: &[f32], panel: &mut [f32], k: usize) {
    for (j, row) in rows.chunks_exact(k).enumerate() {
        for (i, value) in row.iter().enumerate() {
            panel[i * NR + j] = *value;
        }
    }
}

/// A function applied to each element of a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The element itself.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Phi(x)`.
    GeluErf,
    /// GELU in its tanh approximation.
    Gelu,
}

/// What follows a product: `activation(x + bias) + residual`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Activation,
    /// `[m, n]`, added at the end.
    pub residual: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    fn is_none(&self) -> bool {
        self.bias.is_none() && self.activation == Activation::None && self.residual.is_none()
    }

    /// Finishes a piece of a row of the output that begins at column `column`; `at` is its place in the whole output.
    #[inline]
    pub(crate) fn finish(&self, piece: &mut [f32], column: usize, at: usize) {
        let len = piece.len();
        finish(
            piece,
            self.bias.map(|bias| &bias[column..column + len]),
            self.activation,
            self.residual.map(|residual| &residual[at..at + len]),
        );
    }
}

multiversion! {
    fn finish(piece: &mut [f32], bias: Option<&[f32]>, activation: Activation, residual: Option<&[f32]>) {
        // A whole panel's width is known when this is compiled: its loops become straight lines of vectors.
        let (whole, rest) = piece.as_chunks_mut::<NR>();
        if let ([whole], []) = (&mut *whole, &*rest) {
            if let Some((bias, _)) = bias.and_then(|bias| bias.split_first_chunk::<NR>()) {
                add(whole, bias);
            }
            activate(whole, activation);
            if let Some((residual, _)) = residual.and_then(|residual| residual.split_first_chunk::<NR>()) {
                add(whole, residual);
            }
            return;
        }
        if let Some(bias) = bias {
            add(piece, bias);
        }
        activate(piece, activation);
        if let Some(residual) = residual {
            add(piece, residual);
        }
    }
}

multiversion! {
    /// Applies an activation to the rows of a tile, each as wide as a panel.
    fn activate_rows(rows: &mut [&mut [f32]], activation: Activation) {
        for row in rows {
            if let Some((row, _)) = row.split_first_chunk_mut::<NR>() {
                activate(row, activation);
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
fn add(piece: &mut [f32], other: &[f32]) {
    piece.iter_mut().zip(other).for_each(|(x, y)| *x += y);
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
fn activate(piece: &mut [f32], activation: Activation) {
    match activation {
        Activation::None => {}
        Activation::Relu => piece.iter_mut().for_each(|x| *x = x.max(0.0)),
        Activation::Silu => piece.iter_mut().for_each(|x| *x = math::silu(*x)),
        Activation::GeluErf => piece.iter_mut().for_each(|x| *x = math::gelu_erf(*x)),
        Activation::Gelu => piece.iter_mut().for_each(|x| *x = math::gelu(*x)),
    }
}

/// Elements that threads write, each its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) *mut f32);
// SAFETY: every use writes places that no other thread touches; the uses say why.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// The place must be inside the elements.
    #[inline]
    pub(crate) unsafe fn at(self, place: usize) -> *mut f32 {
        // SAFETY: as the caller promises.
        unsafe { self.0.add(place) }
    }
}

/// `out = epilogue(x * w)` for `x` `[m, k]`, packed `w` `[k, n]`, `out` `[m, n]`, row-major. Allocates nothing.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn product(x: &[f32], m: usize, w: &Packed, out: &mut [f32], epilogue: &Epilogue<'_>) {
    let (k, n) = (w.k, w.n);
    assert_eq!(x.len(), m * k, "the left side is {m} x {k}");
    assert_eq!(out.len(), m * n, "the output is {m} x {n}");
    assert!(
        epilogue.bias.is_none_or(|bias| bias.len() == n),
        "the bias has {n} elements"
    );
    assert!(
        epilogue.residual.is_none_or(|r| r.len() == m * n),
        "the residual is {m} x {n}"
    );
    if m == 0 || n == 0 {
        return;
    }
    let panels = n.div_ceil(NR);
    let work = (m * k * n) as u64 / RATE;
    let target = Shared(out.as_mut_ptr());
    // Rows and panels of one task: many rows are split by rows, so that each panel is read once for many of them; few rows by
    // panels, so that each is read by one thread alone.
    let rows = (BLOCK / k.max(1)).clamp(2 * MR, 384).next_multiple_of(MR);
    let blocks = m.div_ceil(rows);
    let threads = crate::team::team().threads();
    let groups = if blocks >= 2 * threads {
        1
    } else {
        (4 * threads).div_ceil(blocks).min(panels)
    };
    parallel(blocks * groups, work, |task| {
        let (block, group) = (task / groups, task % groups);
        let (top, bottom) = (block * rows, m.min((block + 1) * rows));
        let (first, last) = (group * panels / groups, (group + 1) * panels / groups);
        for panel in first..last {
            let column = panel * NR;
            let width = NR.min(n - column);
            let right = &w.panels.floats()[panel * NR * k..][..NR * k];
            for (row, height) in tiles(bottom - top) {
                spend((height * k * NR) as u64 / RATE);
                let row = top + row;
                let left = &x[row * k..][..height * k];
                if width == NR {
                    // What is added is there first, so that nothing goes over the output again but an activation.
                    let residual = epilogue.residual.filter(|_| epilogue.activation == Activation::None);
                    let begun = epilogue.bias.is_some() || residual.is_some();
                    if begun {
                        let bias = epilogue.bias.map_or(&[0.0; NR][..], |bias| &bias[column..column + NR]);
                        for i in row..row + height {
                            let at = i * n + column;
                            // SAFETY: inside the output, and no other task has these columns of these rows.
                            let to = unsafe { std::slice::from_raw_parts_mut(target.at(at), NR) };
                            to.copy_from_slice(bias);
                            if let Some(residual) = residual {
                                add(to, &residual[at..at + NR]);
                            }
                        }
                    }
                    let to = row * n + column;
                    // SAFETY: the tile's rows and columns are inside the output, and no other task has them.
                    unsafe {
                        tile(height, k, left.as_ptr(), k, right.as_ptr(), NR, target.at(to), n, begun);
                    }
                    if epilogue.activation != Activation::None {
                        let mut rows: [&mut [f32]; MR] = [(); MR].map(|()| &mut [][..]);
                        for (i, piece) in rows.iter_mut().enumerate().take(height) {
                            // SAFETY: as above; the rows do not overlap.
                            *piece = unsafe { std::slice::from_raw_parts_mut(target.at(to + i * n), NR) };
                        }
                        activate_rows(&mut rows[..height], epilogue.activation);
                    }
                    if let (Some(residual), true) = (epilogue.residual, epilogue.activation != Activation::None) {
                        for i in row..row + height {
                            let at = i * n + column;
                            // SAFETY: as above.
                            let to = unsafe { std::slice::from_raw_parts_mut(target.at(at), NR) };
                            add(to, &residual[at..at + NR]);
                        }
                    }
                } else {
                    let mut spare = [0.0_f32; MR * NR];
                    // SAFETY: `spare` has room for a whole tile.
                    unsafe {
                        tile(
                            height,
                            k,
                            left.as_ptr(),
                            k,
                            right.as_ptr(),
                            NR,
                            spare.as_mut_ptr(),
                            NR,
                            false,
                        )
                    };
                    for i in 0..height {
                        // SAFETY: as above; the columns past the last are left out.
                        let to = unsafe { std::slice::from_raw_parts_mut(target.at((row + i) * n + column), width) };
                        to.copy_from_slice(&spare[i * NR..][..width]);
                    }
                }
                if width < NR && !epilogue.is_none() {
                    for i in row..row + height {
                        let at = i * n + column;
                        // SAFETY: as above.
                        let piece = unsafe { std::slice::from_raw_parts_mut(target.at(at), width) };
                        epilogue.finish(piece, column, at);
                    }
                }
            }
        }
    });
}

/// Cuts rows into tiles of nearly equal heights of at most [`MR`]: the first row and the height of each.
#[inline]
pub(crate) fn tiles(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(MR);
    (0..count).map(move |i| {
        let (from, to) = (i * rows / count, (i + 1) * rows / count);
        (from, to - from)
    })
}

/// One tile of a product: `c[height, NR] (+)= a[height, k] * b[k, NR]`, with the row strides `lda`, `ldb`, `ldc`.
///
/// # Safety
/// The pointers must be good for those elements; nobody else may touch `c`.
#[inline]
#[allow(clippy::too_many_arguments, reason = "three matrices and their strides")]
pub(crate) unsafe fn tile(
    height: usize,
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
) {
    #[cfg(target_arch = "x86_64")]
    use x86::{v3, v4};
    debug_assert!((1..=MR).contains(&height));
    macro_rules! heights {
        ($function:ident $($h:literal)*) => {
            match height {
                // SAFETY: as the caller promises; the processor has been asked.
                $($h => unsafe { $function::<$h>(k, a, lda, b, ldb, c, ldc, add) },)*
                _ => {}
            }
        };
    }
    match level() {
        #[cfg(target_arch = "x86_64")]
        Level::V4 => heights!(v4 1 2 3 4 5 6 7 8 9 10 11 12),
        #[cfg(target_arch = "x86_64")]
        Level::V3 => heights!(v3 1 2 3 4 5 6 7 8 9 10 11 12),
        _ => heights!(portable 1 2 3 4 5 6 7 8 9 10 11 12),
    }
}

/// The tile where there is nothing better.
///
/// # Safety
/// As for [`tile`].
#[allow(clippy::too_many_arguments, reason = "as for `tile`")]
unsafe fn portable<const H: usize>(
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
) {
    for i in 0..H {
        let mut sums = [0.0_f32; NR];
        for p in 0..k {
            // SAFETY: as the caller promises.
            let (x, row) = unsafe { (*a.add(i * lda + p), &*b.add(p * ldb).cast::<[f32; NR]>()) };
            sums.iter_mut().zip(row).for_each(|(sum, y)| *sum += x * y);
        }
        // SAFETY: as the caller promises.
        let to = unsafe { &mut *c.add(i * ldc).cast::<[f32; NR]>() };
        for (to, sum) in to.iter_mut().zip(sums) {
            *to = if add { *to + sum } else { sum };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The tile with registers as wide as the processor has.

    use std::arch::x86_64::*;

    /// With 512 bits: 24 sums, two parts of a row of `b`, one element of `a`.
    ///
    /// # Safety
    /// As for [`super::tile`].
    #[target_feature(enable = "avx512f")]
    #[allow(clippy::too_many_arguments, reason = "as for `tile`")]
    pub(super) unsafe fn v4<const H: usize>(
        k: usize,
        a: *const f32,
        lda: usize,
        b: *const f32,
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        add: bool,
    ) {
        let mut sums = [[_mm512_setzero_ps(); 2]; H];
        // SAFETY: as the caller promises; prefetching reads nothing.
        unsafe {
            for p in 0..k {
                let row = b.add(p * ldb);
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(16 * ldb).cast());
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(16 * ldb + 16).cast());
                let (left, right) = (_mm512_loadu_ps(row), _mm512_loadu_ps(row.add(16)));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*a.add(i * lda + p));
                    sum[0] = _mm512_fmadd_ps(x, left, sum[0]);
                    sum[1] = _mm512_fmadd_ps(x, right, sum[1]);
                }
            }
            for (i, sum) in sums.iter().enumerate() {
                let to = c.add(i * ldc);
                for (j, value) in sum.iter().enumerate() {
                    let to = to.add(16 * j);
                    let value = if add {
                        _mm512_add_ps(_mm512_loadu_ps(to), *value)
                    } else {
                        *value
                    };
                    _mm512_storeu_ps(to, value);
                }
            }
        }
    }

    /// With 256 bits: half the columns and at most 6 rows at a time, so that 12 sums and what they need fit the registers.
    ///
    /// # Safety
    /// As for [`super::tile`].
    #[target_feature(enable = "avx2,fma")]
    #[allow(clippy::too_many_arguments, reason = "as for `tile`")]
    pub(super) unsafe fn v3<const H: usize>(
        k: usize,
        a: *const f32,
        lda: usize,
        b: *const f32,
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        add: bool,
    ) {
        for half in [0, 16] {
            // SAFETY: as the caller promises: the parts are inside the whole.
            unsafe {
                let (b, c) = (b.add(half), c.add(half));
                let mut row = 0;
                while row + 6 <= H {
                    part::<6>(k, a.add(row * lda), lda, b, ldb, c.add(row * ldc), ldc, add);
                    row += 6;
                }
                let (a, c) = (a.add(row * lda), c.add(row * ldc));
                match H - row {
                    1 => part::<1>(k, a, lda, b, ldb, c, ldc, add),
                    2 => part::<2>(k, a, lda, b, ldb, c, ldc, add),
                    3 => part::<3>(k, a, lda, b, ldb, c, ldc, add),
                    4 => part::<4>(k, a, lda, b, ldb, c, ldc, add),
                    5 => part::<5>(k, a, lda, b, ldb, c, ldc, add),
                    _ => {}
                }
            }
        }
    }

    /// # Safety
    /// As for [`super::tile`], of 16 columns.
    #[target_feature(enable = "avx2,fma")]
    #[allow(clippy::too_many_arguments, reason = "as for `tile`")]
    unsafe fn part<const H: usize>(
        k: usize,
        a: *const f32,
        lda: usize,
        b: *const f32,
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        add: bool,
    ) {
        let mut sums = [[_mm256_setzero_ps(); 2]; H];
        // SAFETY: as the caller promises.
        unsafe {
            for p in 0..k {
                let row = b.add(p * ldb);
                let (left, right) = (_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8)));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*a.add(i * lda + p));
                    sum[0] = _mm256_fmadd_ps(x, left, sum[0]);
                    sum[1] = _mm256_fmadd_ps(x, right, sum[1]);
                }
            }
            for (i, sum) in sums.iter().enumerate() {
                for (j, value) in sum.iter().enumerate() {
                    let to = c.add(i * ldc + 8 * j);
                    let value = if add {
                        _mm256_add_ps(_mm256_loadu_ps(to), *value)
                    } else {
                        *value
                    };
                    _mm256_storeu_ps(to, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        (0..len as u32)
            .map(|i| {
                (i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(97)) >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn reference(x: &[f32], m: usize, w: &[f32], n: usize, k: usize, bias: Option<&[f32]>) -> Vec<f64> {
        let mut out = Vec::with_capacity(m * n);
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k).map(|p| f64::from(x[i * k + p]) * f64::from(w[j * k + p])).sum();
                out.push(sum + bias.map_or(0.0, |bias| f64::from(bias[j])));
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn a_product_is_what_float64_says(m in 0_usize..60, n in 0_usize..100, k in 0_usize..70, biased: bool, seed: u32) {
            let (x, w, bias) = (numbers(m * k, seed), numbers(n * k, seed ^ 1), numbers(n, 3));
            let packed = Packed::from_rows(&w, n, k);
            let mut out = vec![f32::NAN; m * n];
            let epilogue = Epilogue { bias: biased.then_some(&bias), ..Epilogue::default() };
            product(&x, m, &packed, &mut out, &epilogue);
            let expected = reference(&x, m, &w, n, k, biased.then_some(&bias));
            for (got, want) in out.iter().zip(&expected) {
                prop_assert!((f64::from(*got) - want).abs() < 1e-6 * (k as f64 + 1.0), "{got} {want}");
            }
            let mut row = vec![0.0; k];
            for j in 0..n {
                packed.row(j, &mut row);
                prop_assert_eq!(&row, &w[j * k..][..k]);
            }
        }
    }

    #[test]
    fn what_follows_is_bias_then_activation_then_residual() {
        let (m, n, k) = (5, 40, 8);
        let (x, w, bias, residual) = (numbers(m * k, 1), numbers(n * k, 2), numbers(n, 3), numbers(m * n, 4));
        let packed = Packed::from_rows(&w, n, k);
        let plain = reference(&x, m, &w, n, k, Some(&bias));
        type Exact = (Activation, fn(f64) -> f64);
        let functions: [Exact; 5] = [
            (Activation::None, |x| x),
            (Activation::Relu, |x| x.max(0.0)),
            (Activation::Silu, |x| x / (1.0 + (-x).exp())),
            (Activation::GeluErf, |x| {
                0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))
            }),
            (Activation::Gelu, |x| {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
            }),
        ];
        for (activation, function) in functions {
            let mut out = vec![0.0; m * n];
            product(
                &x,
                m,
                &packed,
                &mut out,
                &Epilogue {
                    bias: Some(&bias),
                    activation,
                    residual: Some(&residual),
                },
            );
            for (i, got) in out.iter().enumerate() {
                let want = function(plain[i]) + f64::from(residual[i]);
                assert!((f64::from(*got) - want).abs() < 3e-6, "{activation:?}: {got} {want}");
            }
        }
    }

    #[test]
    fn tiles_of_every_height_are_the_same_on_every_level() {
        let (k, lda, ldb, ldc) = (37, 41, NR + 3, NR + 5);
        let (a, b) = (numbers(MR * lda, 1), numbers(k * ldb, 2));
        macro_rules! check {
            ($($h:literal)*) => {$(
                for add in [false, true] {
                    let start = numbers(MR * ldc, 3);
                    let mut expected = start.clone();
                    // SAFETY: the slices are as long as rows, columns and strides say.
                    unsafe { portable::<$h>(k, a.as_ptr(), lda, b.as_ptr(), ldb, expected.as_mut_ptr(), ldc, add) };
                    #[cfg(target_arch = "x86_64")]
                    for wide in [Level::V3, Level::V4] {
                        if level() < wide {
                            continue;
                        }
                        let mut found = start.clone();
                        let to = found.as_mut_ptr();
                        // SAFETY: as above; the processor has been asked.
                        unsafe {
                            match wide {
                                Level::V4 => x86::v4::<$h>(k, a.as_ptr(), lda, b.as_ptr(), ldb, to, ldc, add),
                                _ => x86::v3::<$h>(k, a.as_ptr(), lda, b.as_ptr(), ldb, to, ldc, add),
                            }
                        }
                        for (x, y) in found.iter().zip(&expected) {
                            assert!((x - y).abs() < 1e-5, "{wide:?}, height {}: {x} {y}", $h);
                        }
                    }
                }
            )*};
        }
        check!(1 2 3 4 5 6 7 8 9 10 11 12);
    }

    #[test]
    fn tiles_cover_all_rows_once() {
        for rows in 0..100 {
            let mut next = 0;
            for (from, height) in tiles(rows) {
                assert_eq!(from, next);
                assert!((1..=MR).contains(&height));
                next += height;
            }
            assert_eq!(next, rows);
        }
    }
}
