//! Orders of elements along a dimension: all of them, or the first few.

use half::{bf16, f16};

use crate::groups::groups;
use crate::stop::spend;

/// Elements between two looks whether to stop.
const PART: usize = 4096;

/// An element that has a place in an order, together with its index.
pub trait Rank: Copy + Send + Sync {
    /// Rank and index as one number: smaller comes first, and of equals the lower index.
    type Packed: Ord + Copy + Send + Sync + Default;
    /// The element's rank with its index. Not-a-number comes last, ascending or descending; both zeros are equal.
    fn pack(self, descending: bool, index: u32) -> Self::Packed;
    /// The index.
    fn index(packed: Self::Packed) -> u32;
}

/// The order of floats as that of integers; not-a-number last.
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "it is a few instructions of a loop over a vocabulary"
)]
fn float_rank(x: f32, descending: bool) -> u32 {
    if x.is_nan() {
        return u32::MAX;
    }
    // Adding 0 makes -0 a 0.
    let bits = (x + 0.0).to_bits();
    let rank = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    if descending { !rank } else { rank }
}

macro_rules! small_ranks {
    ($($ty:ty, |$x:ident, $descending:ident| $rank:expr;)*) => {$(
        impl Rank for $ty {
            type Packed = u64;
            #[inline]
            fn pack(self, $descending: bool, index: u32) -> u64 {
                let $x = self;
                u64::from($rank) << 32 | u64::from(index)
            }
            #[inline]
            fn index(packed: u64) -> u32 {
                packed as u32
            }
        }
    )*};
}
small_ranks! {
    f32, |x, descending| float_rank(x, descending);
    f16, |x, descending| float_rank(x.to_f32(), descending);
    bf16, |x, descending| float_rank(x.to_f32(), descending);
    u8, |x, descending| if descending { !u32::from(x) } else { u32::from(x) };
    u32, |x, descending| if descending { !x } else { x };
}

macro_rules! large_ranks {
    ($($ty:ty, |$x:ident, $descending:ident| $rank:expr;)*) => {$(
        impl Rank for $ty {
            type Packed = u128;
            #[inline]
            fn pack(self, $descending: bool, index: u32) -> u128 {
                let $x = self;
                u128::from($rank) << 32 | u128::from(index)
            }
            #[inline]
            fn index(packed: u128) -> u32 {
                packed as u32
            }
        }
    )*};
}
large_ranks! {
    i64, |x, descending| {
        let rank = (x as u64) ^ (1 << 63);
        if descending { !rank } else { rank }
    };
    f64, |x, descending| {
        let bits = (x + 0.0).to_bits();
        let rank = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
        match (x.is_nan(), descending) {
            (true, _) => u64::MAX,
            (false, true) => !rank,
            (false, false) => rank,
        }
    };
}

/// Nanoseconds that a comparison sort takes for an element, about, times the number's logarithm.
fn sorting(elements: usize, len: usize) -> u64 {
    elements as u64 * u64::from(len.max(2).ilog2()) * 2
}

/// The indices that sort x `[outer, len, inner]` along `len`, stably, into `out` of that shape. Allocates 8 bytes an element, 16 for
/// i64.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn argsort<T: Rank>(x: &[T], [outer, len, inner]: [usize; 3], descending: bool, out: &mut [u32]) {
    assert!(
        x.len() == outer * len * inner && out.len() == x.len(),
        "{outer} x {len} x {inner} elements"
    );
    if x.is_empty() {
        return;
    }
    let mut lanes = vec![T::Packed::default(); x.len()];
    groups(&mut lanes, len, sorting(x.len(), len), |first, part| {
        for (i, lane) in part.chunks_exact_mut(len).enumerate() {
            let (block, column) = ((first + i) / inner, (first + i) % inner);
            let from = x[block * len * inner + column..].iter().step_by(inner);
            for (at, (to, x)) in lane.iter_mut().zip(from).enumerate() {
                if at % PART == 0 {
                    spend(4 * PART as u64);
                }
                *to = x.pack(descending, at as u32);
            }
            sort(lane);
        }
    });
    unpack::<T>(&lanes, [outer, len, inner], out);
}

/// Indices of lanes `[outer, inner, len]` as `[outer, len, inner]`.
fn unpack<T: Rank>(lanes: &[T::Packed], [outer, len, inner]: [usize; 3], out: &mut [u32]) {
    let unit = len * inner;
    groups(out, unit, (outer * unit) as u64, |first, part| {
        for (i, block) in part.chunks_exact_mut(unit).enumerate() {
            let lanes = &lanes[(first + i) * unit..][..unit];
            for (column, lane) in lanes.chunks_exact(len).enumerate() {
                spend(lane.len() as u64);
                let to = block[column..].iter_mut().step_by(inner);
                to.zip(lane).for_each(|(to, packed)| *to = T::index(*packed));
            }
        }
    });
}

