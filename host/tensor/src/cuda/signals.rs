//! Spectra of signals: frames times a matrix of waves.

use std::f64::consts::TAU;

use candle_core::Tensor;
use maquette_ops::Error;

use super::call::{Call, Result, in_f32, scalar, shaped, wide};
use super::products::along_last;
use super::shapes::{pad, pick};

pub(super) fn stft(call: &Call<'_>) -> Result<Tensor> {
    let (n_fft, hop, center, normalized) = (call.int(0)?, call.int(1)?, call.flag(2)?, call.flag(3)?);
    let window = wide(call.input(1)?)?.contiguous()?;
    in_f32(call.input(0)?, |x| {
        let (batch, len) = x.dims2()?;
        let [_, bins, frames, _] = call.shape()[..] else {
            return Err(Error::internal("a spectrum without four dimensions").into());
        };
        let margin = if center { n_fft / 2 } else { 0 };
        // Each element of each frame, mirrored at the ends.
        let mirror = |at: usize| match at.checked_sub(margin) {
            None => margin - at,
            Some(at) if at < len => at,
            Some(at) => 2 * (len - 1) - at,
        };
        let cut = pick(call, x, 1, frames * n_fft, |i| mirror((i / n_fft) * hop + i % n_fft))?;
        let cut = cut.reshape((batch, frames, n_fft))?;
        let short = n_fft - window.elem_count();
        let zero = scalar(0.0, window.dtype(), call.device)?;
        let whole = pad(&window, 0, [short / 2, short - short / 2], &zero)?;
        let scale = if normalized { 1.0 / (n_fft as f64).sqrt() } else { 1.0 };
        let waves = call.matrix(bins * 2, n_fft, |row, i| {
            // The product is taken modulo a whole turn, in integers: an angle far out has no digits left.
            let angle = TAU * ((row / 2 * i) % n_fft) as f64 / n_fft as f64;
            scale * if row % 2 == 0 { angle.cos() } else { -angle.sin() }
        })?;
        let spectrum: Tensor = along_last(&cut.broadcast_mul(&whole)?, &waves)?;
        let spectrum = spectrum.reshape((batch, frames, bins, 2))?.transpose(1, 2)?;
        shaped(&spectrum.contiguous()?, call.shape())
    })
}
