//! Short-time Fourier transforms, and signals made of them.

use crate::fft::{Complex, LANES, RealFft};
use crate::gemm::Shared;
use crate::groups::{WORKERS, groups};
use crate::parallel;
use crate::stop::spend;

/// How a signal is cut into frames.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Elements of a frame.
    pub n_fft: usize,
    /// Elements from the beginning of a frame to that of the next; at least 1.
    pub hop: usize,
    /// Whether the first frame has the signal's first element in its middle.
    pub center: bool,
    /// Whether transforms are divided by the square root of `n_fft`.
    pub normalized: bool,
    /// Frames of a signal.
    pub frames: usize,
}

impl Cut {
    /// Elements of the first frame that lie before the signal.
    fn margin(&self) -> usize {
        if self.center { self.n_fft / 2 } else { 0 }
    }

    /// The window in the middle of a frame.
    fn window(&self, window: &[f32]) -> Vec<f32> {
        assert!(
            window.len() <= self.n_fft,
            "the window is longer than a frame of {}",
            self.n_fft
        );
        let mut whole = vec![0.0; self.n_fft];
        whole[(self.n_fft - window.len()) / 2..][..window.len()].copy_from_slice(window);
        whole
    }

    /// Nanoseconds for the transforms of so many signals, about.
    fn work(&self, batch: usize) -> u64 {
        (batch * self.frames * self.n_fft) as u64 * u64::from(self.n_fft.max(2).ilog2()) / 4
    }
}

/// The transforms of the frames of x `[batch, len]`, into out `[batch, n_fft / 2 + 1, frames, 2]`. Centered frames see the signal
/// mirrored at both ends, which must be longer than half a frame. Allocates the window, the plan of the transform, and for each of at
/// most 32 tasks 8 frames and what their transform needs.
///
/// # Panics
/// If a slice has not as many elements as that takes, or the frames reach past the signal.
pub fn stft(x: &[f32], batch: usize, window: &[f32], cut: &Cut, out: &mut [f32]) {
    let Cut { n_fft, hop, frames, .. } = *cut;
    let bins = n_fft / 2 + 1;
    assert_eq!(
        out.len(),
        batch * bins * frames * 2,
        "the output is {batch} x {bins} x {frames} x 2"
    );
    if out.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(batch), "{} elements in {batch} signals", x.len());
    let (len, margin) = (x.len() / batch, cut.margin());
    assert!(
        (frames - 1) * hop + n_fft <= len + 2 * margin && (margin == 0 || len > margin),
        "{cut:?} of {len}"
    );
    let window = cut.window(window);
    let fft = RealFft::new(n_fft);
    let scale = if cut.normalized {
        1.0 / (n_fft as f32).sqrt()
    } else {
        1.0
    };
    let blocks = frames.div_ceil(LANES);
    let tasks = batch * blocks;
    let workers = tasks.min(WORKERS);
    let target = Shared(out.as_mut_ptr());
    parallel(workers, cut.work(batch), |worker| {
        let mut signal = vec![[0.0_f32; LANES]; n_fft];
        let mut scratch = fft.scratch();
        for task in (worker..tasks).step_by(workers) {
            let (n, first) = (task / blocks, task % blocks * LANES);
            let count = LANES.min(frames - first);
            spend(4 * n_fft as u64 * LANES as u64);
            let x = &x[n * len..][..len];
            for lane in 0..LANES {
                // The lanes past the last frame repeat it.
                let start = (first + lane.min(count - 1)) * hop;
                let inside = start.checked_sub(margin).and_then(|from| x.get(from..from + n_fft));
                if let Some(frame) = inside {
                    for (to, (x, w)) in signal.iter_mut().zip(frame.iter().zip(&window)) {
                        to[lane] = x * w;
                    }
                } else {
                    for (i, (to, w)) in signal.iter_mut().zip(&window).enumerate() {
                        to[lane] = x[mirrored(start + i, margin, len)] * w;
                    }
                }
            }
            fft.forward(&signal, &mut scratch, |bin, value| {
                let at = ((n * bins + bin) * frames + first) * 2;
                // SAFETY: these frames of the bin are inside the output, and belong to this task alone.
                let to = unsafe { std::slice::from_raw_parts_mut(target.at(at), count * 2) };
                for (lane, to) in to.chunks_exact_mut(2).enumerate() {
                    to[0] = value.re[lane] * scale;
                    to[1] = value.im[lane] * scale;
                }
            });
        }
    });
}