/// How many elements [`first`] keeps at once.
pub const fn room(k: usize, len: usize) -> usize {
    let room = 2 * k + 256;
    if room < len { room } else { len }
}

/// The first `k` of elements in their order, sorted. `kept` is cleared, and grows to [`room`] elements at most.
pub(crate) fn first<T: Rank>(
    elements: impl ExactSizeIterator<Item = T>,
    k: usize,
    descending: bool,
    kept: &mut Vec<T::Packed>,
) {
    kept.clear();
    let k = k.min(elements.len());
    if k == 0 {
        return;
    }
    let room = room(k, elements.len());
    kept.reserve_exact(room);
    // What comes after it is not among the first.
    let mut last: Option<T::Packed> = None;
    for (at, element) in elements.enumerate() {
        if at % PART == 0 {
            spend(PART as u64);
        }
        let packed = element.pack(descending, at as u32);
        if last.is_some_and(|last| packed > last) {
            continue;
        }
        if kept.len() == room {
            kept.select_nth_unstable(k - 1);
            kept.truncate(k);
            last = Some(kept[k - 1]);
            if kept[k - 1] < packed {
                continue;
            }
        }
        kept.push(packed);
    }
    if kept.len() > k {
        kept.select_nth_unstable(k - 1);
        kept.truncate(k);
    }
    sort(kept);
}

/// Sorts, and looks now and then whether to stop if that takes long. A comparison that looks costs a third more.
fn sort<T: Ord>(lane: &mut [T]) {
    if lane.len() < 16 * PART {
        spend(sorting(lane.len(), lane.len()));
        lane.sort_unstable();
    } else {
        lane.sort_unstable_by(|a, b| {
            spend(2);
            a.cmp(b)
        });
    }
}

/// The indices of the first `k` elements of x `[outer, len, inner]` along `len`, in their order, into `out` `[outer, k, inner]`.
/// Allocates 8 bytes (16 for i64) for each output, and for [`room`] elements in each of at most [`WORKERS`](crate::groups::WORKERS)
/// tasks.
///
/// # Panics
/// If a slice has not as many elements as that takes, or `k` is more than `len`.
pub fn topk<T: Rank>(x: &[T], [outer, len, inner]: [usize; 3], k: usize, largest: bool, out: &mut [u32]) {
    assert!(
        k <= len && x.len() == outer * len * inner,
        "{k} of {outer} x {len} x {inner} elements"
    );
    assert_eq!(out.len(), outer * k * inner, "the output is {outer} x {k} x {inner}");
    if out.is_empty() {
        return;
    }
    let mut lanes = vec![T::Packed::default(); out.len()];
    let work = x.len() as u64 + sorting(out.len(), k);
    groups(&mut lanes, k, work, |at, part| {
        let mut kept = Vec::new();
        for (i, lane) in part.chunks_exact_mut(k).enumerate() {
            let (block, column) = ((at + i) / inner, (at + i) % inner);
            let block = &x[block * len * inner..][..len * inner];
            if inner == 1 {
                first(block.iter().copied(), k, largest, &mut kept);
            } else {
                first((0..len).map(|i| block[i * inner + column]), k, largest, &mut kept);
            }
            lane.copy_from_slice(&kept);
        }
    });
    unpack::<T>(&lanes, [outer, k, inner], out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_a_number_comes_last_and_equals_keep_their_order() {
        let x = [
            1.0,
            f32::NAN,
            -0.0,
            0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            -f32::NAN,
            1.0,
        ];
        let mut out = [0; 8];
        argsort(&x, [1, 8, 1], false, &mut out);
        assert_eq!(out, [5, 2, 3, 0, 7, 4, 1, 6]);
        argsort(&x, [1, 8, 1], true, &mut out);
        assert_eq!(out, [4, 0, 7, 2, 3, 5, 1, 6]);
    }

    #[test]
    fn the_first_few_are_those_of_the_whole_order() {
        let mut state = 9_u32;
        let x: Vec<f32> = (0..20_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 22) as f32
            })
            .collect();
        let mut all = vec![0; x.len()];
        for largest in [false, true] {
            argsort(&x, [1, x.len(), 1], largest, &mut all);
            for k in [1, 2, 50, 1000, 20_000] {
                let mut few = vec![0; k];
                topk(&x, [1, x.len(), 1], k, largest, &mut few);
                assert_eq!(few, all[..k]);
            }
        }
        // Along a dimension that is not the last.
        let (mut all, mut few) = (vec![0; x.len()], vec![0; 10 * 20 * 50]);
        argsort(&x, [10, 40, 50], true, &mut all);
        topk(&x, [10, 40, 50], 20, true, &mut few);
        for block in 0..10 {
            assert_eq!(few[block * 1000..][..1000], all[block * 2000..][..1000]);
        }
    }
}
