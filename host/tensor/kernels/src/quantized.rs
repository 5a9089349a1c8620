//! Weights in few bits, as GGUF files have them, and products with them without widening them first.
//!
//! Every format becomes one form: codes of 4 or 8 bits in blocks of 16 or 32 along the inner dimension, each block with a scale and an
//! offset, `weight = scale * code + offset`. The left side is rounded to 16 bits a block, in two halves of 8, so that the products
//! are of integers; llama.cpp and candle round it to 8, which changes what a small model says. Source of the formats: ggml's `ggml-common.h` and `ggml-quants.c`.

use std::cell::RefCell;

use half::f16;

use crate::gemm::{Epilogue, Shared};
use crate::lines::Lines;
use crate::parallel;
use crate::parts::Parts;
use crate::simd::multiversion;
use crate::stop::spend;

/// Rows of the weight (columns of the product) of a panel.
const ROWS: usize = 16;

/// Multiply-adds of one core in a nanosecond, about: with one row, reading the weight is what takes the time.
const RATE: u64 = 24;

/// A format of a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as ggml names them")]
pub enum Format {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
}

impl Format {
    /// Weights of a block in the file.
    pub const fn block(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Q8_1 => 32,
            _ => 256,
        }
    }

    /// Bytes of a block in the file.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q8_1 => 36,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Q8K => 292,
        }
    }

    /// As GGUF spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q8_1 => "Q8_1",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Q8K => "Q8_K",
        }
    }

    /// Whether codes fit 4 bits.
    const fn nibbles(self) -> bool {
        matches!(self, Self::Q4_0 | Self::Q4_1 | Self::Q4K | Self::Q2K | Self::Q3K)
    }

    /// Weights that share a scale.
    const fn group(self) -> usize {
        match self {
            Self::Q2K | Self::Q3K | Self::Q6K => 16,
            _ => 32,
        }
    }

    /// Whether scales and offsets are exact as f16.
    const fn half_scales(self) -> bool {
        matches!(
            self,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Q8_1
        )
    }

    /// The codes of a block, and a scale and an offset for each [`Format::group`] of them.
    fn unpack(self, block: &[u8], codes: &mut [u8], scales: &mut [(f32, f32)]) {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let signed = |byte: u8| byte ^ 0x80;
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => {
                let d = half(0);
                let (offset, rest) = match self {
                    Self::Q4_0 => (-8.0 * d, &block[2..]),
                    Self::Q5_0 => (-16.0 * d, &block[2..]),
                    _ => (half(2), &block[4..]),
                };
                scales[0] = (d, offset);
                let five = matches!(self, Self::Q5_0 | Self::Q5_1);
                let (high, low) = if five { rest.split_at(4) } else { (&[0; 4][..], rest) };
                let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
                for j in 0..16 {
                    codes[j] = low[j] & 15 | (((high >> j) & 1) << 4) as u8;
                    codes[j + 16] = low[j] >> 4 | (((high >> (j + 16)) & 1) << 4) as u8;
                }
            }
            Self::Q8_0 | Self::Q8_1 => {
                let d = half(0);
                scales[0] = (d, -128.0 * d);
                let bytes = &block[if self == Self::Q8_0 { 2 } else { 4 }..];
                codes
                    .iter_mut()
                    .zip(bytes)
                    .for_each(|(code, byte)| *code = signed(*byte));
            }
            Self::Q8K => {
                let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
                scales.fill((d, -128.0 * d));
                codes
                    .iter_mut()
                    .zip(&block[4..])
                    .for_each(|(code, byte)| *code = signed(*byte));
            }
            Self::Q2K => {
                let (d, least) = (half(80), half(82));
                for (scale, byte) in scales.iter_mut().zip(&block[..16]) {
                    *scale = (d * f32::from(byte & 15), -least * f32::from(byte >> 4));
                }
                for (i, code) in codes.iter_mut().enumerate() {
                    let (part, shift, l) = (i / 128, i % 128 / 32, i % 32);
                    *code = (block[16 + part * 32 + l] >> (2 * shift)) & 3;
                }
            }
            Self::Q3K => {
                let (mask, low, packed, d) = (&block[..32], &block[32..96], &block[96..108], half(108));
                for (i, scale) in scales.iter_mut().enumerate() {
                    let bits = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
                    let top = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
                    let value = d * (f32::from(bits | top << 4) - 32.0);
                    *scale = (value, -4.0 * value);
                }
                for (i, code) in codes.iter_mut().enumerate() {
                    let (part, shift, l) = (i / 128, i % 128 / 32, i % 32);
                    let bits = (low[part * 32 + l] >> (2 * shift)) & 3;
                    let top = (mask[l] >> (part * 4 + shift)) & 1;
                    *code = bits | top << 2;
                }
            }
            Self::Q4K | Self::Q5K => {
                let (d, least, packed) = (half(0), half(2), &block[4..16]);
                for (j, scale) in scales.iter_mut().enumerate() {
                    let (s, m) = if j < 4 {
                        (packed[j] & 63, packed[j + 4] & 63)
                    } else {
                        (
                            packed[j + 4] & 15 | packed[j - 4] >> 6 << 4,
                            packed[j + 4] >> 4 | packed[j] >> 6 << 4,
                        )
                    };
                    *scale = (d * f32::from(s), -least * f32::from(m));
                }
                let low = &block[if self == Self::Q4K { 16 } else { 48 }..];
                for (i, code) in codes.iter_mut().enumerate() {
                    let (j, l) = (i / 32, i % 32);
                    let byte = low[j / 2 * 32 + l];
                    *code = if j % 2 == 0 { byte & 15 } else { byte >> 4 };
                    if self == Self::Q5K {
                        *code |= ((block[16 + l] >> j) & 1) << 4;
                    }
                }
            }
            Self::Q6K => {
                let (low, high, packed, d) = (&block[..128], &block[128..192], &block[192..208], half(208));
                for (scale, byte) in scales.iter_mut().zip(packed) {
                    let value = d * f32::from(*byte as i8);
                    *scale = (value, -32.0 * value);
                }
                for (i, code) in codes.iter_mut().enumerate() {
                    let (part, quarter, l) = (i / 128, i % 128 / 32, i % 32);
                    let byte = low[part * 64 + quarter % 2 * 32 + l];
                    let bits = if quarter < 2 { byte & 15 } else { byte >> 4 };
                    let top = (high[part * 32 + l] >> (2 * quarter)) & 3;
                    *code = bits | top << 4;
                }
            }
        }
    }

    /// Bytes of a row of so many weights, if it is whole blocks.
    pub fn row_bytes(self, width: usize) -> Option<usize> {
        width
            .is_multiple_of(self.block())
            .then(|| width / self.block() * self.bytes())
    }

    /// Widens a row, or several, to f32.
    ///
    /// # Panics
    /// If `bytes` and `out` are not as many blocks.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(
            bytes.len() * self.block(),
            out.len() * self.bytes(),
            "blocks of {}",
            self.name()
        );
        let mut codes = [0_u8; 256];
        let mut scales = [(0.0_f32, 0.0_f32); 16];
        let (block, group) = (self.block(), self.group());
        for (bytes, out) in bytes.chunks_exact(self.bytes()).zip(out.chunks_exact_mut(block)) {
            self.unpack(bytes, &mut codes[..block], &mut scales[..block / group]);
            for ((out, codes), (scale, offset)) in
                out.chunks_exact_mut(group).zip(codes.chunks_exact(group)).zip(scales)
            {
                // Centred codes are exact, where the offset is a multiple of the scale.
                let centre = match self {
                    Self::Q4_0 => Some(8),
                    Self::Q5_0 => Some(16),
                    Self::Q8_0 | Self::Q8_1 | Self::Q8K => Some(128),
                    Self::Q3K => Some(4),
                    Self::Q6K => Some(32),
                    _ => None,
                };
                for (x, code) in out.iter_mut().zip(codes) {
                    *x = match centre {
                        Some(centre) => scale * (f32::from(*code) - centre as f32),
                        None => scale * f32::from(*code) + offset,
                    };
                }
            }
        }
    }
}

