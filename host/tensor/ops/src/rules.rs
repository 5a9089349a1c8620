//! What each op returns for what it is given: element types, shapes, cost. Written once, for numbers and for polynomials.

use std::fmt;

use smallvec::SmallVec;

use crate::dim::{Dim, Extent};
use crate::dtype::DType;
use crate::error::Error;
use crate::table::{Accepts, AttrKind, Occurs, Op, OpSpec};
use crate::{MAX_ELEMENTS, MAX_RANK};

/// Dimensions, outermost first; up to [`MAX_RANK`] of them without allocating.
pub type Shape<E> = SmallVec<[E; MAX_RANK]>;

/// An element type and a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type<E> {
    /// Of each element.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Shape<E>,
}

impl<E> Type<E> {
    /// A type of these.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = E>) -> Self {
        Self {
            dtype,
            shape: shape.into_iter().collect(),
        }
    }
}

impl Type<u32> {
    /// How many elements there are; shapes that this crate has checked never overflow.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|d| u64::from(*d)).product()
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> u64 {
        self.elements().saturating_mul(self.dtype.size() as u64)
    }
}

impl<E: fmt::Display> fmt::Display for Type<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, show(&self.shape))
    }
}

/// `[2, 3]`.
pub fn show<E: fmt::Display>(shape: &[E]) -> String {
    let dims: Vec<_> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// The value of an attribute: the WIT's `attr`.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// The default.
    Unset,
    /// Yes or no.
    Flag(bool),
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// Integers: axes, or a shape.
    Ints(Vec<i64>),
    /// A shape over symbols.
    Dims(Vec<Dim>),
    /// An element type.
    DType(DType),
}

/// What an op costs at given types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: u64,
    /// Bytes of temporaries at most, beside the output.
    pub temporary_bytes: u64,
}

/// Checks a shape: rank, and the number of elements if it is known.
///
/// # Errors
/// `shape`.
pub fn check_shape<E: Extent>(shape: &[E]) -> Result<(), Error> {
    if shape.len() > MAX_RANK {
        return Err(Error::shape(format!(
            "a shape has {} dimensions; at most {MAX_RANK} are allowed",
            shape.len()
        )));
    }
    // A zero anywhere makes the product zero, whatever order it comes in: an overflow before it still is none.
    let mut product: u64 = 1;
    for dim in shape {
        let Some(value) = dim.known() else { continue };
        if value == 0 {
            return Ok(());
        }
        product = product.saturating_mul(value);
    }
    if product > MAX_ELEMENTS {
        return Err(Error::shape(format!(
            "{} has {product} elements; at most {MAX_ELEMENTS} are allowed",
            show(shape)
        )));
    }
    Ok(())
}

impl OpSpec {
    /// The type that the op returns for inputs of these types.
    ///
    /// # Errors
    /// `shape`, `dtype` or `invalid-input`, naming the op, the types and what it expects.
    pub fn infer<E: Extent>(&self, inputs: &[Type<E>], attrs: &[Attr]) -> Result<Type<E>, Error> {
        let refs: SmallVec<[&Type<E>; 4]> = inputs.iter().collect();
        self.infer_refs(&refs, attrs)
    }

    /// [`OpSpec::infer`] for types that lie apart.
    ///
    /// # Errors
    /// As there.
    pub fn infer_refs<E: Extent>(&self, inputs: &[&Type<E>], attrs: &[Attr]) -> Result<Type<E>, Error> {
        let rule = Rule {
            spec: self,
            inputs,
            attrs,
        };
        rule.output()
            .and_then(|output| check_shape(&output.shape).map(|()| output))
            .map_err(|mut error| {
                let types: Vec<_> = inputs.iter().map(ToString::to_string).collect();
                error.message = format!("{} of {}: {}", self.name, types.join(" and "), error.message);
                error
            })
    }

