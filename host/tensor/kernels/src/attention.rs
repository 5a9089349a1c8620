//! Attention in one pass over the keys, block by block, with a running softmax: scores are never held for all keys at once.
//!
//! Source: Dao et al., "FlashAttention" (2022); Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018). Heads that
//! share keys (grouped-query attention, Ainslie et al., 2023) read them where they are: nothing is repeated.

use std::cell::RefCell;

use crate::gemm::{MR, NR, Shared, tile, tiles};
use crate::kv::{PAGE, Page};
use crate::math;
use crate::parallel;
use crate::simd::multiversion;
use crate::stop::spend;

/// Keys of a block.
const BLOCK: usize = 256;

/// Queries of one task.
const QUERIES: usize = 96;

/// Vectors of some heads at some places in time: where element `[batch, time, head, 0]` lies, in elements. The elements of a vector
/// lie one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// What the places count in.
    pub data: &'a [f32],
    /// From one item of the batch to the next.
    pub batch: usize,
    /// From one place in time to the next.
    pub time: usize,
    /// From one head to the next.
    pub head: usize,
}

impl<'a> Rows<'a> {
    /// Row-major `[batch, time, heads, width]`.
    pub fn dense(data: &'a [f32], time: usize, heads: usize, width: usize) -> Self {
        Self {
            data,
            batch: time * heads * width,
            time: heads * width,
            head: width,
        }
    }

    fn at(&self, batch: usize, time: usize, head: usize) -> usize {
        batch * self.batch + time * self.time + head * self.head
    }

    fn check(&self, what: &str, batch: usize, time: usize, heads: usize, width: usize) {
        if batch * time * heads * width > 0 {
            let last = self.at(batch - 1, time - 1, heads - 1) + width;
            assert!(
                last <= self.data.len(),
                "{what} has {} elements, not {last}",
                self.data.len()
            );
        }
    }
}

/// Where keys and values are.
#[derive(Clone, Copy, Debug)]
pub enum Memory<'a> {
    /// Two tensors.
    Rows {
        /// `[batch, keys, kv heads, width]`.
        keys: Rows<'a>,
        /// `[batch, keys, kv heads, value width]`.
        values: Rows<'a>,
    },
    /// Pages of a cache, of a batch of one.
    Pages(&'a [&'a Page]),
}

/// Numbers added to the scores: element `[batch, head, query, key]` at the sum of the strides, each of which may be 0.
#[derive(Clone, Copy, Debug)]
pub struct Bias<'a> {
    /// What the strides count in.
    pub data: &'a [f32],
    /// Of batch, head, query and key.
    pub strides: [usize; 4],
}

