//! Rules of images `[n, c, h, w]`: convolutions, pools, sizes; of normalisations by channel; of random numbers.

use super::Rule;
use crate::attrs::{attr_padding, attr_pair};
use crate::dtype::DType;
use crate::error::Error;
use crate::extent::Extent;
use crate::table::Op;
use crate::types::{Type, show};

/// The largest kernel, stride, dilation, padding and factor: far beyond what images need, and small enough that no sum overflows.
const MAX: i64 = 1 << 16;

/// The names of the two dimensions that a kernel moves along.
const AXES: [&str; 2] = ["height", "width"];

/// A kernel's way along one dimension.
#[derive(Clone, Copy)]
struct Way {
    kernel: u64,
    stride: u64,
    /// Before and after.
    padding: [u64; 2],
    dilation: u64,
}

impl Way {
    /// From the first element that the kernel sees to the last, both included.
    fn span(&self) -> u64 {
        (self.kernel - 1) * self.dilation + 1
    }
}

impl<E: Extent> Rule<'_, E> {
    pub(super) fn vision(&self) -> Result<Type<E>, Error> {
        match self.spec.op {
            Op::Conv2d => self.conv2d(),
            Op::ConvTranspose2d => self.conv_transpose2d(),
            Op::MaxPool2d | Op::AvgPool2d => self.pool2d(),
            Op::AdaptiveAvgPool2d | Op::ResizeNearest2d | Op::ResizeBilinear2d => self.sized(),
            Op::GroupNorm => self.group_norm(),
            Op::BatchNorm => {
                self.by_channel(false)?;
                self.eps(0)
            }
            Op::Prelu => {
                self.by_channel(true)?;
                Ok(self.same())
            }
            Op::LeakyRelu | Op::Elu => {
                self.float(0)?;
                Ok(self.same())
            }
            Op::PixelShuffle => self.pixel_shuffle(),
            Op::PixelUnshuffle => self.pixel_unshuffle(),
            Op::Randn | Op::RandUniform => {
                self.int(1, i64::MIN..=i64::MAX)?;
                self.int(2, i64::MIN..=i64::MAX)?;
                Ok(Type {
                    dtype: DType::F32,
                    shape: self.shape(0)?,
                })
            }
            _ => Ok(self.same()),
        }
    }

    /// The dimensions of x, of which no more than the first is empty.
    fn image(&self) -> Result<[&E; 4], Error> {
        let [n, c, h, w] = self.inputs[0].shape.as_slice() else {
            return Err(Error::shape("x must have four dimensions, [n, c, h, w]"));
        };
        (1..4).try_for_each(|axis| self.not_empty(axis))?;
        Ok([n, c, h, w])
    }

    /// A number from 0 or 1 up to a limit, by an attribute's name.
    fn bounded(&self, at: usize, value: i64, least: i64) -> Result<u64, Error> {
        if (least..=MAX).contains(&value) {
            return Ok(value.unsigned_abs());
        }
        let name = self.spec.attrs[at].name;
        Err(Error::invalid_input(format!(
            "{name} has {value}; it must be from {least} to {MAX}"
        )))
    }

    fn pair(&self, at: usize, least: i64) -> Result<[u64; 2], Error> {
        let [y, x] = attr_pair(self.spec, self.attrs, at).ok_or_else(|| self.misfit(at))?;
        Ok([self.bounded(at, y, least)?, self.bounded(at, x, least)?])
    }

    /// The kernel's two sizes, which must be known.
    fn kernel(&self) -> Result<[u64; 2], Error> {
        let [_, _, kh, kw] = self.inputs[1].shape.as_slice() else {
            return Err(Error::shape(
                "the weight must have four dimensions, the last two the kernel's",
            ));
        };
        let size = |dim: &E| match dim.known() {
            Some(size @ 1..=65_536) => Ok(size),
            Some(size) => Err(Error::shape(format!("a kernel of {size}; it must be from 1 to {MAX}"))),
            None => Err(Error::shape(format!(
                "a kernel of {dim} must be concrete: use a number"
            ))),
        };
        Ok([size(kh)?, size(kw)?])
    }

    fn groups(&self, at: usize) -> Result<E, Error> {
        E::of(self.int(at, 1..=i64::from(u32::MAX))?.unsigned_abs())
    }

    fn bias(&self, channels: &E) -> Result<(), Error> {
        match self.inputs.get(2) {
            Some(bias) if bias.shape.as_slice() != std::slice::from_ref(channels) => Err(Error::shape(format!(
                "the bias must have shape [{channels}], one a channel of the output"
            ))),
            _ => Ok(()),
        }
    }

    fn conv2d(&self) -> Result<Type<E>, Error> {
        self.same_dtype()?;
        let [n, c, h, w] = self.image()?;
        let kernel = self.kernel()?;
        let (stride, dilation) = (self.pair(0, 1)?, self.pair(2, 1)?);
        let padding = attr_padding(self.spec, self.attrs, 1).ok_or_else(|| self.misfit(1))?;
        let mut around = [0; 4];
        for (to, value) in around.iter_mut().zip(padding) {
            *to = self.bounded(1, value, 0)?;
        }
        let groups = self.groups(3)?;
        let (o, depth) = (&self.inputs[1].shape[0], &self.inputs[1].shape[1]);
        if depth.times(&groups)? != *c || o.over(&groups).is_none() {
            return Err(Error::shape(format!(
                "{groups} groups of {depth} channels and {o} kernels do not fit {c} channels: the weight is [o, c / groups, kh, kw], \
                 and groups divides o"
            )));
        }
        self.bias(o)?;
        let ways = [0, 1].map(|axis| Way {
            kernel: kernel[axis],
            stride: stride[axis],
            padding: [around[2 * axis], around[2 * axis + 1]],
            dilation: dilation[axis],
        });
        self.images([n.clone(), o.clone(), along(0, h, &ways[0])?, along(1, w, &ways[1])?])
    }

    fn conv_transpose2d(&self) -> Result<Type<E>, Error> {
        self.same_dtype()?;
        let [n, c, h, w] = self.image()?;
        let kernel = self.kernel()?;
        let (stride, padding) = (self.pair(0, 1)?, self.pair(1, 0)?);
        let (extra, dilation) = (self.pair(2, 0)?, self.pair(3, 1)?);
        let groups = self.groups(4)?;
        let (depth, each) = (&self.inputs[1].shape[0], &self.inputs[1].shape[1]);
        if depth != c || c.over(&groups).is_none() {
            return Err(Error::shape(format!(
                "kernels of {depth} channels in {groups} groups do not fit {c} channels: the weight is [c, o / groups, kh, kw], and \
                 groups divides c"
            )));
        }
        let o = each.times(&groups)?;
        self.bias(&o)?;
        let mut sizes = Vec::with_capacity(2);
        for (axis, dim) in [h, w].into_iter().enumerate() {
            if extra[axis] >= stride[axis].max(dilation[axis]) {
                return Err(Error::invalid_input(format!(
                    "output_padding {} must be less than the stride or the dilation",
                    extra[axis]
                )));
            }
            let more = dilation[axis] * (kernel[axis] - 1) + extra[axis] + 1;
            let less = stride[axis] + 2 * padding[axis];
            sizes.push(match dim.known() {
                Some(dim) => {
                    let end = dim.saturating_mul(stride[axis]).saturating_add(more);
                    match end.checked_sub(less) {
                        Some(size @ 1..) => E::of(size)?,
                        _ => {
                            return Err(Error::shape(format!(
                                "padding {} leaves no {}",
                                padding[axis], AXES[axis]
                            )));
                        }
                    }
                }
                None => dim
                    .times(&E::of(stride[axis])?)?
                    .plus(&E::of(more)?)?
                    .minus(&E::of(less)?)?,
            });
        }
        self.images([n.clone(), o, sizes[0].clone(), sizes[1].clone()])
    }

    fn pool2d(&self) -> Result<Type<E>, Error> {
        let [n, c, h, w] = self.image()?;
        let (kernel, stride, padding) = (self.pair(0, 1)?, self.pair(1, 0)?, self.pair(2, 0)?);
        if self.flag(3)? {
            return Err(Error::unsupported(
                "ceil_mode must be false: pad the image with pad/1 instead",
            ));
        }
        if self.spec.op == Op::AvgPool2d {
            self.flag(4)?;
        }
        if (0..2).any(|axis| padding[axis] >= kernel[axis]) {
            return Err(Error::invalid_input(format!(
                "padding {padding:?} must be less than the kernel {kernel:?}"
            )));
        }
        let ways = [0, 1].map(|axis| Way {
            kernel: kernel[axis],
            stride: if stride[axis] == 0 { kernel[axis] } else { stride[axis] },
            padding: [padding[axis]; 2],
            dilation: 1,
        });
        self.images([n.clone(), c.clone(), along(0, h, &ways[0])?, along(1, w, &ways[1])?])
    }

    /// A size is given for the last two dimensions.
    fn sized(&self) -> Result<Type<E>, Error> {
        let [n, c, ..] = self.image()?;
        let size = self.shape(0)?;
        if self.spec.op != Op::AdaptiveAvgPool2d {
            self.flag(1)?;
        }
        let [h, w] = size.as_slice() else {
            return Err(Error::shape(format!(
                "the size is {}; it must be two numbers, [height, width]",
                show(&size)
            )));
        };
        self.images([n.clone(), c.clone(), h.clone(), w.clone()])
    }

    fn images(&self, shape: [E; 4]) -> Result<Type<E>, Error> {
        Ok(Type::new(self.inputs[0].dtype, shape))
    }

    /// The channels of x, one for each element of the other inputs; of which there may be one for all.
    fn by_channel(&self, or_one: bool) -> Result<&E, Error> {
        self.same_dtype()?;
        let [_, c, ..] = self.inputs[0].shape.as_slice() else {
            return Err(Error::shape("x must have at least two dimensions, [n, c, ..]"));
        };
        for (input, spec) in self.inputs.iter().zip(self.spec.inputs).skip(1) {
            let fits = match input.shape.as_slice() {
                [size] => size == c || (or_one && size.known() == Some(1)),
                _ => false,
            };
            if !fits {
                let or_one = if or_one { " or [1]" } else { "" };
                return Err(Error::shape(format!(
                    "{} is {}; it must be [{c}]{or_one}, one a channel of x",
                    spec.name,
                    show(&input.shape)
                )));
            }
        }
        Ok(c)
    }

    fn group_norm(&self) -> Result<Type<E>, Error> {
        let c = self.by_channel(false)?;
        let groups = self.groups(0)?;
        if c.over(&groups).is_none() {
            return Err(Error::shape(format!("{groups} groups do not divide {c} channels")));
        }
        self.eps(1)
    }

    fn eps(&self, at: usize) -> Result<Type<E>, Error> {
        let eps = self.float(at)?;
        if eps > 0.0 && eps.is_finite() {
            return Ok(self.same());
        }
        Err(Error::invalid_input(format!("eps is {eps}; it must be positive")))
    }

    fn factor(&self) -> Result<E, Error> {
        E::of(self.int(0, 1..=MAX)?.unsigned_abs())
    }

    fn pixel_shuffle(&self) -> Result<Type<E>, Error> {
        let [n, c, h, w] = self.inputs[0].shape.as_slice() else {
            return Err(Error::shape("x must have four dimensions, [n, c, h, w]"));
        };
        let f = self.factor()?;
        let channels = c.over(&f).and_then(|c| c.over(&f));
        let channels = channels.ok_or_else(|| Error::shape(format!("{f} times {f} does not divide {c} channels")))?;
        self.images([n.clone(), channels, h.times(&f)?, w.times(&f)?])
    }

    fn pixel_unshuffle(&self) -> Result<Type<E>, Error> {
        let [n, c, h, w] = self.inputs[0].shape.as_slice() else {
            return Err(Error::shape("x must have four dimensions, [n, c, h, w]"));
        };
        let f = self.factor()?;
        let part = |axis: usize, dim: &E| {
            dim.over(&f)
                .ok_or_else(|| Error::shape(format!("{f} does not divide the {} {dim}", AXES[axis])))
        };
        self.images([n.clone(), c.times(&f)?.times(&f)?, part(0, h)?, part(1, w)?])
    }
}