/// A right side `[k, n]` in few bits, in panels of 16 columns: panel by panel, block by block, the codes, four places of each column
/// together, and then scales and offsets of the columns, as f16 or f32.
#[derive(Debug)]
pub struct Quantized {
    k: usize,
    n: usize,
    /// Weights that share a scale.
    group: usize,
    nibbles: bool,
    /// Whether scales are f16.
    half: bool,
    data: Lines,
}

/// Bytes of a block: its codes, and all of it.
const fn block_bytes(group: usize, nibbles: bool, half: bool) -> (usize, usize) {
    let codes = ROWS * group / if nibbles { 2 } else { 1 };
    (codes, codes + 2 * ROWS * if half { 2 } else { 4 })
}

impl Quantized {
    /// From a weight `[n, k]` as a file has it: `n` rows of whole blocks. `None` if `k` is not whole blocks.
    ///
    /// # Panics
    /// If `bytes` are not as many as that takes.
    pub fn from_rows(format: Format, bytes: &[u8], n: usize, k: usize) -> Option<Self> {
        let row_bytes = format.row_bytes(k)?;
        assert_eq!(bytes.len(), n * row_bytes, "{n} rows of {k} in {}", format.name());
        let (group, nibbles, half) = (format.group(), format.nibbles(), format.half_scales());
        let panels = n.div_ceil(ROWS);
        let blocks = k / group;
        let (code_bytes, size) = block_bytes(group, nibbles, half);
        let mut data = Lines::zeroed(panels * blocks * size);
        if k > 0 && n > 0 {
            let parts = Parts::new(&mut data.bytes_mut()[..panels * blocks * size], blocks * size);
            parallel(panels, (n * k) as u64, |panel| {
                // SAFETY: each task takes its own part.
                let part = unsafe { parts.take(panel) };
                let mut row_codes = vec![0_u8; k];
                let mut row_scales = vec![(0.0, 0.0); blocks];
                for row in 0..ROWS.min(n - panel * ROWS) {
                    let bytes = &bytes[(panel * ROWS + row) * row_bytes..][..row_bytes];
                    let per_block = format.block() / group;
                    for (i, block) in bytes.chunks_exact(format.bytes()).enumerate() {
                        format.unpack(
                            block,
                            &mut row_codes[i * format.block()..][..format.block()],
                            &mut row_scales[i * per_block..][..per_block],
                        );
                    }
                    for (block, (scale, offset)) in part.chunks_exact_mut(size).zip(&row_scales) {
                        for (i, value) in [(row, *scale), (ROWS + row, *offset)] {
                            let to = &mut block[code_bytes..];
                            if half {
                                to[2 * i..2 * i + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
                            } else {
                                to[4 * i..4 * i + 4].copy_from_slice(&value.to_le_bytes());
                            }
                        }
                    }
                    for (i, code) in row_codes.iter().enumerate() {
                        let (b, place) = (i / group, i % group);
                        let fours = group / 4;
                        let (four, in_four) = (place / 4, place % 4);
                        let block = &mut part[b * size..][..code_bytes];
                        if nibbles {
                            // The later half of the fours lies in the upper four bits.
                            let at = four % (fours / 2) * 4 * ROWS + row * 4 + in_four;
                            block[at] |= code << if four < fours / 2 { 0 } else { 4 };
                        } else {
                            block[four * 4 * ROWS + row * 4 + in_four] = *code;
                        }
                    }
                }
            });
        }
        Some(Self {
            k,
            n,
            group,
            nibbles,
            half,
            data,
        })
    }

    /// How many bytes a packed `[k, n]` of a format takes.
    pub fn bytes_for(format: Format, n: u64, k: u64) -> u64 {
        let panels = n.div_ceil(ROWS as u64);
        let codes = if format.nibbles() { k / 2 } else { k };
        let scale = if format.half_scales() { 2 } else { 4 };
        let scales = (k / format.group() as u64).saturating_mul(2 * scale);
        panels
            .saturating_mul(ROWS as u64)
            .saturating_mul(codes.saturating_add(scales))
    }

    /// The inner dimension.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The columns.
    pub fn n(&self) -> usize {
        self.n
    }
}

/// Bytes that a product with `m` rows takes beside its output.
pub fn product_bytes(m: u64, k: u64) -> u64 {
    // The rounded left side, and a scale and a sum for each block of 16 at least.
    m.saturating_mul(k.saturating_mul(2).saturating_add(k.div_ceil(16).saturating_mul(8)))
}

/// The left side in 16 bits, block by block the upper halves and then the lower, with a scale and the scaled sum of each block.
#[derive(Default)]
struct Left {
    codes: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<f32>,
}

thread_local! {
    static LEFT: RefCell<Left> = RefCell::default();
}

/// The most bytes of a left side that a thread keeps for the next product.
const KEPT: usize = 1 << 20;

/// `out = epilogue(x * w)` for `x` `[m, k]`, `w` `[k, n]`, `out` `[m, n]`, row-major. Takes [`product_bytes`].
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn product(x: &[f32], m: usize, w: &Quantized, out: &mut [f32], epilogue: &Epilogue<'_>) {
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
    let blocks = k / w.group;
    let mut left = LEFT.take();
    left.codes.resize(2 * m * k, 0);
    left.scales.resize(m * blocks, 0.0);
    left.sums.resize(m * blocks, 0.0);
    if blocks > 0 {
        let (codes, scales, sums) = (
            Parts::new(&mut left.codes, 2 * k),
            Parts::new(&mut left.scales, blocks),
            Parts::new(&mut left.sums, blocks),
        );
        parallel(m, (m * k) as u64 / 4, |row| {
            // SAFETY: each task takes its own parts.
            let (codes, scales, sums) = unsafe { (codes.take(row), scales.take(row), sums.take(row)) };
            round(&x[row * k..][..k], w.group, codes, scales, sums);
        });
    }
    let panels = n.div_ceil(ROWS);
    let target = Shared(out.as_mut_ptr());
    let threads = crate::team::team().threads();
    let tasks = (8 * threads).min(panels);
    parallel(tasks, (m * k * n) as u64 / RATE, |task| {
        for panel in task * panels / tasks..(task + 1) * panels / tasks {
            let column = panel * ROWS;
            let width = ROWS.min(n - column);
            let mut row = 0;
            while row < m {
                let height = if m - row >= HEIGHT { HEIGHT } else { 1 };
                spend((height * k * ROWS) as u64 / RATE);
                let mut tile = [0.0_f32; HEIGHT * ROWS];
                dot(w, panel, &left, row, height, &mut tile);
                for (i, values) in tile.chunks_exact(ROWS).take(height).enumerate() {
                    let at = (row + i) * n + column;
                    // SAFETY: inside the output; no other task has these columns.
                    let piece = unsafe { std::slice::from_raw_parts_mut(target.at(at), width) };
                    piece.copy_from_slice(&values[..width]);
                    epilogue.finish(piece, column, at);
                }
                row += height;
            }
        }
    });
    if left.codes.capacity() <= KEPT {
        LEFT.set(left);
    }
}

/// The largest value of 16 bits whose upper half is at most 127 when the lower is from -128 to 127.
const LARGEST: f32 = 32512.0;

multiversion! {
    /// Rounds a row to 16 bits, block by block: `code = 256 * upper + lower`.
    fn round(x: &[f32], group: usize, codes: &mut [i8], scales: &mut [f32], sums: &mut [f32]) {
        let blocks = x.chunks_exact(group).zip(codes.chunks_exact_mut(2 * group));
        for ((x, codes), (scale, sum)) in blocks.zip(scales.iter_mut().zip(sums)) {
            let mut lanes = [0.0_f32; 16];
            for chunk in x.chunks_exact(16) {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *lane = if x.abs() > *lane { x.abs() } else { *lane };
                }
            }
            let most = lanes.iter().copied().fold(0.0, f32::max);
            // Not-a-number and infinity stay what they are.
            let poison: f32 = x.iter().map(|x| x * 0.0).sum();
            let factor = if most > 0.0 && most.is_finite() { LARGEST / most } else { 0.0 };
            let mut total = 0_i32;
            let (upper, lower) = codes.split_at_mut(group);
            for ((upper, lower), x) in upper.iter_mut().zip(lower).zip(x) {
                // Adding 1.5 * 2^23 rounds to an integer.
                let code = ((x * factor + 12_582_912.0) - 12_582_912.0) as i32;
                *upper = ((code + 128) >> 8) as i8;
                *lower = code as i8;
                total += code;
            }
            *scale = most / LARGEST + poison;
            *sum = *scale * total as f32;
        }
    }
}

