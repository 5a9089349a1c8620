//! Elements picked, and put back, by indices along a dimension.

use crate::groups::groups;
use crate::stop::spend;

/// Elements of a long row that are gone through between two looks whether to stop.
const PART: usize = 4096;

/// How indices of one shape pick from an x of another: they agree in rank, and in no dimension but `dim` the ids reach further.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The dimensions of x.
    pub x: &'a [usize],
    /// The dimensions of the ids.
    pub ids: &'a [usize],
    /// The dimension that the ids are places of.
    pub dim: usize,
}

impl Places<'_> {
    /// Elements of a row of the ids.
    fn width(&self) -> usize {
        self.ids.last().copied().unwrap_or(1)
    }

    fn check(&self, x: usize, ids: usize) {
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        assert!(
            elements(self.x) == x && elements(self.ids) == ids,
            "{self:?} of {x} and {ids} elements"
        );
        let inside = |(i, (x, ids)): (usize, (&usize, &usize))| i == self.dim || ids <= x;
        assert!(
            self.dim < self.x.len()
                && self.x.len() == self.ids.len()
                && self.x.iter().zip(self.ids).enumerate().all(inside),
            "{self:?}"
        );
    }

    /// Calls a function with the place in x of each id in a row of the ids.
    fn row(&self, row: usize, ids: &[u32], mut f: impl FnMut(usize, usize)) {
        let last = self.x.len() - 1;
        let (mut base, mut rest, mut step, mut along) = (0, row, 1, 1);
        for axis in (0..=last).rev() {
            if axis == self.dim {
                along = step;
            }
            if axis != last {
                if axis != self.dim {
                    base += rest % self.ids[axis] * step;
                }
                rest /= self.ids[axis];
            }
            step *= self.x[axis];
        }
        let across = usize::from(self.dim != last);
        for (part, ids) in ids.chunks(PART).enumerate() {
            spend(2 * ids.len() as u64);
            for (i, id) in ids.iter().enumerate() {
                let i = part * PART + i;
                f(i, base + i * across + *id as usize * along);
            }
        }
    }
}

/// `out[.., i, ..] = x[.., ids[.., i, ..], ..]`; `out` has the shape of the ids.
///
/// # Panics
/// If a slice has not as many elements as that takes, or an id is past the dimension.
pub fn gather<T: Copy + Send + Sync>(x: &[T], ids: &[u32], places: Places<'_>, out: &mut [T]) {
    places.check(x.len(), ids.len());
    assert_eq!(out.len(), ids.len(), "the output has an element for each id");
    let width = places.width();
    if ids.is_empty() {
        return;
    }
    groups(out, width, 2 * ids.len() as u64, |first, part| {
        for (i, to) in part.chunks_exact_mut(width).enumerate() {
            let row = first + i;
            places.row(row, &ids[row * width..][..width], |at, place| to[at] = x[place]);
        }
    });
}

/// Calls `put` with each `x[.., ids[.., i, ..], ..]` and `src[.., i, ..]`, in row-major order of the ids.
///
/// # Panics
/// If a slice has not as many elements as that takes, or an id is past the dimension.
pub fn scatter<T: Copy>(x: &mut [T], ids: &[u32], src: &[T], places: Places<'_>, put: impl Fn(&mut T, T)) {
    places.check(x.len(), ids.len());
    assert_eq!(src.len(), ids.len(), "the source has an element for each id");
    let width = places.width().max(1);
    for (row, (ids, src)) in ids.chunks_exact(width).zip(src.chunks_exact(width)).enumerate() {
        places.row(row, ids, |at, place| put(&mut x[place], src[at]));
    }
}

/// Calls `put` with each element of place `ids[i]` of x `[outer, len, inner]` and of place `i` of src `[outer, ids, inner]`.
///
/// # Panics
/// If a slice has not as many elements as that takes, or an id is past the dimension.
pub fn index_add<T: Copy>(
    x: &mut [T],
    [outer, len, inner]: [usize; 3],
    ids: &[u32],
    src: &[T],
    put: impl Fn(&mut T, T),
) {
    assert_eq!(x.len(), outer * len * inner, "x is {outer} x {len} x {inner}");
    assert_eq!(
        src.len(),
        outer * ids.len() * inner,
        "the source is {outer} x {} x {inner}",
        ids.len()
    );
    for block in 0..outer {
        for (i, id) in ids.iter().enumerate() {
            spend(inner as u64 + 1);
            let to = &mut x[(block * len + *id as usize) * inner..][..inner];
            let from = &src[(block * ids.len() + i) * inner..][..inner];
            to.iter_mut().zip(from).for_each(|(to, from)| put(to, *from));
        }
    }
}