/// How many places a kernel has along one dimension: `(dim + padding - span) / stride + 1`, rounded down.
fn along<E: Extent>(axis: usize, dim: &E, way: &Way) -> Result<E, Error> {
    let [before, after] = way.padding;
    if let Some(size) = dim.known() {
        let left = (size + before + after).checked_sub(way.span()).ok_or_else(|| {
            Error::shape(format!(
                "a kernel over {} elements does not fit the padded {} of {}",
                way.span(),
                AXES[axis],
                size + before + after
            ))
        })?;
        return E::of(left / way.stride + 1);
    }
    let left = dim.plus(&E::of(before + after)?)?.minus(&E::of(way.span())?)?;
    // Rounded down, what is left over is a number from 0 up to the stride: one of them may leave a polynomial.
    let stride = E::of(way.stride)?;
    let places = (0..way.stride.min(64)).find_map(|rest| left.minus(&E::of(rest).ok()?).ok()?.over(&stride));
    let places = places.ok_or_else(|| {
        Error::shape(format!(
            "dimension {} of x, its {}, is {dim}; with a stride of {} the output's is known only if that is concrete or its \
             symbols come in multiples of the stride: use a number, or a program input of a multiple",
            axis + 2,
            AXES[axis],
            way.stride
        ))
    })?;
    places.plus(&E::of(1)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::types::Attr;
    use crate::{DType, Dim, Type, lookup, spec};

    fn infer(op: &str, shapes: &[&[Dim]], attrs: &[Attr]) -> Result<String, String> {
        let spec = spec(lookup(op).unwrap()).unwrap();
        let types: Vec<_> = shapes
            .iter()
            .map(|s| Type::new(DType::F32, s.iter().cloned()))
            .collect();
        spec.infer(&types, attrs)
            .map(|ty| ty.to_string())
            .map_err(|e| e.message)
    }

    fn n(value: usize) -> Dim {
        Dim::from(value)
    }

    #[test]
    fn symbols_pass_where_the_division_leaves_a_polynomial() {
        let h = Dim::symbol(0);
        let weight = [n(8), n(3), n(3), n(3)];
        let attrs = |stride| [Attr::Int(stride), Attr::Int(1)];
        let conv = |h: &Dim, stride| infer("conv2d/1", &[&[n(1), n(3), h.clone(), n(9)], &weight], &attrs(stride));
        assert_eq!(conv(&h, 1).unwrap(), "f32[1, 8, s0, 9]");
        assert_eq!(conv(&(h.clone() * 2), 2).unwrap(), "f32[1, 8, s0, 5]");
        let message = conv(&h, 2).unwrap_err();
        assert!(message.contains("dimension 2 of x, its height, is s0"), "{message}");
        let up = infer(
            "conv_transpose2d/1",
            &[&[n(1), n(8), h.clone(), h.clone()], &weight],
            &[Attr::Int(2)],
        );
        assert_eq!(up.unwrap(), "f32[1, 3, 2*s0 + 1, 2*s0 + 1]");
        let image = [n(1), n(4), h.clone(), h.clone()];
        let size = Attr::Dims(vec![h.clone() * 2, n(7)]);
        assert_eq!(
            infer("resize_nearest2d/1", &[&image], &[size]).unwrap(),
            "f32[1, 4, 2*s0, 7]"
        );
        let pooled = infer("max_pool2d/1", &[&[n(1), n(4), h.clone() * 4, h * 2]], &[Attr::Int(2)]);
        assert_eq!(pooled.unwrap(), "f32[1, 4, 2*s0, s0]");
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let x = [n(1), n(4), n(5), n(5)];
        let kernel = [n(6), n(2), n(3), n(3)];
        let grouped = |groups| vec![Attr::Unset, Attr::Unset, Attr::Unset, Attr::Int(groups)];
        assert!(infer("conv2d/1", &[&x, &kernel], &grouped(2)).is_ok());
        for attrs in [
            grouped(1),
            grouped(0),
            grouped(-2),
            vec![Attr::Int(0), Attr::Unset, Attr::Unset, Attr::Int(2)],
            vec![Attr::Ints(vec![1, 1, 1]), Attr::Unset, Attr::Unset, Attr::Int(2)],
            vec![Attr::Unset, Attr::Int(-1), Attr::Unset, Attr::Int(2)],
            vec![Attr::Unset, Attr::Int(i64::MAX), Attr::Unset, Attr::Int(2)],
            vec![Attr::Unset, Attr::Unset, Attr::Int(3), Attr::Int(2)],
        ] {
            assert!(infer("conv2d/1", &[&x, &kernel], &attrs).is_err(), "{attrs:?}");
        }
        assert!(infer("conv2d/1", &[&x, &[n(6), n(4), n(0), n(3)]], &[]).is_err());
        assert!(infer("max_pool2d/1", &[&x], &[Attr::Int(6)]).is_err());
        assert!(infer("max_pool2d/1", &[&x], &[Attr::Int(2), Attr::Unset, Attr::Int(2)]).is_err());
        assert!(
            infer(
                "conv_transpose2d/1",
                &[&x, &[n(4), n(1), n(1), n(1)]],
                &[Attr::Int(1), Attr::Int(3)]
            )
            .is_err()
        );
        assert!(infer("group_norm/1", &[&x], &[Attr::Int(3)]).is_err());
        assert!(infer("pixel_shuffle/1", &[&x], &[Attr::Int(3)]).is_err());
        let empty: [Dim; 4] = [n(1), n(4), n(0), n(5)];
        assert!(infer("resize_bilinear2d/1", &[&empty], &[Attr::Ints(vec![2, 2])]).is_err());
    }

    #[test]
    fn sides_may_be_padded_each_on_its_own() {
        let x = [n(1), n(1), n(4), n(4)];
        let kernel = [n(1), n(1), n(2), n(2)];
        let padding = Attr::Ints(vec![0, 1, 2, 3]);
        assert_eq!(
            infer("conv2d/1", &[&x, &kernel], &[Attr::Unset, padding]).unwrap(),
            "f32[1, 1, 4, 8]"
        );
    }
}