/// Rows of the left side that go together.
const HEIGHT: usize = 4;

/// One panel by some rows: `[height, 16]`.
fn dot(w: &Quantized, panel: usize, left: &Left, row: usize, height: usize, out: &mut [f32; HEIGHT * ROWS]) {
    let blocks = w.k / w.group;
    let (_, size) = block_bytes(w.group, w.nibbles, w.half);
    let right = &w.data.bytes()[panel * blocks * size..][..blocks * size];
    let rows = Rows {
        codes: &left.codes[2 * row * w.k..][..2 * height * w.k],
        scales: &left.scales[row * blocks..][..height * blocks],
        sums: &left.sums[row * blocks..][..height * blocks],
    };
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512vnni") && crate::simd::level() == crate::simd::Level::V4 {
        macro_rules! cases {
            ($($height:literal $group:literal $nibbles:literal $half:literal)*) => {
                match (height, w.group, w.nibbles, w.half) {
                    // SAFETY: this processor has the features; the slices are as long as the sizes say.
                    $(($height, $group, $nibbles, $half) => return unsafe {
                        x86::vnni::<$height, $group, $nibbles, $half>(blocks, right, &rows, out)
                    },)*
                    _ => {}
                }
            };
        }
        cases!(1 32 true true 1 32 true false 1 32 false true 1 32 false false 1 16 true false 1 16 false false
            4 32 true true 4 32 true false 4 32 false true 4 32 false false 4 16 true false 4 16 false false);
    }
    portable((w.group, w.nibbles, w.half), right, &rows, height, out);
}