    /// What the op costs for inputs of these types, whose output type is known.
    pub fn cost(&self, inputs: &[&Type<u32>], output: &Type<u32>) -> Cost {
        let out = output.elements();
        let input = inputs.iter().map(|t| t.elements()).sum::<u64>();
        // Inputs that are views may have to be copied, and half floats widened, before a kernel takes them.
        let copies = || {
            inputs
                .iter()
                .map(|t| t.elements().saturating_mul(t.dtype.size().max(4) as u64))
                .sum::<u64>()
        };
        let widened = out.saturating_mul(4);
        let (flops, temporary_bytes) = match self.op {
            _ if self.is_view() => (0, 0),
            Op::Reshape | Op::Full => (0, 0),
            Op::Matmul => {
                let k = inputs.first().and_then(|a| a.shape.last()).map_or(0, |k| u64::from(*k));
                // A broadcast batch dimension is copied out: each operand may grow to the output's batch.
                let batch = output.shape[..output.shape.len().saturating_sub(2)]
                    .iter()
                    .map(|d| u64::from(*d))
                    .product::<u64>();
                let grown = inputs.iter().map(|t| {
                    let matrix = t.shape[t.shape.len().saturating_sub(2)..]
                        .iter()
                        .map(|d| u64::from(*d))
                        .product::<u64>();
                    batch.saturating_mul(matrix).saturating_mul(4)
                });
                (
                    out.saturating_mul(k).saturating_mul(2),
                    grown.sum::<u64>().saturating_add(widened),
                )
            }
            Op::Linear => {
                let k = inputs.first().and_then(|a| a.shape.last()).map_or(0, |k| u64::from(*k));
                (
                    out.saturating_mul(k).saturating_mul(2),
                    copies().saturating_add(widened),
                )
            }
            Op::Softmax | Op::LogSoftmax => (
                out.saturating_mul(5),
                copies().saturating_add(widened.saturating_mul(2)),
            ),
            Op::LayerNorm | Op::RmsNorm => (out.saturating_mul(8), copies().saturating_add(widened)),
            Op::Sum | Op::Mean | Op::Max | Op::Min | Op::Argmax | Op::Argmin => (input, copies()),
            Op::Clamp => (out.saturating_mul(2), widened),
            Op::Rsqrt => (out.saturating_mul(2), widened),
            Op::Gelu | Op::Tanh | Op::Silu | Op::Sigmoid => (out.saturating_mul(10), 0),
            Op::GeluErf | Op::Erf => (out.saturating_mul(25), copies()),
            // Ids are widened to i64 to be checked; the table itself is read where it lies.
            Op::Embedding => (
                0,
                inputs
                    .get(1)
                    .map_or(0, |ids| ids.elements().saturating_mul(16))
                    .saturating_add(widened),
            ),
            Op::IndexSelect | Op::Where | Op::Pad => (0, copies()),
            Op::Cat | Op::Stack => (0, copies()),
            _ => (out, 0),
        };
        Cost { flops, temporary_bytes }
    }
}

/// One application of an op's rule.
struct Rule<'a, E> {
    spec: &'a OpSpec,
    inputs: &'a [&'a Type<E>],
    attrs: &'a [Attr],
}

