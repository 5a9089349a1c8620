//! Recurrent layers, LSTM and GRU: what the input adds to the gates is one matrix product, then a step for each time.

use crate::gemm::{Epilogue, Packed, product};
use crate::math::{sigmoid, tanh};
use crate::simd::multiversion;
use crate::stop::spend;
use crate::team::engaged;

/// The sizes of a recurrent layer.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Sequences.
    pub batch: usize,
    /// Steps of a sequence.
    pub steps: usize,
    /// Elements of an input.
    pub width: usize,
    /// Elements of a state.
    pub hidden: usize,
}

/// The weights of a recurrent layer of `g` gates.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// `[g * hidden, width]`.
    pub w_ih: &'a [f32],
    /// `[g * hidden, hidden]`.
    pub w_hh: &'a [f32],
    /// `[g * hidden]`; zeros if absent.
    pub b_ih: Option<&'a [f32]>,
    /// `[g * hidden]`; zeros if absent.
    pub b_hh: Option<&'a [f32]>,
}

impl Weights<'_> {
    fn check(&self, sizes: &Sizes, gates: usize, x: usize) {
        let rows = gates * sizes.hidden;
        assert!(
            x == sizes.batch * sizes.steps * sizes.width
                && self.w_ih.len() == rows * sizes.width
                && self.w_hh.len() == rows * sizes.hidden
                && [self.b_ih, self.b_hh].iter().flatten().all(|bias| bias.len() == rows),
            "{sizes:?} of {x} elements"
        );
    }
}

/// Calls `step(t, h, gates from h)` for each time in order; `step` writes the next h.
fn steps(
    sizes: &Sizes,
    w_hh: &Packed,
    bias: Option<&[f32]>,
    h: &mut [f32],
    reverse: bool,
    mut step: impl FnMut(usize, &mut [f32], &[f32]),
) {
    let mut from_h = vec![0.0_f32; sizes.batch * w_hh.n()];
    let epilogue = Epilogue {
        bias,
        ..Epilogue::default()
    };
    // Hundreds of small products follow each other: the team stays awake for them.
    engaged(|| {
        for i in 0..sizes.steps {
            let t = if reverse { sizes.steps - 1 - i } else { i };
            spend((sizes.batch * sizes.hidden) as u64 * 20);
            product(h, sizes.batch, w_hh, &mut from_h, &epilogue);
            step(t, h, &from_h);
        }
    });
}

/// A layer of long short-term memory over x `[batch, steps, width]`: h and c of each step, into out `[batch, steps, 2, hidden]`.
/// The gates are `i`, `f`, `g`, `o`, as PyTorch has them. `h0` and `c0` `[batch, hidden]` are zeros if absent. Allocates the gates of
/// all steps, the packed weights, and the gates and the state of one step.
///
/// # Panics
/// If a slice has not as many elements as that takes.
#[allow(clippy::too_many_arguments, reason = "inputs, sizes and an output")]
pub fn lstm(
    x: &[f32],
    weights: &Weights<'_>,
    h0: Option<&[f32]>,
    c0: Option<&[f32]>,
    sizes: &Sizes,
    reverse: bool,
    out: &mut [f32],
) {
    weights.check(sizes, 4, x.len());
    let Sizes {
        batch,
        steps: count,
        width,
        hidden,
    } = *sizes;
    assert_eq!(
        out.len(),
        batch * count * 2 * hidden,
        "the output is {batch} x {count} x 2 x {hidden}"
    );
    if out.is_empty() {
        return;
    }
    let rows = 4 * hidden;
    let from_x = project(x, weights.w_ih, batch * count, rows, width, weights.b_ih);
    let w_hh = Packed::from_rows(weights.w_hh, rows, hidden);
    let (mut h, mut c) = (state(h0, batch * hidden), state(c0, batch * hidden));
    steps(sizes, &w_hh, weights.b_hh, &mut h, reverse, |t, h, from_h| {
        for n in 0..batch {
            let at = n * count + t;
            let state = n * hidden..(n + 1) * hidden;
            let (to_h, to_c) = out[at * 2 * hidden..][..2 * hidden].split_at_mut(hidden);
            lstm_step(
                &from_x[at * rows..][..rows],
                &from_h[n * rows..][..rows],
                &mut c[state.clone()],
                to_h,
            );
            to_c.copy_from_slice(&c[state.clone()]);
            h[state].copy_from_slice(to_h);
        }
    });
}