/// Sizes and options.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Items of the batch.
    pub batch: usize,
    /// Queries of each item.
    pub queries: usize,
    /// Keys of each item.
    pub keys: usize,
    /// Heads of the queries; a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of the keys and values.
    pub kv_heads: usize,
    /// Elements of a query and of a key.
    pub width: usize,
    /// Elements of a value.
    pub value_width: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`; 0 is off.
    pub cap: f32,
    /// Whether a query sees only keys up to its own place; the last query is at the last key.
    pub causal: bool,
    /// How many keys up to its own place a query sees at most; 0 is all. Only with `causal`.
    pub window: usize,
    /// Added to the scores after scale and cap.
    pub bias: Option<Bias<'a>>,
}

/// What a thread needs beside the output: a block of packed keys and values, and the scores of a task against it.
#[derive(Default)]
struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Bytes that each thread keeps for attention over vectors of these widths.
pub fn scratch_bytes(width: u64, value_width: u64) -> u64 {
    4 * BLOCK as u64 * (width + value_width.next_multiple_of(NR as u64) + QUERIES as u64)
}

/// `out[batch, query, head] = sum over keys of softmax(scale * query . key + bias) * value`: `[batch, queries, heads, value width]`,
/// row-major. A query that sees nothing gets zeros. Each thread keeps [`scratch_bytes`].
///
/// # Panics
/// If something is smaller than the sizes say, or `heads` is no multiple of `kv_heads`.
pub fn attention(a: &Attention<'_>, queries: Rows<'_>, memory: Memory<'_>, out: &mut [f32]) {
    assert!(
        a.kv_heads > 0 && a.heads.is_multiple_of(a.kv_heads),
        "{} heads on {}",
        a.heads,
        a.kv_heads
    );
    assert_eq!(
        out.len(),
        a.batch * a.queries * a.heads * a.value_width,
        "the output's elements"
    );
    queries.check("q", a.batch, a.queries, a.heads, a.width);
    match memory {
        Memory::Rows { keys, values } => {
            keys.check("k", a.batch, a.keys, a.kv_heads, a.width);
            values.check("v", a.batch, a.keys, a.kv_heads, a.value_width);
        }
        Memory::Pages(pages) => {
            assert!(
                a.batch == 1 && a.keys <= pages.len() * PAGE,
                "the pages hold {} keys",
                a.keys
            );
            let fit = |page: &&Page| page.fits(a.kv_heads, a.width, a.value_width);
            assert!(pages.iter().all(fit), "the pages are of other sizes");
        }
    }
    if let Some(bias) = &a.bias {
        let ends = [a.batch, a.heads, a.queries, a.keys];
        if ends.iter().all(|end| *end > 0) {
            let last: usize = bias
                .strides
                .iter()
                .zip(ends)
                .map(|(stride, end)| stride * (end - 1))
                .sum();
            assert!(
                last < bias.data.len(),
                "the bias has {} elements, not {}",
                bias.data.len(),
                last + 1
            );
        }
    }
    if a.keys == 0 {
        out.fill(0.0);
        return;
    }
    if out.is_empty() {
        return;
    }
    let parts = a.queries.div_ceil(QUERIES);
    let tasks = a.batch * a.kv_heads * parts;
    let seen = if a.causal && a.queries > 1 {
        a.keys - a.queries.min(a.keys) / 2
    } else {
        a.keys
    };
    let work = (a.batch * a.heads * a.queries * seen * (a.width + a.value_width + 8)) as u64 / 24;
    let target = Shared(out.as_mut_ptr());
    parallel(tasks, work, |task| {
        let part = task % parts;
        let (item, kv_head) = (task / parts / a.kv_heads, task / parts % a.kv_heads);
        let first = part * QUERIES;
        let last = a.queries.min(first + QUERIES);
        SCRATCH.with_borrow_mut(|scratch| {
            let piece = Piece {
                a,
                queries,
                memory,
                item,
                kv_head,
                first,
                last,
            };
            // SAFETY: the output has a place for each query of each head; no other task has these queries of these heads.
            unsafe { piece.run(scratch, target) };
        });
    });
}

/// Some queries of the heads that share one head of keys.
struct Piece<'a> {
    a: &'a Attention<'a>,
    queries: Rows<'a>,
    memory: Memory<'a>,
    item: usize,
    kv_head: usize,
    first: usize,
    last: usize,
}

impl Piece<'_> {
    /// The keys that a query sees.
    fn seen(&self, query: usize) -> (usize, usize) {
        let a = self.a;
        if !a.causal {
            return (0, a.keys);
        }
        // The last query is at the last key; with more queries than keys the first see nothing.
        let end = (a.keys + query + 1).saturating_sub(a.queries);
        let start = if a.window == 0 { 0 } else { end.saturating_sub(a.window) };
        (start, end)
    }

    /// # Safety
    /// `out` must have a place for each query of each head, and nobody else may touch this piece's.
    unsafe fn run(&self, scratch: &mut Scratch, out: Shared) {
        let a = self.a;
        let group = a.heads / a.kv_heads;
        let count = self.last - self.first;
        let panels = a.value_width.div_ceil(NR);
        let block = match self.memory {
            Memory::Rows { .. } => BLOCK,
            Memory::Pages(_) => PAGE,
        };
        scratch.scores.resize(MR.max(count) * block, 0.0);
        // The running maximum and sum of each query of each head.
        let mut running = vec![(f32::NEG_INFINITY, 0.0_f32); count * group];
        let from = self.seen(self.first).0 / block * block;
        let end = self.seen(self.last - 1).1;
        let mut fresh = true;
        for start in (from..end).step_by(block) {
            let len = block.min(end - start);
            spend((group * count * len * (a.width + a.value_width + 8)) as u64 / 24);
            let padded = len.next_multiple_of(NR);
            let (keys, values): (&[f32], &[f32]) = match self.memory {
                Memory::Rows { keys, values } => {
                    pack_keys(
                        &keys,
                        keys.at(self.item, start, self.kv_head),
                        len,
                        a.width,
                        &mut scratch.keys,
                    );
                    let at = values.at(self.item, start, self.kv_head);
                    pack_values(&values, at, len, block, a.value_width, &mut scratch.values);
                    (&scratch.keys, &scratch.values)
                }
                Memory::Pages(pages) => {
                    let page = pages[start / PAGE];
                    (page.keys(self.kv_head), page.values(self.kv_head))
                }
            };
            for in_group in 0..group {
                let head = self.kv_head * group + in_group;
                for (row, height) in tiles(count) {
                    let query = self.first + row;
                    // What the last of these rows sees bounds what the others do.
                    let (_, most) = self.seen(query + height - 1);
                    if most <= start && !fresh {
                        continue;
                    }
                    let wide = padded.min(most.saturating_sub(start).next_multiple_of(NR));
                    let left = &self.queries.data[self.queries.at(self.item, query, head)..];
                    for panel in 0..wide / NR {
                        let right = &keys[panel * NR * a.width..][..NR * a.width];
                        // SAFETY: `check` has seen to the rows; the panel has `width` rows; the scores have room.
                        unsafe {
                            let to = scratch.scores.as_mut_ptr().add(row * block + panel * NR);
                            tile(
                                height,
                                a.width,
                                left.as_ptr(),
                                self.queries.time,
                                right.as_ptr(),
                                NR,
                                to,
                                block,
                                false,
                            );
                        }
                    }
                    for i in row..row + height {
                        let (low, high) = self.seen(self.first + i);
                        let visible =
                            low.saturating_sub(start).min(wide)..high.saturating_sub(start).min(len).min(wide);
                        let scores = &mut scratch.scores[i * block..][..wide];
                        let bias = a.bias.as_ref().map(|bias| {
                            let [b, h, q, k] = bias.strides;
                            let at = self.item * b + head * h + (self.first + i) * q + start * k;
                            (&bias.data[at..], k)
                        });
                        let state = &mut running[in_group * count + i];
                        let (maximum, total) = soften(scores, visible.start, visible.end, a.scale, a.cap, bias, *state);
                        if !fresh && maximum != state.0 {
                            let factor = if state.0 == f32::NEG_INFINITY {
                                0.0
                            } else {
                                math::exp(state.0 - maximum)
                            };
                            // SAFETY: as the caller promises.
                            let to = unsafe { self.output(out, i, head) };
                            scale(to, factor);
                        }
                        *state = (maximum, total);
                    }
                    // SAFETY: as the caller promises.
                    let to = unsafe { out.at(((self.item * a.queries + query) * a.heads + head) * a.value_width) };
                    let stride = a.heads * a.value_width;
                    let depth = wide.min(len);
                    for panel in 0..panels {
                        let right = &values[panel * block * NR..][..depth * NR];
                        let weights = scratch.scores[row * block..].as_ptr();
                        let width = NR.min(a.value_width - panel * NR);
                        // SAFETY: as above; a part of a panel goes by way of a whole one.
                        unsafe {
                            if width == NR {
                                tile(
                                    height,
                                    depth,
                                    weights,
                                    block,
                                    right.as_ptr(),
                                    NR,
                                    to.add(panel * NR),
                                    stride,
                                    !fresh,
                                );
                            } else {
                                let mut spare = [0.0_f32; MR * NR];
                                tile(
                                    height,
                                    depth,
                                    weights,
                                    block,
                                    right.as_ptr(),
                                    NR,
                                    spare.as_mut_ptr(),
                                    NR,
                                    false,
                                );
                                for i in 0..height {
                                    let to = std::slice::from_raw_parts_mut(to.add(i * stride + panel * NR), width);
                                    for (to, value) in to.iter_mut().zip(&spare[i * NR..]) {
                                        *to = if fresh { *value } else { *to + value };
                                    }
                                }
                            }
                        }
                    }
                }
            }
            fresh = false;
        }
        for in_group in 0..group {
            let head = self.kv_head * group + in_group;
            for i in 0..count {
                let (_, total) = running[in_group * count + i];
                // SAFETY: as the caller promises.
                let to = unsafe { self.output(out, i, head) };
                if total > 0.0 || total.is_nan() {
                    scale(to, 1.0 / total);
                } else {
                    to.fill(0.0);
                }
            }
        }
    }

    /// The output of a query of this piece.
    ///
    /// # Safety
    /// As for [`Piece::run`].
    unsafe fn output<'o>(&self, out: Shared, query: usize, head: usize) -> &'o mut [f32] {
        let a = self.a;
        let at = ((self.item * a.queries + self.first + query) * a.heads + head) * a.value_width;
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(out.at(at), a.value_width) }
    }
}

/// Keys as panels of columns: panel by panel, element by element, [`NR`] keys.
fn pack_keys(keys: &Rows<'_>, at: usize, len: usize, width: usize, panels: &mut Vec<f32>) {
    panels.resize(BLOCK * width, 0.0);
    for (panel, group) in panels.chunks_exact_mut((NR * width).max(1)).zip((0..len).step_by(NR)) {
        let count = NR.min(len - group);
        if count < NR {
            panel.fill(0.0);
        }
        for j in 0..count {
            let key = &keys.data[at + (group + j) * keys.time..][..width];
            for (i, value) in key.iter().enumerate() {
                panel[i * NR + j] = *value;
            }
        }
    }
}

/// Values as panels of columns: panel by panel, `block` rows of [`NR`] elements.
fn pack_values(values: &Rows<'_>, at: usize, len: usize, block: usize, width: usize, panels: &mut Vec<f32>) {
    panels.resize(block * width.next_multiple_of(NR), 0.0);
    for (panel, first) in panels.chunks_exact_mut(block * NR).zip((0..width).step_by(NR)) {
        let count = NR.min(width - first);
        for (j, row) in panel.chunks_exact_mut(NR).take(len).enumerate() {
            let value = &values.data[at + j * values.time + first..][..count];
            row[..count].copy_from_slice(value);
            row[count..].fill(0.0);
        }
    }
}

multiversion! {
    /// Scores become weights: those from `low` to `high` exponentials, the others 0. Takes and returns the maximum and the sum so far.
    fn soften(
        scores: &mut [f32],
        low: usize,
        high: usize,
        scale: f32,
        cap: f32,
        bias: Option<(&[f32], usize)>,
        state: (f32, f32),
    ) -> (f32, f32) {
        let high = high.max(low);
        scores[..low].fill(0.0);
        scores[high..].fill(0.0);
        let seen = &mut scores[low..high];
        if cap > 0.0 {
            seen.iter_mut().for_each(|x| *x = cap * math::tanh(*x * scale / cap));
        } else {
            seen.iter_mut().for_each(|x| *x *= scale);
        }
        match bias {
            Some((bias, 1)) => seen.iter_mut().zip(&bias[low..]).for_each(|(x, b)| *x += b),
            Some((bias, 0)) => {
                let bias = bias.first().copied().unwrap_or(0.0);
                seen.iter_mut().for_each(|x| *x += bias);
            }
            Some((bias, stride)) => {
                seen.iter_mut().zip(bias.iter().step_by(stride).skip(low)).for_each(|(x, b)| *x += b);
            }
            None => {}
        }
        let mut lanes = [f32::NEG_INFINITY; 16];
        let mut chunks = seen.chunks_exact(16);
        for chunk in &mut chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane = if *x > *lane { *x } else { *lane };
            }
        }
        let most = lanes.iter().chain(chunks.remainder()).fold(state.0, |a, b| if *b > a { *b } else { a });
        if most == f32::NEG_INFINITY {
            // Nothing is seen, or there is only not-a-number.
            let bad = seen.iter().any(|x| x.is_nan());
            seen.fill(if bad { f32::NAN } else { 0.0 });
            return (state.0, if bad { f32::NAN } else { state.1 });
        }
        let before = if state.0 == f32::NEG_INFINITY { 0.0 } else { state.1 * math::exp(state.0 - most) };
        let mut sums = [0.0_f32; 16];
        let mut chunks = seen.chunks_exact_mut(16);
        for chunk in &mut chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *x = math::exp_of_negative(*x - most);
                *sum += *x;
            }
        }
        let mut total = 0.0;
        for x in chunks.into_remainder() {
            *x = math::exp_of_negative(*x - most);
            total += *x;
        }
        (most, before + total + sums.iter().sum::<f32>())
    }
}

multiversion! {
    fn scale(values: &mut [f32], factor: f32) {
        values.iter_mut().for_each(|x| *x *= factor);
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
                (i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(7919)) >> 8) as f32 / (1 << 23) as f32
                    - 1.0
            })
            .collect()
    }

    /// As the definition says, in float64.
    fn reference(a: &Attention<'_>, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f64> {
        let mut out = Vec::new();
        let group = a.heads / a.kv_heads;
        for b in 0..a.batch {
            for t in 0..a.queries {
                for h in 0..a.heads {
                    let end = (a.keys + t + 1).saturating_sub(a.queries);
                    let scores: Vec<f64> = (0..a.keys)
                        .map(|j| {
                            let hidden = a.causal && (j >= end || (a.window > 0 && j + a.window < end));
                            if hidden {
                                return f64::NEG_INFINITY;
                            }
                            let query = &q[((b * a.queries + t) * a.heads + h) * a.width..][..a.width];
                            let key = &k[((b * a.keys + j) * a.kv_heads + h / group) * a.width..][..a.width];
                            let dot: f64 = query.iter().zip(key).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                            let mut score = dot * f64::from(a.scale);
                            if a.cap > 0.0 {
                                score = f64::from(a.cap) * (score / f64::from(a.cap)).tanh();
                            }
                            let bias = a.bias.map_or(0.0, |bias| {
                                let [sb, sh, sq, sk] = bias.strides;
                                f64::from(bias.data[b * sb + h * sh + t * sq + j * sk])
                            });
                            score + bias
                        })
                        .collect();
                    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores
                        .iter()
                        .map(|s| if most.is_finite() { (s - most).exp() } else { 0.0 })
                        .collect();
                    let total: f64 = weights.iter().sum();
                    for e in 0..a.value_width {
                        let sum: f64 = (0..a.keys)
                            .map(|j| {
                                weights[j]
                                    * f64::from(v[((b * a.keys + j) * a.kv_heads + h / group) * a.value_width + e])
                            })
                            .sum();
                        out.push(if total > 0.0 { sum / total } else { 0.0 });
                    }
                }
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(120))]
        #[test]
        fn attention_is_what_float64_says(
            batch in 1_usize..3, queries in 1_usize..40, more in 0_usize..400, kv_heads in 1_usize..3, group in 1_usize..4,
            width in 1_usize..70, value_width in 1_usize..70, causal: bool, window in 0_usize..50, capped: bool, biased in 0_u8..4, seed: u32,
        ) {
            let keys = if more % 7 == 0 { more / 7 } else { queries + more };
            let heads = kv_heads * group;
            let bias = numbers(batch * heads * queries * keys, 9);
            let strides = match biased {
                1 => Some([0, 0, 0, 1]),
                2 => Some([0, 0, keys, 1]),
                3 => Some([heads * queries * keys, queries * keys, keys, 1]),
                _ => None,
            };
            let mut a = Attention {
                batch, queries, keys, heads, kv_heads, width, value_width,
                scale: 0.3, cap: if capped { 5.0 } else { 0.0 }, causal, window: if causal { window } else { 0 },
                bias: strides.map(|strides| Bias { data: &bias, strides }),
            };
            if keys == 0 { a.bias = None; }
            let (q, k, v) = (
                numbers(batch * queries * heads * width, seed),
                numbers(batch * keys * kv_heads * width, seed ^ 5),
                numbers(batch * keys * kv_heads * value_width, seed ^ 77),
            );
            let mut out = vec![f32::NAN; batch * queries * heads * value_width];
            let rows = Memory::Rows {
                keys: Rows::dense(&k, keys, kv_heads, width),
                values: Rows::dense(&v, keys, kv_heads, value_width),
            };
            attention(&a, Rows::dense(&q, queries, heads, width), rows, &mut out);
            let expected = reference(&a, &q, &k, &v);
            for (got, want) in out.iter().zip(&expected) {
                prop_assert!((f64::from(*got) - want).abs() < 3e-5, "{got} {want}");
            }
            // The same out of a cache that was filled in two steps.
            if batch == 1 {
                let mut pages: Vec<Page> = (0..keys.div_ceil(PAGE)).map(|_| Page::new(kv_heads, width, value_width)).collect();
                for (j, (key, value)) in k.chunks_exact(kv_heads * width).zip(v.chunks_exact(kv_heads * value_width)).enumerate() {
                    for h in 0..kv_heads {
                        pages[j / PAGE].set_key(j % PAGE, h, &key[h * width..][..width]);
                        pages[j / PAGE].set_value(j % PAGE, h, &value[h * value_width..][..value_width]);
                    }
                }
                let pages: Vec<&Page> = pages.iter().collect();
                let mut paged = vec![f32::NAN; out.len()];
                attention(&a, Rows::dense(&q, queries, heads, width), Memory::Pages(&pages), &mut paged);
                for (got, want) in paged.iter().zip(&expected) {
                    prop_assert!((f64::from(*got) - want).abs() < 3e-5, "paged: {got} {want}");
                }
            }
        }
    }

    #[test]
    fn hidden_keys_are_never_read_into_the_result() {
        let (q, mut k, mut v) = (numbers(8, 1), numbers(16, 2), numbers(16, 3));
        let a = Attention {
            batch: 1,
            queries: 1,
            keys: 2,
            heads: 1,
            kv_heads: 1,
            width: 8,
            value_width: 8,
            scale: 1.0,
            cap: 0.0,
            causal: false,
            window: 0,
            bias: Some(Bias {
                data: &[0.0, f32::NEG_INFINITY],
                strides: [0, 0, 0, 1],
            }),
        };
        k[8..].fill(1e9);
        v[8..].fill(1e9);
        let mut out = vec![0.0; 8];
        let memory = Memory::Rows {
            keys: Rows::dense(&k, 2, 1, 8),
            values: Rows::dense(&v, 2, 1, 8),
        };
        attention(&a, Rows::dense(&q, 1, 1, 8), memory, &mut out);
        for (got, want) in out.iter().zip(&v) {
            assert!((got - want).abs() < 1e-6);
        }
    }
}