impl<E: Extent> Rule<'_, E> {
    fn output(&self) -> Result<Type<E>, Error> {
        self.check_inputs()?;
        if self.attrs.len() > self.spec.attrs.len() {
            return Err(Error::invalid_input(format!(
                "{} attributes were given; it has {}: {}",
                self.attrs.len(),
                self.spec.attrs.len(),
                self.spec.signature()
            )));
        }
        match self.spec.op {
            Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Maximum | Op::Minimum => {
                self.same_dtype()?;
                Ok(Type {
                    dtype: self.inputs[0].dtype,
                    shape: self.broadcast_all(self.inputs)?,
                })
            }
            Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge => {
                self.same_dtype()?;
                Ok(Type {
                    dtype: DType::U8,
                    shape: self.broadcast_all(self.inputs)?,
                })
            }
            Op::Where => {
                if self.inputs[1].dtype != self.inputs[2].dtype {
                    return Err(Error::dtype("both choices must have one dtype: cast one of them"));
                }
                Ok(Type {
                    dtype: self.inputs[1].dtype,
                    shape: self.broadcast_all(self.inputs)?,
                })
            }
            Op::Affine => {
                self.float(0)?;
                self.float(1)?;
                Ok(self.same())
            }
            Op::Clamp => {
                let (min, max) = (self.float(0)?, self.float(1)?);
                if min <= max {
                    Ok(self.same())
                } else {
                    Err(Error::invalid_input(format!("min {min} exceeds max {max}")))
                }
            }
            Op::Powf => {
                self.float(0)?;
                Ok(self.same())
            }
            Op::Neg
            | Op::Abs
            | Op::Exp
            | Op::Log
            | Op::Sqrt
            | Op::Rsqrt
            | Op::Sqr
            | Op::Recip
            | Op::Sin
            | Op::Cos
            | Op::Tanh
            | Op::Sigmoid
            | Op::Silu
            | Op::Relu
            | Op::Gelu
            | Op::GeluErf
            | Op::Erf
            | Op::Floor
            | Op::Ceil
            | Op::Round
            | Op::Sign => Ok(self.same()),
            Op::Cast => Ok(Type {
                dtype: self.dtype(0)?,
                shape: self.inputs[0].shape.clone(),
            }),
            Op::Sum | Op::Mean | Op::Max | Op::Min => self.reduce(),
            Op::Argmax | Op::Argmin => {
                let axis = self.axis(0, self.rank())?;
                self.not_empty(axis)?;
                let shape = self.without(&[axis], self.flag(1)?);
                Ok(Type {
                    dtype: DType::U32,
                    shape,
                })
            }
            Op::Reshape => self.reshape(),
            Op::Transpose => {
                let (a, b) = (self.axis(0, self.rank())?, self.axis(1, self.rank())?);
                let mut output = self.same();
                output.shape.swap(a, b);
                Ok(output)
            }
            Op::Permute => {
                let axes = self.axes(0)?;
                if axes.len() != self.rank() {
                    return Err(Error::shape(format!(
                        "{} axes were given for {} dimensions",
                        axes.len(),
                        self.rank()
                    )));
                }
                let shape = axes.iter().map(|axis| self.inputs[0].shape[*axis].clone()).collect();
                Ok(Type {
                    dtype: self.inputs[0].dtype,
                    shape,
                })
            }
            Op::Narrow => {
                let axis = self.axis(0, self.rank())?;
                let (start, len) = (self.size(1)?, self.size(2)?);
                let end = start.plus(&len)?;
                let dim = &self.inputs[0].shape[axis];
                if let (Some(end), Some(dim)) = (end.known(), dim.known())
                    && end > dim
                {
                    return Err(Error::shape(format!(
                        "start {start} and len {len} reach past dimension {axis} of {dim}"
                    )));
                }
                let mut output = self.same();
                output.shape[axis] = len;
                Ok(output)
            }
            Op::BroadcastTo => self.broadcast_to(),
            Op::Squeeze => {
                let axis = self.axis(0, self.rank())?;
                let dim = &self.inputs[0].shape[axis];
                if dim.known() != Some(1) {
                    return Err(Error::shape(format!("dimension {axis} is {dim}, not 1")));
                }
                Ok(Type {
                    dtype: self.inputs[0].dtype,
                    shape: self.without(&[axis], false),
                })
            }
            Op::Unsqueeze => {
                let axis = self.axis(0, self.rank() + 1)?;
                let mut output = self.same();
                self.room_for_one_more()?;
                output.shape.insert(axis, E::of(1)?);
                Ok(output)
            }
            Op::Cat => self.cat(),
            Op::Stack => {
                self.same_dtype()?;
                let first = &self.inputs[0].shape;
                if let Some(other) = self.inputs.iter().find(|t| t.shape != *first) {
                    return Err(Error::shape(format!(
                        "{} and {} differ",
                        show(first),
                        show(&other.shape)
                    )));
                }
                self.room_for_one_more()?;
                let axis = self.axis(0, self.rank() + 1)?;
                let mut output = self.same();
                output.shape.insert(axis, E::of(self.inputs.len() as u64)?);
                Ok(output)
            }
            Op::Pad => {
                let axis = self.axis(0, self.rank())?;
                self.float(3)?;
                let mut output = self.same();
                output.shape[axis] = output.shape[axis].plus(&self.size(1)?)?.plus(&self.size(2)?)?;
                Ok(output)
            }
            Op::Matmul => self.matmul(),
            Op::Linear => self.linear(),
            Op::Embedding => {
                let [rows, width] = self.inputs[0].shape.as_slice() else {
                    return Err(Error::shape("the weight must have two dimensions, rows and width"));
                };
                let _ = rows;
                let ids = &self.inputs[1].shape;
                if ids.len() == MAX_RANK {
                    return Err(Error::shape(format!(
                        "the output would have more than {MAX_RANK} dimensions"
                    )));
                }
                let shape = ids.iter().chain(std::iter::once(width)).cloned().collect();
                Ok(Type {
                    dtype: self.inputs[0].dtype,
                    shape,
                })
            }
            Op::IndexSelect => {
                let axis = self.axis(0, self.rank())?;
                let [count] = self.inputs[1].shape.as_slice() else {
                    return Err(Error::shape("the ids must have one dimension"));
                };
                let mut output = self.same();
                output.shape[axis] = count.clone();
                Ok(output)
            }
            Op::Softmax | Op::LogSoftmax => {
                self.axis(0, self.rank())?;
                Ok(self.same())
            }
            Op::LayerNorm | Op::RmsNorm => {
                self.same_dtype()?;
                let Some(width) = self.inputs[0].shape.last() else {
                    return Err(Error::shape("x must have a dimension to normalise"));
                };
                for (input, spec) in self.inputs.iter().zip(self.spec.inputs).skip(1) {
                    if input.shape.as_slice() != std::slice::from_ref(width) {
                        return Err(Error::shape(format!(
                            "{} must have shape [{width}], the last dimension of x",
                            spec.name
                        )));
                    }
                }
                let eps = self.float(0)?;
                if eps > 0.0 {
                    Ok(self.same())
                } else {
                    Err(Error::invalid_input(format!("eps is {eps}; it must be positive")))
                }
            }
            Op::Full => {
                let value = self.float(1)?;
                let dtype = self.dtype(2)?;
                fits(value, dtype)?;
                Ok(Type {
                    dtype,
                    shape: self.shape(0)?,
                })
            }
            Op::Arange => {
                let len = self.size(0)?;
                let (start, step, dtype) = (self.float(1)?, self.float(2)?, self.dtype(3)?);
                fits(start, dtype)?;
                if let Some(len) = len.known() {
                    fits(start + step * len.saturating_sub(1) as f64, dtype)?;
                }
                Ok(Type {
                    dtype,
                    shape: std::iter::once(len).collect(),
                })
            }
        }
    }

    fn rank(&self) -> usize {
        self.inputs[0].shape.len()
    }

    fn same(&self) -> Type<E> {
        self.inputs[0].clone()
    }

    fn check_inputs(&self) -> Result<(), Error> {
        let specs = self.spec.inputs;
        let required = specs.iter().filter(|s| s.occurs != Occurs::Optional).count();
        let repeated = specs.last().is_some_and(|s| s.occurs == Occurs::Repeated);
        let given = self.inputs.len();
        if given < required || (given > specs.len() && !repeated) {
            return Err(Error::invalid_input(format!(
                "{given} inputs were given; it is {}",
                self.spec.signature()
            )));
        }
        for (i, input) in self.inputs.iter().enumerate() {
            let spec = &specs[i.min(specs.len() - 1)];
            let fine = match spec.accepts {
                Accepts::Any => true,
                Accepts::Float => input.dtype.is_float(),
                Accepts::Index => input.dtype.is_int(),
            };
            if !fine {
                let wants = if spec.accepts == Accepts::Float {
                    "f32, f16 or bf16"
                } else {
                    "u8, u32 or i64"
                };
                return Err(Error::dtype(format!(
                    "{} is {}; it must be {wants}: use cast/1",
                    spec.name, input.dtype
                )));
            }
        }
        Ok(())
    }

    fn same_dtype(&self) -> Result<(), Error> {
        let first = self.inputs[0].dtype;
        match self.inputs.iter().find(|t| t.dtype != first) {
            None => Ok(()),
            Some(other) => Err(Error::dtype(format!(
                "{first} and {} do not mix: use cast/1 on one of them",
                other.dtype
            ))),
        }
    }

    fn broadcast_all(&self, types: &[&Type<E>]) -> Result<Shape<E>, Error> {
        let mut shape = types[0].shape.clone();
        for other in &types[1..] {
            shape = broadcast(&shape, &other.shape)?;
        }
        Ok(shape)
    }

    fn reduce(&self) -> Result<Type<E>, Error> {
        let mut axes = self.axes(0)?;
        if axes.is_empty() {
            axes = (0..self.rank()).collect();
        }
        if matches!(self.spec.op, Op::Max | Op::Min) {
            for axis in &axes {
                self.not_empty(*axis)?;
            }
        }
        Ok(Type {
            dtype: self.inputs[0].dtype,
            shape: self.without(&axes, self.flag(1)?),
        })
    }

    fn not_empty(&self, axis: usize) -> Result<(), Error> {
        match self.inputs[0].shape[axis].known() {
            Some(0) => Err(Error::shape(format!("dimension {axis} is empty"))),
            _ => Ok(()),
        }
    }

    /// The first input's shape with axes taken away, or made 1.
    fn without(&self, axes: &[usize], keep: bool) -> Shape<E> {
        let dims = self.inputs[0].shape.iter().enumerate();
        let one = E::of(1).ok();
        dims.filter_map(|(i, dim)| match (axes.contains(&i), keep) {
            (false, _) => Some(dim.clone()),
            (true, true) => one.clone(),
            (true, false) => None,
        })
        .collect()
    }

    fn room_for_one_more(&self) -> Result<(), Error> {
        if self.rank() < MAX_RANK {
            return Ok(());
        }
        Err(Error::shape(format!(
            "the output would have more than {MAX_RANK} dimensions"
        )))
    }

    fn reshape(&self) -> Result<Type<E>, Error> {
        let input = &self.inputs[0].shape;
        let mut wildcard = None;
        let shape: Shape<E> = match self.attrs.first() {
            Some(Attr::Ints(ints)) => {
                if ints.len() > MAX_RANK {
                    return Err(Error::shape(format!(
                        "{} dimensions; at most {MAX_RANK} are allowed",
                        ints.len()
                    )));
                }
                let mut shape = Shape::new();
                for (i, int) in ints.iter().enumerate() {
                    if *int == -1 && wildcard.replace(i).is_some() {
                        return Err(Error::shape("only one dimension may be -1"));
                    }
                    shape.push(if *int == -1 { E::of(1)? } else { dimension(*int)? });
                }
                shape
            }
            _ => self.shape(0)?,
        };
        check_shape(&shape)?;
        let (have, want) = (product(input)?, product(&shape)?);
        let mut shape = shape;
        if let Some(at) = wildcard {
            shape[at] = match have.over(&want) {
                Some(left) if want.known() != Some(0) => left,
                _ => {
                    return Err(Error::shape(format!(
                        "{have} elements do not divide into {}",
                        self.shown_shape()
                    )));
                }
            };
        } else if have != want {
            return Err(Error::shape(format!(
                "{have} elements do not fit {}, which takes {want}",
                show(&shape)
            )));
        }
        Ok(Type {
            dtype: self.inputs[0].dtype,
            shape,
        })
    }

    fn shown_shape(&self) -> String {
        match self.attrs.first() {
            Some(Attr::Ints(ints)) => show(ints),
            Some(Attr::Dims(dims)) => show(dims),
            _ => String::new(),
        }
    }

    fn broadcast_to(&self) -> Result<Type<E>, Error> {
        let (input, target) = (&self.inputs[0].shape, self.shape(0)?);
        let fail = || {
            Error::shape(format!(
                "it does not broadcast to {}: only dimensions of 1 repeat",
                show(&target)
            ))
        };
        let added = target.len().checked_sub(input.len()).ok_or_else(fail)?;
        for (have, want) in input.iter().zip(&target[added..]) {
            if have != want && have.known() != Some(1) {
                return Err(fail());
            }
        }
        Ok(Type {
            dtype: self.inputs[0].dtype,
            shape: target,
        })
    }

    fn cat(&self) -> Result<Type<E>, Error> {
        self.same_dtype()?;
        let axis = self.axis(0, self.rank())?;
        let mut output = self.same();
        for other in &self.inputs[1..] {
            let agree = other.shape.len() == output.shape.len()
                && other
                    .shape
                    .iter()
                    .zip(&output.shape)
                    .enumerate()
                    .all(|(i, (a, b))| i == axis || a == b);
            if !agree {
                return Err(Error::shape(format!("all but dimension {axis} must agree")));
            }
            output.shape[axis] = output.shape[axis].plus(&other.shape[axis])?;
        }
        Ok(output)
    }

    fn matmul(&self) -> Result<Type<E>, Error> {
        self.same_dtype()?;
        let (a, b) = (&self.inputs[0].shape, &self.inputs[1].shape);
        let ([left @ .., m, k], [right @ .., k2, n]) = (a.as_slice(), b.as_slice()) else {
            return Err(Error::shape("both must have at least two dimensions: use unsqueeze/1"));
        };
        if k != k2 {
            return Err(Error::shape(format!("{k} columns of a do not meet {k2} rows of b")));
        }
        let mut shape = broadcast(left, right)?;
        shape.push(m.clone());
        shape.push(n.clone());
        Ok(Type {
            dtype: self.inputs[0].dtype,
            shape,
        })
    }

    fn linear(&self) -> Result<Type<E>, Error> {
        self.same_dtype()?;
        let [output, input] = self.inputs[1].shape.as_slice() else {
            return Err(Error::shape("the weight must have two dimensions, out and in"));
        };
        if self.inputs[0].shape.last() != Some(input) {
            return Err(Error::shape(format!(
                "the last dimension of x must be {input}, the weight's second"
            )));
        }
        if let Some(bias) = self.inputs.get(2)
            && bias.shape.as_slice() != std::slice::from_ref(output)
        {
            return Err(Error::shape(format!(
                "the bias must have shape [{output}], the weight's first dimension"
            )));
        }
        let mut result = self.same();
        if let Some(last) = result.shape.last_mut() {
            *last = output.clone();
        }
        Ok(result)
    }

    fn given(&self, at: usize) -> Option<&Attr> {
        self.attrs.get(at).filter(|attr| **attr != Attr::Unset)
    }

    #[cold]
    fn misfit(&self, at: usize) -> Error {
        let spec = &self.spec.attrs[at];
        let given = self
            .given(at)
            .map_or_else(|| "not given".to_owned(), |attr| format!("{attr:?}"));
        Error::invalid_input(format!(
            "attribute `{}` is {given}; it is {}",
            spec.name,
            self.spec.signature()
        ))
    }

    fn flag(&self, at: usize) -> Result<bool, Error> {
        attr_flag(self.spec, self.attrs, at).ok_or_else(|| self.misfit(at))
    }

    fn float(&self, at: usize) -> Result<f64, Error> {
        attr_float(self.spec, self.attrs, at)
            .filter(|value| !value.is_nan())
            .ok_or_else(|| self.misfit(at))
    }

    fn dtype(&self, at: usize) -> Result<DType, Error> {
        attr_dtype(self.spec, self.attrs, at).ok_or_else(|| self.misfit(at))
    }

    fn axis(&self, at: usize, rank: usize) -> Result<usize, Error> {
        let axis = attr_axis(self.spec, self.attrs, at).ok_or_else(|| self.misfit(at))?;
        normalise(axis, rank)
    }

    fn axes(&self, at: usize) -> Result<SmallVec<[usize; MAX_RANK]>, Error> {
        let given: &[i64] = match self.given(at) {
            None => &[],
            Some(Attr::Ints(ints)) => ints,
            Some(Attr::Int(int)) => std::slice::from_ref(int),
            Some(_) => return Err(self.misfit(at)),
        };
        let mut axes = SmallVec::new();
        for axis in given {
            let axis = normalise(*axis, self.rank())?;
            if axes.contains(&axis) {
                return Err(Error::shape(format!("dimension {axis} is named twice")));
            }
            axes.push(axis);
        }
        Ok(axes)
    }

    fn size(&self, at: usize) -> Result<E, Error> {
        match self.given(at) {
            Some(Attr::Int(int)) => dimension(*int),
            Some(Attr::Ints(ints)) if ints.len() == 1 => dimension(ints[0]),
            Some(Attr::Dims(dims)) if dims.len() == 1 => E::from_dim(&dims[0]),
            _ => Err(self.misfit(at)),
        }
    }

    fn shape(&self, at: usize) -> Result<Shape<E>, Error> {
        match self.given(at) {
            Some(Attr::Ints(ints)) if ints.len() <= MAX_RANK => ints.iter().map(|int| dimension(*int)).collect(),
            Some(Attr::Dims(dims)) if dims.len() <= MAX_RANK => dims.iter().map(E::from_dim).collect(),
            Some(Attr::Ints(_) | Attr::Dims(_)) => {
                Err(Error::shape(format!("a shape may have at most {MAX_RANK} dimensions")))
            }
            _ => Err(self.misfit(at)),
        }
    }
}

