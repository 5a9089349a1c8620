//! What each op returns for what it is given: element types and shapes. Written once, for numbers and for polynomials.

mod attention;
mod sequence;
mod shapes;
mod vision;

use smallvec::SmallVec;

use crate::MAX_RANK;
use crate::attrs::{attr_axis, attr_dtype, attr_flag, attr_float, attr_int, normalise};
use crate::dtype::DType;
use crate::error::Error;
use crate::extent::Extent;
use crate::table::{Accepts, Occurs, Op, OpSpec};
use crate::types::{Attr, Shape, Type, check_shape, show};

pub use shapes::broadcast;

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
            .map_err(|error| error.at(self.applied_to(inputs)))
    }

    /// The op and what it was given, for messages.
    pub fn applied_to<E: Extent>(&self, inputs: &[&Type<E>]) -> String {
        format!("{} of {}", self.name, show_types(inputs))
    }
}

/// The types of an op's inputs, for messages: the first few of many.
fn show_types<E: Extent>(types: &[&Type<E>]) -> String {
    const SHOWN: usize = 4;
    let mut shown: Vec<_> = types.iter().take(SHOWN).map(ToString::to_string).collect();
    if types.is_empty() {
        shown.push("nothing".to_owned());
    } else if types.len() > SHOWN {
        shown.push(format!("{} more", types.len() - SHOWN));
    }
    shown.join(" and ")
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
            Op::Rope => self.rope(),
            Op::Attention => self.attention(),
            Op::CachedAttention => self.cached_attention(),
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
            Op::Conv2d
            | Op::ConvTranspose2d
            | Op::MaxPool2d
            | Op::AvgPool2d
            | Op::AdaptiveAvgPool2d
            | Op::ResizeNearest2d
            | Op::ResizeBilinear2d
            | Op::GroupNorm
            | Op::BatchNorm
            | Op::Prelu
            | Op::LeakyRelu
            | Op::Elu
            | Op::HardSigmoid
            | Op::HardSwish
            | Op::Mish
            | Op::Softplus
            | Op::PixelShuffle
            | Op::PixelUnshuffle
            | Op::Randn
            | Op::RandUniform => self.vision(),
            Op::Sample
            | Op::Argsort
            | Op::Topk
            | Op::Gather
            | Op::Scatter
            | Op::ScatterAdd
            | Op::IndexAdd
            | Op::Conv1d
            | Op::ConvTranspose1d
            | Op::Cumsum
            | Op::Cumprod
            | Op::PadReflect
            | Op::PadReplicate
            | Op::Lstm
            | Op::Gru
            | Op::ResizeLinear1d
            | Op::ResizeNearest1d
            | Op::Stft
            | Op::Istft
            | Op::Tril
            | Op::Triu
            | Op::Flip
            | Op::Roll
            | Op::Repeat
            | Op::RepeatInterleave
            | Op::OneHot
            | Op::Logsumexp
            | Op::Var
            | Op::L2Normalize
            | Op::Rem
            | Op::Pow
            | Op::Atan2
            | Op::Log1p
            | Op::Expm1
            | Op::Snake
            | Op::Glu => self.sequence(),
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

    /// An integer attribute from a range.
    fn int(&self, at: usize, range: std::ops::RangeInclusive<i64>) -> Result<i64, Error> {
        let value = attr_int(self.spec, self.attrs, at).ok_or_else(|| self.misfit(at))?;
        if range.contains(&value) {
            return Ok(value);
        }
        Err(Error::invalid_input(format!(
            "{} is {value}; it must be from {} to {}",
            self.spec.attrs[at].name,
            range.start(),
            range.end()
        )))
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
