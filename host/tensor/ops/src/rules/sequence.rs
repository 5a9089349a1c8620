//! Rules of the ops on signals, sequences and selections.

use super::Rule;
use crate::dtype::DType;
use crate::error::Error;
use crate::extent::Extent;
use crate::table::Op;
use crate::types::{Type, show};
use crate::{MAX_ELEMENTS, MAX_RANK};

/// The longest Fourier transform.
const MAX_FFT: i64 = 1 << 16;

/// Strides, dilations, paddings: no tensor has a longer dimension.
const MOST: i64 = MAX_ELEMENTS as i64;

impl<E: Extent> Rule<'_, E> {
    pub(super) fn sequence(&self) -> Result<Type<E>, Error> {
        match self.spec.op {
            Op::Sample => self.sample(),
            Op::Argsort => {
                self.axis(0, self.rank())?;
                self.flag(1)?;
                Ok(self.indices())
            }
            Op::Topk => {
                let (k, axis) = (self.size(0)?, self.axis(1, self.rank())?);
                self.flag(2)?;
                let dim = &self.inputs[0].shape[axis];
                if let (Some(k), Some(dim)) = (k.known(), dim.known())
                    && k > dim
                {
                    return Err(Error::shape(format!("k is {k}, more than dimension {axis} of {dim}")));
                }
                let mut output = self.indices();
                output.shape[axis] = k;
                Ok(output)
            }
            Op::Gather => {
                self.within_x(1)?;
                Ok(Type {
                    dtype: self.inputs[0].dtype,
                    shape: self.inputs[1].shape.clone(),
                })
            }
            Op::Scatter | Op::ScatterAdd => {
                self.source_dtype()?;
                let (ids, src) = (&self.inputs[1].shape, &self.inputs[2].shape);
                if ids != src {
                    let (ids, src) = (show(ids), show(src));
                    return Err(Error::shape(format!("ids {ids} and src {src} must have one shape")));
                }
                self.within_x(1)?;
                Ok(self.same())
            }
            Op::IndexAdd => self.index_add(),
            Op::Conv1d => self.conv1d(),
            Op::ConvTranspose1d => self.conv_transpose1d(),
            Op::Cumsum | Op::Cumprod => {
                self.axis(0, self.rank())?;
                Ok(self.same())
            }
            Op::PadReflect | Op::PadReplicate => self.pad_with_itself(),
            Op::Lstm | Op::Gru => self.recurrent(),
            Op::ResizeLinear1d | Op::ResizeNearest1d => {
                let size = self.size(0)?;
                self.flag(1)?;
                let [_, _, len] = self.three("x")?;
                if len.known() == Some(0) && size.known() != Some(0) {
                    return Err(Error::shape("dimension 2 is empty: there is nothing to interpolate"));
                }
                let mut output = self.same();
                output.shape[2] = size;
                Ok(output)
            }
            Op::Stft => self.stft(),
            Op::Istft => self.istft(),
            Op::Tril | Op::Triu => {
                self.int(0, -MOST..=MOST)?;
                if self.rank() < 2 {
                    return Err(Error::shape("x must have at least two dimensions"));
                }
                Ok(self.same())
            }
            Op::Flip => {
                self.axes(0)?;
                Ok(self.same())
            }
            Op::Roll => {
                self.axis(0, self.rank())?;
                self.int(1, -MOST..=MOST)?;
                Ok(self.same())
            }
            Op::Repeat => self.repeat(),
            Op::RepeatInterleave => {
                let (axis, times) = (self.axis(0, self.rank())?, self.size(1)?);
                let mut output = self.same();
                output.shape[axis] = output.shape[axis].times(&times)?;
                Ok(output)
            }
            Op::OneHot => {
                let (depth, dtype) = (self.size(0)?, self.dtype(1)?);
                self.room_for_one_more()?;
                let mut shape = self.inputs[0].shape.clone();
                shape.push(depth);
                Ok(Type { dtype, shape })
            }
            Op::Logsumexp | Op::Var => {
                if self.spec.op == Op::Var {
                    self.flag(2)?;
                }
                self.reduce()
            }
            Op::L2Normalize => {
                self.axis(0, self.rank())?;
                let eps = self.float(1)?;
                if eps >= 0.0 && eps.is_finite() {
                    return Ok(self.same());
                }
                Err(Error::invalid_input(format!(
                    "eps is {eps}; it must be at least 0, and finite"
                )))
            }
            Op::Rem | Op::Pow | Op::Atan2 => {
                self.same_dtype()?;
                Ok(Type {
                    dtype: self.inputs[0].dtype,
                    shape: self.broadcast_all(self.inputs)?,
                })
            }
            Op::Snake => {
                self.same_dtype()?;
                let [_, channels, _] = self.three("x")?;
                self.vector(1, channels)?;
                Ok(self.same())
            }
            Op::Glu => {
                let axis = self.axis(0, self.rank())?;
                let dim = &self.inputs[0].shape[axis];
                let half = dim.over(&E::of(2)?).ok_or_else(|| {
                    Error::shape(format!(
                        "dimension {axis} is {dim}; it must be two halves, known to be even"
                    ))
                })?;
                let mut output = self.same();
                output.shape[axis] = half;
                Ok(output)
            }
            // Elementwise.
            _ => Ok(self.same()),
        }
    }

    /// As many indices as the first input has elements.
    fn indices(&self) -> Type<E> {
        Type {
            dtype: DType::U32,
            shape: self.inputs[0].shape.clone(),
        }
    }

    /// The three dimensions of the first input.
    fn three(&self, name: &str) -> Result<[&E; 3], Error> {
        match self.inputs[0].shape.as_slice() {
            [a, b, c] => Ok([a, b, c]),
            _ => Err(Error::shape(format!("{name} must have three dimensions"))),
        }
    }

    /// The dimensions of an input that is a matrix.
    fn matrix(&self, at: usize) -> Result<[&E; 2], Error> {
        match self.inputs[at].shape.as_slice() {
            [rows, columns] => Ok([rows, columns]),
            _ => Err(Error::shape(format!(
                "{} must have two dimensions",
                self.spec.inputs[at].name
            ))),
        }
    }

    /// Checks that an input, if it is given, has one dimension of this size.
    fn vector(&self, at: usize, size: &E) -> Result<(), Error> {
        match self.inputs.get(at) {
            Some(input) if input.shape.as_slice() != std::slice::from_ref(size) => Err(Error::shape(format!(
                "{} must have shape [{size}]",
                self.spec.inputs[at].name
            ))),
            _ => Ok(()),
        }
    }

    fn source_dtype(&self) -> Result<(), Error> {
        let (x, src) = (self.inputs[0].dtype, self.inputs[2].dtype);
        if x == src {
            return Ok(());
        }
        Err(Error::dtype(format!(
            "x of {x} and src of {src} do not mix: use cast/1 on one of them"
        )))
    }

    /// Checks the axis, and that ids of the first input's rank reach no further than it does in the other dimensions, as far as is
    /// known.
    fn within_x(&self, at: usize) -> Result<(), Error> {
        let axis = self.axis(0, self.rank())?;
        let (x, ids) = (&self.inputs[0].shape, &self.inputs[at].shape);
        if x.len() != ids.len() {
            return Err(Error::shape("x and ids must have as many dimensions"));
        }
        for (i, (x, ids)) in x.iter().zip(ids).enumerate() {
            if let (Some(x), Some(ids)) = (x.known(), ids.known())
                && i != axis
                && ids > x
            {
                return Err(Error::shape(format!(
                    "dimension {i} of the ids is {ids}, more than {x} of x"
                )));
            }
        }
        Ok(())
    }

    fn index_add(&self) -> Result<Type<E>, Error> {
        self.source_dtype()?;
        let axis = self.axis(0, self.rank())?;
        let [count] = self.inputs[1].shape.as_slice() else {
            return Err(Error::shape("the ids must have one dimension"));
        };
        let mut wanted = self.inputs[0].shape.clone();
        wanted[axis] = count.clone();
        if self.inputs[2].shape != wanted {
            return Err(Error::shape(format!("src must be {}", show(&wanted))));
        }
        Ok(self.same())
    }

    fn sample(&self) -> Result<Type<E>, Error> {
        let [batch @ .., vocabulary] = self.inputs[0].shape.as_slice() else {
            return Err(Error::shape("the logits must have a dimension"));
        };
        if batch.len() > 1 {
            return Err(Error::shape("the logits must have one dimension or two"));
        }
        if vocabulary.known() == Some(0) {
            return Err(Error::shape("the vocabulary is empty"));
        }
        if let Some(previous) = self.inputs.get(1)
            && (previous.shape.len() != batch.len() + 1 || previous.shape[..batch.len()] != *batch)
        {
            return Err(Error::shape(
                "previous must have the dimensions of the logits, but for the last",
            ));
        }
        let within = |at: usize, wants: &str, fine: &dyn Fn(f64) -> bool| {
            let value = self.float(at)?;
            if fine(value) && value.is_finite() {
                return Ok(());
            }
            let name = self.spec.attrs[at].name;
            Err(Error::invalid_input(format!(
                "attribute `{name}` is {value}; it must be {wants}"
            )))
        };
        within(0, "at least 0", &|t| t >= 0.0)?;
        self.int(1, 0..=i64::MAX)?;
        within(2, "above 0 and at most 1", &|p| p > 0.0 && p <= 1.0)?;
        within(3, "at least 0 and below 1", &|p| (0.0..1.0).contains(&p))?;
        within(4, "above 0", &|p| p > 0.0)?;
        self.int(5, i64::MIN..=i64::MAX)?;
        self.int(6, i64::MIN..=i64::MAX)?;
        Ok(Type {
            dtype: DType::U32,
            shape: batch.iter().cloned().collect(),
        })
    }

    /// `floor(reach / stride) + 1`: how many steps there are where the last begins `reach` after the first.
    fn steps(&self, reach: &E, stride: i64, dimension: usize) -> Result<E, Error> {
        let steps = reach.floor_over(stride as u64).ok_or_else(|| {
            Error::shape(format!(
                "dimension {dimension} of x must be concrete, or known to divide: ({reach}) / {stride}, rounded down, is no \
                 polynomial"
            ))
        })?;
        steps.plus(&E::of(1)?)
    }

    /// `dilation * (k - 1)`: how far a kernel reaches past its first element.
    fn reach(&self, kernel: &E, dilation: i64) -> Result<E, Error> {
        if kernel.known() == Some(0) {
            return Err(Error::shape("the kernel is empty"));
        }
        kernel.minus(&E::of(1)?)?.times(&E::of(dilation as u64)?)
    }

    fn conv1d(&self) -> Result<Type<E>, Error> {
        self.same_dtype()?;
        let [batch, channels, len] = self.three("x")?;
        let [outputs, each, kernel] = self.inputs[1].shape.as_slice() else {
            return Err(Error::shape(
                "the weight must have three dimensions, out, in / groups and kernel",
            ));
        };
        let stride = self.int(0, 1..=MOST)?;
        let (left, right) = (self.int(1, 0..=MOST)?, self.int(2, 0..=MOST)?);
        let dilation = self.int(3, 1..=MOST)?;
        let groups = E::of(self.int(4, 1..=MOST)? as u64)?;
        if each.times(&groups)? != *channels {
            return Err(Error::shape(format!(
                "{groups} groups of {each} channels are not the {channels} of x"
            )));
        }
        if outputs.over(&groups).is_none() {
            return Err(Error::shape(format!(
                "{outputs} output channels do not divide into {groups} groups"
            )));
        }
        self.vector(2, outputs)?;
        let reach = self.reach(kernel, dilation)?;
        let padded = len.plus(&E::of((left + right) as u64)?)?;
        if let (Some(padded), Some(reach)) = (padded.known(), reach.known())
            && padded <= reach
        {
            return Err(Error::shape(format!(
                "the kernel reaches over {} elements, more than the {padded} of dimension 2 with its padding",
                reach + 1
            )));
        }
        let out = self.steps(&padded.minus(&reach)?.minus(&E::of(1)?)?, stride, 2)?;
        Ok(Type {
            dtype: self.inputs[0].dtype,
            shape: [batch.clone(), outputs.clone(), out].into_iter().collect(),
        })
    }

    fn conv_transpose1d(&self) -> Result<Type<E>, Error> {
        self.same_dtype()?;
        let [batch, channels, len] = self.three("x")?;
        let [inputs, each, kernel] = self.inputs[1].shape.as_slice() else {
            return Err(Error::shape(
                "the weight must have three dimensions, in, out / groups and kernel",
            ));
        };
        let stride = self.int(0, 1..=MOST)?;
        let padding = self.int(1, 0..=MOST)?;
        let dilation = self.int(3, 1..=MOST)?;
        let extra = self.int(2, 0..=stride.max(dilation) - 1)?;
        let groups = E::of(self.int(4, 1..=MOST)? as u64)?;
        if inputs != channels {
            return Err(Error::shape(format!(
                "the weight's {inputs} inputs are not the {channels} channels of x"
            )));
        }
        if channels.over(&groups).is_none() {
            return Err(Error::shape(format!(
                "{channels} channels do not divide into {groups} groups"
            )));
        }
        if len.known() == Some(0) {
            return Err(Error::shape("dimension 2 is empty"));
        }
        let outputs = each.times(&groups)?;
        self.vector(2, &outputs)?;
        let spread = len.minus(&E::of(1)?)?.times(&E::of(stride as u64)?)?;
        let whole = spread
            .plus(&self.reach(kernel, dilation)?)?
            .plus(&E::of(extra as u64 + 1)?)?;
        let cut = E::of(2 * padding as u64)?;
        if let (Some(whole), Some(cut)) = (whole.known(), cut.known())
            && whole < cut
        {
            return Err(Error::shape(format!(
                "a padding of {padding} at both ends leaves nothing of {whole}"
            )));
        }
        Ok(Type {
            dtype: self.inputs[0].dtype,
            shape: [batch.clone(), outputs, whole.minus(&cut)?].into_iter().collect(),
        })
    }

    fn pad_with_itself(&self) -> Result<Type<E>, Error> {
        let axis = self.axis(0, self.rank())?;
        let (left, right) = (self.size(1)?, self.size(2)?);
        let dim = &self.inputs[0].shape[axis];
        for side in [&left, &right] {
            let (Some(side), Some(dim)) = (side.known(), dim.known()) else {
                continue;
            };
            if side >= dim && self.spec.op == Op::PadReflect && side > 0 {
                return Err(Error::shape(format!(
                    "dimension {axis} of {dim} must be longer than the {side} that it is mirrored by"
                )));
            }
            if dim == 0 && side > 0 {
                return Err(Error::shape(format!(
                    "dimension {axis} is empty: there is nothing to repeat"
                )));
            }
        }
        let mut output = self.same();
        output.shape[axis] = dim.plus(&left)?.plus(&right)?;
        Ok(output)
    }

    fn recurrent(&self) -> Result<Type<E>, Error> {
        self.same_dtype()?;
        self.flag(0)?;
        let lstm = self.spec.op == Op::Lstm;
        let [batch, steps, width] = self.three("x")?;
        let [from_x, wide] = self.matrix(1)?;
        let [from_h, hidden] = self.matrix(2)?;
        let gates = E::of(if lstm { 4 } else { 3 })?.times(hidden)?;
        if *from_x != gates || *from_h != gates {
            return Err(Error::shape(format!(
                "w_ih and w_hh must have {gates} rows, as many as gates times the width {hidden} of the state"
            )));
        }
        if wide != width {
            return Err(Error::shape(format!(
                "the last dimension of x must be {wide}, the second of w_ih"
            )));
        }
        self.vector(3, &gates)?;
        self.vector(4, &gates)?;
        for (input, spec) in self.inputs.iter().zip(self.spec.inputs).skip(5) {
            if input.shape.as_slice() != [batch.clone(), hidden.clone()] {
                return Err(Error::shape(format!(
                    "{} must have shape [{batch}, {hidden}]",
                    spec.name
                )));
            }
        }
        let mut shape = self.inputs[0].shape.clone();
        shape.truncate(2);
        let _ = steps;
        if lstm {
            shape.push(E::of(2)?);
        }
        shape.push(hidden.clone());
        Ok(Type {
            dtype: self.inputs[0].dtype,
            shape,
        })
    }

    /// The length and the hop of a transform; checks that the inputs are f32, and the window.
    fn transform(&self) -> Result<(i64, i64), Error> {
        for (input, spec) in self.inputs.iter().zip(self.spec.inputs) {
            if input.dtype != DType::F32 {
                let (name, dtype) = (spec.name, input.dtype);
                return Err(Error::dtype(format!("{name} is {dtype}; it must be f32: use cast/1")));
            }
        }
        let len = self.int(0, 1..=MAX_FFT)?;
        let hop = self.int(1, 1..=MOST)?;
        let [window] = self.inputs[1].shape.as_slice() else {
            return Err(Error::shape("the window must have one dimension"));
        };
        match window.known() {
            Some(window) if (1..=len as u64).contains(&window) => Ok((len, hop)),
            Some(window) => Err(Error::shape(format!(
                "the window has {window} elements; it must have from 1 to {len}"
            ))),
            None => Err(Error::shape(format!("the window's length {window} must be concrete"))),
        }
    }

    fn stft(&self) -> Result<Type<E>, Error> {
        let (n_fft, hop) = self.transform()?;
        let center = self.flag(2)?;
        self.flag(3)?;
        let [batch, len] = self.matrix(0)?;
        let margin = if center { n_fft / 2 } else { 0 };
        if let Some(len) = len.known() {
            if center && len <= margin as u64 {
                return Err(Error::shape(format!(
                    "dimension 1 of {len} must be longer than the {margin} that it is mirrored by"
                )));
            }
            if len + 2 * (margin as u64) < n_fft as u64 {
                return Err(Error::shape(format!(
                    "dimension 1 of {len} is shorter than a frame of {n_fft}"
                )));
            }
        }
        let padded = len.plus(&E::of(2 * margin as u64)?)?;
        let frames = self.steps(&padded.minus(&E::of(n_fft as u64)?)?, hop, 1)?;
        let bins = E::of(n_fft as u64 / 2 + 1)?;
        Ok(Type {
            dtype: DType::F32,
            shape: [batch.clone(), bins, frames, E::of(2)?].into_iter().collect(),
        })
    }

    fn istft(&self) -> Result<Type<E>, Error> {
        let (n_fft, _) = self.transform()?;
        let len = self.size(2)?;
        self.flag(3)?;
        self.flag(4)?;
        let [batch, bins, frames, two] = self.inputs[0].shape.as_slice() else {
            return Err(Error::shape("x must have four dimensions, batch, bins, frames and 2"));
        };
        let wanted = n_fft as u64 / 2 + 1;
        if bins.known() != Some(wanted) || two.known() != Some(2) {
            return Err(Error::shape(format!(
                "x must have {wanted} bins, and 2 as its last dimension"
            )));
        }
        if frames.known() == Some(0) {
            return Err(Error::shape("there are no frames"));
        }
        Ok(Type {
            dtype: DType::F32,
            shape: [batch.clone(), len].into_iter().collect(),
        })
    }

    fn repeat(&self) -> Result<Type<E>, Error> {
        let (x, repeats) = (&self.inputs[0].shape, self.shape(0)?);
        let Some(added) = repeats.len().checked_sub(x.len()) else {
            return Err(Error::shape(format!(
                "{} repeats are fewer than the dimensions of x",
                repeats.len()
            )));
        };
        debug_assert!(repeats.len() <= MAX_RANK);
        let mut shape = repeats;
        for (to, dim) in shape[added..].iter_mut().zip(x) {
            *to = to.times(dim)?;
        }
        Ok(Type {
            dtype: self.inputs[0].dtype,
            shape,
        })
    }
}
