//! Sums and products up to each element of a dimension.

use crate::groups::groups;
use crate::stop::spend;

/// An element that can be added up.
pub trait Scan: Copy + Send + Sync {
    /// What it is added up in: f64 for f32.
    type Sum: Copy + Sync;
    /// 0.
    const ZERO: Self::Sum;
    /// 1.
    const ONE: Self::Sum;
    /// The sum with one more.
    fn plus(sum: Self::Sum, x: Self) -> Self::Sum;
    /// The product with one more.
    fn times(product: Self::Sum, x: Self) -> Self::Sum;
    /// As an element.
    fn of(sum: Self::Sum) -> Self;
}

impl Scan for f32 {
    type Sum = f64;
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    #[inline]
    fn plus(sum: f64, x: Self) -> f64 {
        sum + f64::from(x)
    }
    #[inline]
    fn times(product: f64, x: Self) -> f64 {
        product * f64::from(x)
    }
    #[inline]
    fn of(sum: f64) -> Self {
        sum as Self
    }
}

macro_rules! integers {
    ($($ty:ty)*) => {$(
        impl Scan for $ty {
            type Sum = $ty;
            const ZERO: $ty = 0;
            const ONE: $ty = 1;
            #[inline]
            fn plus(sum: $ty, x: $ty) -> $ty {
                sum.wrapping_add(x)
            }
            #[inline]
            fn times(product: $ty, x: $ty) -> $ty {
                product.wrapping_mul(x)
            }
            #[inline]
            fn of(sum: $ty) -> $ty {
                sum
            }
        }
    )*};
}
integers!(u8 u32 i64);

/// Columns that are added up at once.
const COLUMNS: usize = 64;

/// Elements of a long sum between two looks whether to stop.
const PART: usize = 4096;

/// Sums (or products) up to each element of x `[outer, len, inner]` along `len`, into `out` of that shape. Integers wrap around.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn cumulative<T: Scan>(x: &[T], [outer, len, inner]: [usize; 3], product: bool, out: &mut [T]) {
    assert!(
        x.len() == outer * len * inner && out.len() == x.len(),
        "{outer} x {len} x {inner} elements"
    );
    if x.is_empty() {
        return;
    }
    if product {
        scan(x, [len, inner], T::ONE, T::times, out);
    } else {
        scan(x, [len, inner], T::ZERO, T::plus, out);
    }
}

fn scan<T: Scan>(
    x: &[T],
    [len, inner]: [usize; 2],
    start: T::Sum,
    join: impl Fn(T::Sum, T) -> T::Sum + Copy + Sync + Send,
    out: &mut [T],
) {
    let unit = len * inner;
    // A sum waits for the one before it.
    let work = x.len() as u64 * if inner == 1 { 2 } else { 1 };
    groups(out, unit, work, |first, part| {
        for (i, to) in part.chunks_exact_mut(unit).enumerate() {
            let from = &x[(first + i) * unit..][..unit];
            if inner == 1 {
                let mut sum = start;
                for (to, from) in to.chunks_mut(PART).zip(from.chunks(PART)) {
                    spend(2 * from.len() as u64);
                    for (to, x) in to.iter_mut().zip(from) {
                        sum = join(sum, *x);
                        *to = T::of(sum);
                    }
                }
                continue;
            }
            for column in (0..inner).step_by(COLUMNS) {
                let width = COLUMNS.min(inner - column);
                let mut sums = [start; COLUMNS];
                for row in 0..len {
                    spend(width as u64);
                    let at = row * inner + column;
                    let pairs = to[at..at + width].iter_mut().zip(&from[at..at + width]);
                    for ((to, x), sum) in pairs.zip(&mut sums) {
                        *sum = join(*sum, *x);
                        *to = T::of(*sum);
                    }
                }
            }
        }
    });
}