/// Rows of the left side.
#[derive(Clone, Copy)]
struct Rows<'a> {
    codes: &'a [i8],
    scales: &'a [f32],
    sums: &'a [f32],
}

multiversion! {
    /// The panel where there is nothing better.
    fn portable(
        form: (usize, bool, bool),
        right: &[u8],
        rows: &Rows<'_>,
        height: usize,
        out: &mut [f32; HEIGHT * ROWS],
    ) {
        let (group, nibbles, half) = form;
        let fours = group / 4;
        let (code_bytes, size) = block_bytes(group, nibbles, half);
        let blocks = right.len() / size;
        for (b, block) in right.chunks_exact(size).enumerate() {
            let (block, packed) = block.split_at(code_bytes);
            let mut scales = [0.0_f32; 2 * ROWS];
            if half {
                let each = scales.iter_mut().zip(packed.as_chunks::<2>().0);
                each.for_each(|(x, bits)| *x = f16::from_le_bytes(*bits).to_f32());
            } else {
                let each = scales.iter_mut().zip(packed.as_chunks::<4>().0);
                each.for_each(|(x, bits)| *x = f32::from_le_bytes(*bits));
            }
            let mut codes = [0_u8; 32 * ROWS];
            if nibbles {
                let (low, high) = codes[..group * ROWS].split_at_mut(code_bytes);
                for ((low, high), byte) in low.iter_mut().zip(high).zip(block) {
                    (*low, *high) = (byte & 15, byte >> 4);
                }
            } else {
                codes[..code_bytes].copy_from_slice(block);
            }
            for i in 0..height {
                let x = &rows.codes[(i * blocks + b) * 2 * group..][..2 * group];
                let mut sums = [0_i32; ROWS];
                for four in 0..fours {
                    let codes = &codes[four * 4 * ROWS..][..4 * ROWS];
                    for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(4)) {
                        let (upper, lower) = (&x[four * 4..], &x[group + four * 4..]);
                        for ((code, upper), lower) in codes.iter().zip(upper).zip(lower) {
                            *sum += i32::from(*code) * (256 * i32::from(*upper) + i32::from(*lower));
                        }
                    }
                }
                let (scale, total) = (rows.scales[i * blocks + b], rows.sums[i * blocks + b]);
                for (j, sum) in sums.iter().enumerate() {
                    out[i * ROWS + j] += scales[j] * (scale * *sum as f32) + scales[ROWS + j] * total;
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The panel with integer products of four places at a time.

    use std::arch::x86_64::*;

    use super::{HEIGHT, ROWS, Rows, block_bytes};

    /// How far ahead the right side is fetched.
    const AHEAD: usize = 2560;

    /// # Safety
    /// The processor must have the features; the slices must be `blocks` blocks long, those of `rows` for `H` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
    pub(super) unsafe fn vnni<const H: usize, const GROUP: usize, const NIBBLES: bool, const HALF: bool>(
        blocks: usize,
        right: &[u8],
        rows: &Rows<'_>,
        out: &mut [f32; HEIGHT * ROWS],
    ) {
        let fours = GROUP / 4;
        let (code_bytes, size) = const { block_bytes(GROUP, NIBBLES, HALF) };
        let mask = _mm512_set1_epi8(15);
        let mut sums = [_mm512_setzero_ps(); H];
        let mut codes = right.as_ptr();
        // SAFETY: as the caller promises; prefetching reads nothing.
        unsafe {
            for b in 0..blocks {
                for line in 0..size / 64 {
                    _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD + 64 * line).cast());
                }
                let packed = codes.add(code_bytes);
                let (scale, offset) = if HALF {
                    (
                        _mm512_cvtph_ps(_mm256_loadu_si256(packed.cast())),
                        _mm512_cvtph_ps(_mm256_loadu_si256(packed.add(2 * ROWS).cast())),
                    )
                } else {
                    let packed = packed.cast::<f32>();
                    (_mm512_loadu_ps(packed), _mm512_loadu_ps(packed.add(ROWS)))
                };
                let mut right = [_mm512_setzero_si512(); 8];
                if NIBBLES {
                    for four in 0..fours / 2 {
                        let both = _mm512_loadu_si512(codes.add(four * 64).cast());
                        right[four] = _mm512_and_si512(both, mask);
                        right[fours / 2 + four] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask);
                    }
                } else {
                    for (four, right) in right.iter_mut().take(fours).enumerate() {
                        *right = _mm512_loadu_si512(codes.add(four * 64).cast());
                    }
                }
                codes = codes.add(size);
                for (i, sum) in sums.iter_mut().enumerate() {
                    let x = rows.codes.as_ptr().add((i * blocks + b) * 2 * GROUP).cast::<i32>();
                    // Four chains, so that one waits less for the other.
                    let mut sums = [_mm512_setzero_si512(); 4];
                    for four in 0..fours / 2 {
                        for (j, sum) in sums.iter_mut().enumerate() {
                            let place = 2 * four + j % 2;
                            let x = _mm512_set1_epi32(x.add(place + j / 2 * fours).read_unaligned());
                            *sum = _mm512_dpbusd_epi32(*sum, right[place], x);
                        }
                    }
                    let upper = _mm512_slli_epi32::<8>(_mm512_add_epi32(sums[0], sums[1]));
                    let lower = _mm512_add_epi32(sums[2], sums[3]);
                    let dots = _mm512_cvtepi32_ps(_mm512_add_epi32(upper, lower));
                    let at = i * blocks + b;
                    let factor = _mm512_mul_ps(scale, _mm512_set1_ps(*rows.scales.get_unchecked(at)));
                    *sum = _mm512_fmadd_ps(factor, dots, *sum);
                    *sum = _mm512_fmadd_ps(offset, _mm512_set1_ps(*rows.sums.get_unchecked(at)), *sum);
                }
            }
            for (i, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(out.as_mut_ptr().add(i * ROWS), *sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ALL: [Format; 12] = [
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q8_1,
        Format::Q2K,
        Format::Q3K,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
        Format::Q8K,
    ];

    /// Blocks of random codes with scales of about 1 / 100.
    fn blocks(format: Format, count: usize, seed: u32) -> Vec<u8> {
        let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as u8
        };
        let half = f16::from_f32(0.01).to_le_bytes();
        let mut all = Vec::new();
        for _ in 0..count {
            let mut block: Vec<u8> = (0..format.bytes()).map(|_| next()).collect();
            let places: &[usize] = match format {
                Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
                Format::Q4_1 | Format::Q5_1 | Format::Q8_1 | Format::Q4K | Format::Q5K => &[0, 2],
                Format::Q2K => &[80, 82],
                Format::Q3K => &[108],
                Format::Q6K => &[208],
                Format::Q8K => &[],
            };
            for at in places {
                block[*at..at + 2].copy_from_slice(&half);
            }
            if format == Format::Q8K {
                block[..4].copy_from_slice(&0.01_f32.to_le_bytes());
            }
            all.extend(block);
        }
        all
    }

    #[test]
    fn products_are_those_of_the_widened_weights() {
        for format in ALL {
            for (m, n, k) in [(1, 16, 256), (3, 20, 512), (9, 33, 256), (4, 1, 768), (38, 64, 1536)] {
                let bytes = blocks(format, n * k / format.block(), m as u32);
                let mut wide = vec![0.0; n * k];
                format.dequantize(&bytes, &mut wide);
                let packed = Quantized::from_rows(format, &bytes, n, k).unwrap();
                let x: Vec<f32> = (0..m * k).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * 0.7).collect();
                let bias: Vec<f32> = (0..n).map(|j| j as f32 * 0.1).collect();
                let mut out = vec![f32::NAN; m * n];
                let epilogue = Epilogue {
                    bias: Some(&bias),
                    ..Epilogue::default()
                };
                product(&x, m, &packed, &mut out, &epilogue);
                let group = format.group();
                for i in 0..m {
                    for j in 0..n {
                        let mut sum = f64::from(bias[j]);
                        let mut size = 0.0;
                        for b in 0..k / group {
                            let x = &x[i * k + b * group..][..group];
                            for (p, x) in x.iter().enumerate() {
                                let term = f64::from(*x) * f64::from(wide[j * k + b * group + p]);
                                sum += term;
                                size += term.abs();
                            }
                        }
                        let got = f64::from(out[i * n + j]);
                        // Offsets of 128 scales cancel: the error is that of terms so much larger.
                        assert!(
                            (got - sum).abs() < 2e-5 * (size + 1.0),
                            "{format:?} {m} {n} {k}: {got} {sum}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn portable_and_vector_kernels_agree() {
        for format in ALL {
            let (n, k, m) = (16, 512, HEIGHT);
            let packed = Quantized::from_rows(format, &blocks(format, n * k / format.block(), 3), n, k).unwrap();
            let count = k / packed.group;
            let mut left = Left {
                codes: vec![0; 2 * m * k],
                scales: vec![0.0; m * count],
                sums: vec![0.0; m * count],
            };
            for i in 0..m {
                let x: Vec<f32> = (0..k).map(|p| ((p * (i + 3)) as f32).sin()).collect();
                round(
                    &x,
                    packed.group,
                    &mut left.codes[2 * i * k..][..2 * k],
                    &mut left.scales[i * count..][..count],
                    &mut left.sums[i * count..][..count],
                );
            }
            let (mut a, mut b) = ([0.0; HEIGHT * ROWS], [0.0; HEIGHT * ROWS]);
            dot(&packed, 0, &left, 0, m, &mut a);
            let rows = Rows {
                codes: &left.codes,
                scales: &left.scales,
                sums: &left.sums,
            };
            let (_, size) = block_bytes(packed.group, packed.nibbles, packed.half);
            let form = (packed.group, packed.nibbles, packed.half);
            portable(form, &packed.data.bytes()[..count * size], &rows, m, &mut b);
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{format:?}: {a} {b}");
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_so() {
        let format = Format::Q8_0;
        let packed = Quantized::from_rows(format, &blocks(format, 16, 1), 16, 32).unwrap();
        let mut x = [0.5_f32; 32];
        x[7] = f32::NAN;
        let mut out = [0.0; 16];
        product(&x, 1, &packed, &mut out, &Epilogue::default());
        assert!(out.iter().all(|x| x.is_nan()));
        assert!(Quantized::from_rows(format, &[], 0, 33).is_none(), "not whole blocks");
    }
}