/// The element of a signal that is at a place of the signal mirrored by `margin` at both ends.
fn mirrored(place: usize, margin: usize, len: usize) -> usize {
    match place.checked_sub(margin) {
        None => margin - place,
        Some(at) if at < len => at,
        Some(at) => 2 * (len - 1) - at,
    }
}

/// The place of a signal where the squared windows of the frames add up to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vanishes(pub usize);

/// The signals whose frames have the transforms x `[batch, n_fft / 2 + 1, frames, 2]`, into out `[batch, len]`: frames times the window
/// added up, divided by the sum of the squared windows; zeros past the last frame. Allocates the window, the plan, a number for each
/// element of a signal, and for each of at most 32 tasks 8 frames and what their transform needs.
///
/// # Errors
/// Where the squared windows add up to less than 1e-11.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn istft(x: &[f32], batch: usize, window: &[f32], cut: &Cut, out: &mut [f32]) -> Result<(), Vanishes> {
    let Cut { n_fft, hop, frames, .. } = *cut;
    let bins = n_fft / 2 + 1;
    assert_eq!(
        x.len(),
        batch * bins * frames * 2,
        "x is {batch} x {bins} x {frames} x 2"
    );
    assert!(frames > 0, "no frames");
    if out.is_empty() {
        return Ok(());
    }
    assert!(
        out.len().is_multiple_of(batch),
        "{} elements in {batch} signals",
        out.len()
    );
    let (len, margin) = (out.len() / batch, cut.margin());
    let window = cut.window(window);
    // The part of a frame that is inside the signal: where it begins in the frame, and where in the signal.
    let part = |frame: usize| {
        let start = frame * hop;
        let skipped = margin.saturating_sub(start).min(n_fft);
        (skipped, (start + skipped).saturating_sub(margin).min(len))
    };
    let mut squares = vec![0.0_f32; len];
    for frame in 0..frames {
        let (skipped, at) = part(frame);
        spend((n_fft - skipped) as u64);
        squares[at..]
            .iter_mut()
            .zip(&window[skipped..])
            .for_each(|(sum, w)| *sum += w * w);
    }
    let covered = ((frames - 1) * hop + n_fft).saturating_sub(margin).min(len);
    if let Some(place) = squares[..covered].iter().position(|sum| sum.is_nan() || *sum < 1e-11) {
        return Err(Vanishes(place));
    }
    let fft = RealFft::new(n_fft);
    let scale = if cut.normalized {
        1.0 / (n_fft as f32).sqrt()
    } else {
        1.0 / n_fft as f32
    };
    groups(out, len, cut.work(batch), |first, signals| {
        let mut signal = vec![[0.0_f32; LANES]; n_fft];
        let mut scratch = fft.scratch();
        for (i, y) in signals.chunks_exact_mut(len).enumerate() {
            y.fill(0.0);
            let x = &x[(first + i) * bins * frames * 2..][..bins * frames * 2];
            for frame in (0..frames).step_by(LANES) {
                let count = LANES.min(frames - frame);
                spend(4 * n_fft as u64 * LANES as u64);
                let bin = |k: usize| {
                    let mut value = Complex::default();
                    for (lane, pair) in x[(k * frames + frame) * 2..][..count * 2].chunks_exact(2).enumerate() {
                        value.re[lane] = pair[0];
                        value.im[lane] = pair[1];
                    }
                    value
                };
                fft.inverse(bin, &mut scratch, &mut signal);
                for lane in 0..count {
                    let (skipped, at) = part(frame + lane);
                    let pairs = signal[skipped..].iter().zip(&window[skipped..]);
                    y[at..].iter_mut().zip(pairs).for_each(|(y, (x, w))| *y += x[lane] * w);
                }
            }
            y[..covered]
                .iter_mut()
                .zip(&squares)
                .for_each(|(y, sum)| *y *= scale / sum);
        }
    });
    Ok(())
}
