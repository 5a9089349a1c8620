//! Rules of attention and of what goes with it.

use super::{Rule, broadcast};
use crate::error::Error;
use crate::extent::Extent;
use crate::types::{Shape, Type, show};

/// The longest window: more than any context.
const MAX_WINDOW: i64 = u32::MAX as i64;

impl<E: Extent> Rule<'_, E> {
    pub(super) fn rope(&self) -> Result<Type<E>, Error> {
        let [batch, time, _, width] = self.inputs[0].shape.as_slice() else {
            return Err(Error::shape("x must have four dimensions, [b, t, heads, width]"));
        };
        match self.inputs[1].shape.as_slice() {
            [t] if t == time => {}
            [b, t] if b == batch && t == time => {}
            other => {
                return Err(Error::shape(format!(
                    "positions are {}; they must be [{time}] or [{batch}, {time}]",
                    show(other)
                )));
            }
        }
        let turned = match self.inputs.get(2) {
            Some(frequencies) => {
                let [n] = frequencies.shape.as_slice() else {
                    return Err(Error::shape("frequencies must have one dimension"));
                };
                n.times(&E::of(2)?)?
            }
            None => width.clone(),
        };
        match (turned.known(), width.known()) {
            (Some(turned), Some(width)) if turned <= width && width.is_multiple_of(2) => {}
            _ => {
                return Err(Error::shape(format!(
                    "{turned} elements of vectors of {width} cannot be turned: the width must be even, known and no less"
                )));
            }
        }
        let base = self.float(0)?;
        self.flag(1)?;
        if base > 0.0 && base.is_finite() {
            return Ok(self.same());
        }
        Err(Error::invalid_input(format!("base is {base}; it must be positive")))
    }

    pub(super) fn attention(&self) -> Result<Type<E>, Error> {
        let output = self.heads()?;
        self.options(0, 2, 3)?;
        self.flag(1)?;
        let Some(bias) = self.inputs.get(3) else {
            return Ok(output);
        };
        let (q, k) = (&self.inputs[0].shape, &self.inputs[1].shape);
        let scores: Shape<E> = [&q[0], &q[2], &q[1], &k[1]].into_iter().cloned().collect();
        if broadcast(&scores, &bias.shape)? != scores {
            return Err(Error::shape(format!(
                "the bias is {}; it must broadcast to the scores {}",
                show(&bias.shape),
                show(&scores)
            )));
        }
        Ok(output)
    }

    pub(super) fn cached_attention(&self) -> Result<Type<E>, Error> {
        let output = self.heads()?;
        self.int(0, 0..=255)?;
        self.int(1, 0..=i64::from(u16::MAX))?;
        self.options(2, 3, 4)?;
        if self.inputs[0].shape[0].known() != Some(1) {
            return Err(Error::shape("a cache holds one sequence: the batch must be 1"));
        }
        let (q, k) = (&self.inputs[0].shape[1], &self.inputs[1].shape[1]);
        if q != k {
            return Err(Error::shape(format!(
                "there are {q} queries and {k} keys; each place has one of both"
            )));
        }
        Ok(output)
    }

    fn options(&self, scale: usize, window: usize, cap: usize) -> Result<(), Error> {
        for at in [scale, cap] {
            let value = self.float(at)?;
            if !(0.0..=1e30).contains(&value) {
                let name = self.spec.attrs[at].name;
                return Err(Error::invalid_input(format!(
                    "{name} is {value}; it must not be negative"
                )));
            }
        }
        self.int(window, 0..=MAX_WINDOW).map(drop)
    }

    /// The output of queries, keys and values that fit.
    fn heads(&self) -> Result<Type<E>, Error> {
        self.same_dtype()?;
        let shapes = (
            self.inputs[0].shape.as_slice(),
            self.inputs[1].shape.as_slice(),
            self.inputs[2].shape.as_slice(),
        );
        let ([b, t, heads, d], [kb, ks, kv_heads, kd], [vb, vs, v_heads, e]) = shapes else {
            return Err(Error::shape(
                "q, k and v must have four dimensions, [b, t, heads, width]",
            ));
        };
        if (b, b, ks, kv_heads, d) != (kb, vb, vs, v_heads, kd) {
            return Err(Error::shape(
                "q, k and v must agree: k and v in batch, length and heads, q and k in batch and width",
            ));
        }
        match (heads.known(), kv_heads.known()) {
            (Some(heads), Some(kv_heads)) if kv_heads > 0 && heads.is_multiple_of(kv_heads) => {}
            _ => {
                return Err(Error::shape(format!(
                    "{heads} heads cannot share {kv_heads} heads of keys: the one must be a known multiple of the other"
                )));
            }
        }
        Ok(Type::new(self.inputs[0].dtype, [b, t, heads, e].into_iter().cloned()))
    }
}