/// A flag attribute or its default.
pub fn attr_flag(spec: &OpSpec, attrs: &[Attr], at: usize) -> Option<bool> {
    match (attrs.get(at), spec.attrs.get(at)?.kind) {
        (Some(Attr::Flag(flag)), _) => Some(*flag),
        (None | Some(Attr::Unset), AttrKind::Flag(default)) => Some(default),
        _ => None,
    }
}

/// A number attribute or its default.
pub fn attr_float(spec: &OpSpec, attrs: &[Attr], at: usize) -> Option<f64> {
    match (attrs.get(at), spec.attrs.get(at)?.kind) {
        (Some(Attr::Float(value)), _) => Some(*value),
        (Some(Attr::Int(value)), _) => Some(*value as f64),
        (None | Some(Attr::Unset), AttrKind::Float(default)) => default,
        _ => None,
    }
}

/// A dtype attribute or its default.
pub fn attr_dtype(spec: &OpSpec, attrs: &[Attr], at: usize) -> Option<DType> {
    match (attrs.get(at), spec.attrs.get(at)?.kind) {
        (Some(Attr::DType(dtype)), _) => Some(*dtype),
        (None | Some(Attr::Unset), AttrKind::DType(default)) => default,
        _ => None,
    }
}

/// An axis attribute or its default, as given.
pub fn attr_axis(spec: &OpSpec, attrs: &[Attr], at: usize) -> Option<i64> {
    match (attrs.get(at), spec.attrs.get(at)?.kind) {
        (Some(Attr::Int(axis)), _) => Some(*axis),
        (None | Some(Attr::Unset), AttrKind::Axis(default)) => default,
        _ => None,
    }
}