/// `out[p] = x[q]` where `q[d] = maps[d][p[d]]`, or `p[d]` where there is no map. Covers flips, rolls, repeats and paddings.
///
/// # Panics
/// If a slice has not as many elements as its shape says, or a map reaches past its dimension.
pub fn rearrange<T: Copy + Send + Sync>(
    x: &[T],
    x_shape: &[usize],
    maps: &[Option<Vec<u32>>],
    out: &mut [T],
    out_shape: &[usize],
) {
    let rank = out_shape.len();
    assert!(
        x_shape.len() == rank && maps.len() == rank,
        "{x_shape:?} to {out_shape:?}"
    );
    assert_eq!(x.len(), x_shape.iter().product::<usize>(), "x is {x_shape:?}");
    assert_eq!(
        out.len(),
        out_shape.iter().product::<usize>(),
        "the output is {out_shape:?}"
    );
    for ((from, to), map) in x_shape.iter().zip(out_shape).zip(maps) {
        let same = map.is_none() && from == to;
        assert!(
            same || map.as_ref().is_some_and(|map| map.len() == *to),
            "a map has an entry for each place"
        );
    }
    if out.is_empty() {
        return;
    }
    let work = out.len() as u64;
    // What follows the last mapped dimension moves as a whole.
    let Some(last) = maps.iter().rposition(Option::is_some) else {
        out.copy_from_slice(x);
        return;
    };
    let Some(map) = &maps[last] else { return };
    let block: usize = out_shape[last + 1..].iter().product();
    let unit = out_shape[last] * block;
    groups(out, unit, work, |first, part| {
        for (i, to) in part.chunks_exact_mut(unit).enumerate() {
            let (mut base, mut rest, mut step) = (0, first + i, x_shape[last] * block);
            for axis in (0..last).rev() {
                let place = rest % out_shape[axis];
                rest /= out_shape[axis];
                base += maps[axis].as_ref().map_or(place, |map| map[place] as usize) * step;
                step *= x_shape[axis];
            }
            let from = &x[base..][..x_shape[last] * block];
            if block == 1 {
                for (to, map) in to.chunks_mut(PART).zip(map.chunks(PART)) {
                    spend(map.len() as u64);
                    to.iter_mut().zip(map).for_each(|(to, at)| *to = from[*at as usize]);
                }
            } else {
                for (to, at) in to.chunks_exact_mut(block).zip(map) {
                    spend(block as u64 / 2);
                    to.copy_from_slice(&from[*at as usize * block..][..block]);
                }
            }
        }
    });
}

/// Matrices `[.., rows, columns]` with zeros where `column - row` is above a diagonal (`lower`), or below it.
///
/// # Panics
/// If `out` has not as many elements as `x`.
pub fn triangle<T: Copy + Send + Sync>(
    x: &[T],
    [rows, columns]: [usize; 2],
    diagonal: i64,
    lower: bool,
    zero: T,
    out: &mut [T],
) {
    assert_eq!(x.len(), out.len(), "the output is as large as x");
    if out.is_empty() {
        return;
    }
    groups(out, columns, x.len() as u64, |first, part| {
        for (i, to) in part.chunks_exact_mut(columns).enumerate() {
            let row = first + i;
            let from = &x[row * columns..][..columns];
            // The first column past the diagonal (below it, for the upper triangle).
            let edge = (row % rows) as i64 + diagonal + i64::from(lower);
            let edge = edge.clamp(0, columns as i64) as usize;
            let (kept, cut) = if lower {
                (0..edge, edge..columns)
            } else {
                (edge..columns, 0..edge)
            };
            to[kept.clone()].copy_from_slice(&from[kept]);
            to[cut].fill(zero);
        }
    });
}