multiversion! {
    fn lstm_step(from_x: &[f32], from_h: &[f32], c: &mut [f32], h: &mut [f32]) {
        let n = c.len();
        let (h, x, y) = (&mut h[..n], &from_x[..4 * n], &from_h[..4 * n]);
        let (xi, x) = x.split_at(n);
        let (xf, x) = x.split_at(n);
        let (xg, xo) = x.split_at(n);
        let (yi, y) = y.split_at(n);
        let (yf, y) = y.split_at(n);
        let (yg, yo) = y.split_at(n);
        for j in 0..n {
            let (i, f) = (sigmoid(xi[j] + yi[j]), sigmoid(xf[j] + yf[j]));
            let (g, o) = (tanh(xg[j] + yg[j]), sigmoid(xo[j] + yo[j]));
            let next = f * c[j] + i * g;
            c[j] = next;
            h[j] = o * tanh(next);
        }
    }
}

/// A layer of gated recurrent units over x `[batch, steps, width]`: h of each step, into out `[batch, steps, hidden]`. The gates are
/// `r`, `z`, `n`, as PyTorch has them. `h0` `[batch, hidden]` is zeros if absent. Allocates as [`lstm`] does.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn gru(x: &[f32], weights: &Weights<'_>, h0: Option<&[f32]>, sizes: &Sizes, reverse: bool, out: &mut [f32]) {
    weights.check(sizes, 3, x.len());
    let Sizes {
        batch,
        steps: count,
        width,
        hidden,
    } = *sizes;
    assert_eq!(
        out.len(),
        batch * count * hidden,
        "the output is {batch} x {count} x {hidden}"
    );
    if out.is_empty() {
        return;
    }
    let rows = 3 * hidden;
    let from_x = project(x, weights.w_ih, batch * count, rows, width, weights.b_ih);
    let w_hh = Packed::from_rows(weights.w_hh, rows, hidden);
    let mut h = state(h0, batch * hidden);
    steps(sizes, &w_hh, weights.b_hh, &mut h, reverse, |t, h, from_h| {
        for n in 0..batch {
            let at = n * count + t;
            let state = &mut h[n * hidden..][..hidden];
            gru_step(&from_x[at * rows..][..rows], &from_h[n * rows..][..rows], state);
            out[at * hidden..][..hidden].copy_from_slice(state);
        }
    });
}

multiversion! {
    fn gru_step(from_x: &[f32], from_h: &[f32], h: &mut [f32]) {
        let n = h.len();
        let (x, y) = (&from_x[..3 * n], &from_h[..3 * n]);
        let (xr, x) = x.split_at(n);
        let (xz, xn) = x.split_at(n);
        let (yr, y) = y.split_at(n);
        let (yz, yn) = y.split_at(n);
        for j in 0..n {
            let (r, z) = (sigmoid(xr[j] + yr[j]), sigmoid(xz[j] + yz[j]));
            let new = tanh(xn[j] + r * yn[j]);
            h[j] = (1.0 - z) * new + z * h[j];
        }
    }
}

/// What the input adds to the gates of each step.
fn project(x: &[f32], w: &[f32], m: usize, n: usize, k: usize, bias: Option<&[f32]>) -> Vec<f32> {
    let packed = Packed::from_rows(w, n, k);
    let mut out = vec![0.0; m * n];
    product(
        x,
        m,
        &packed,
        &mut out,
        &Epilogue {
            bias,
            ..Epilogue::default()
        },
    );
    out
}

fn state(first: Option<&[f32]>, len: usize) -> Vec<f32> {
    match first {
        Some(first) => {
            assert_eq!(first.len(), len, "a first state");
            first.to_vec()
        }
        None => vec![0.0; len],
    }
}