/// A place among `rank` dimensions.
///
/// # Errors
/// `shape` if there is no such dimension.
pub fn normalise(axis: i64, rank: usize) -> Result<usize, Error> {
    let signed = rank as i64;
    let place = if axis < 0 { axis.checked_add(signed) } else { Some(axis) };
    match place {
        Some(place) if (0..signed).contains(&place) => Ok(place as usize),
        _ => Err(Error::shape(format!("there is no dimension {axis} among {rank}"))),
    }
}

/// Two shapes made one: dimensions of 1, and missing ones on the left, repeat.
///
/// # Errors
/// `shape` if two dimensions differ and neither is 1.
pub fn broadcast<E: Extent>(a: &[E], b: &[E]) -> Result<Shape<E>, Error> {
    let rank = a.len().max(b.len());
    let mut shape = Shape::with_capacity(rank);
    for i in 0..rank {
        let left = (i + a.len()).checked_sub(rank).map(|i| &a[i]);
        let right = (i + b.len()).checked_sub(rank).map(|i| &b[i]);
        shape.push(match (left, right) {
            (Some(left), Some(right)) if left == right || right.known() == Some(1) => left.clone(),
            (Some(left), Some(right)) if left.known() == Some(1) => right.clone(),
            (Some(left), Some(right)) => {
                return Err(Error::shape(format!(
                    "{} and {} do not broadcast: {left} meets {right}, and neither is 1",
                    show(a),
                    show(b)
                )));
            }
            (Some(only), None) | (None, Some(only)) => only.clone(),
            (None, None) => continue,
        });
    }
    Ok(shape)
}

fn product<E: Extent>(shape: &[E]) -> Result<E, Error> {
    // Zero wins over an overflow elsewhere.
    if shape.iter().any(|dim| dim.known() == Some(0)) {
        return E::of(0);
    }
    shape.iter().try_fold(E::of(1)?, |product, dim| product.times(dim))
}

fn dimension<E: Extent>(int: i64) -> Result<E, Error> {
    let value = u32::try_from(int)
        .map_err(|_| Error::shape(format!("{int} is no dimension: it must be from 0 to 4294967295")))?;
    E::of(u64::from(value))
}

/// Whether an integer type can hold a number.
fn fits(value: f64, dtype: DType) -> Result<(), Error> {
    let (min, max) = match dtype {
        DType::U8 => (0.0, f64::from(u8::MAX)),
        DType::U32 => (0.0, f64::from(u32::MAX)),
        DType::I64 => (-9.007_199_254_740_992e15, 9.007_199_254_740_992e15),
        _ => return Ok(()),
    };
    if (min..=max).contains(&value) && value.fract() == 0.0 {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "{value} is not an integer that {dtype} holds exactly"
    )))
}
