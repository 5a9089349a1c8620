//! Images, channels and random numbers: half floats and what is strided as dense f32, then the kernels of maquette-kernels.

use candle_core::{CpuStorage, DType as Candle, Device, Storage, Tensor, WithDType};
use maquette_kernels::activation::{Function, activate};
use maquette_kernels::channels::{Batch, batch_norm, group_norm, prelu};
use maquette_kernels::conv::{Conv2d, ConvTranspose2d, conv_transpose2d, conv2d};
use maquette_kernels::pool::{Pool2d, Reduce, adaptive_avg_pool2d, pool2d};
use maquette_kernels::random::{Distribution, random};
use maquette_kernels::resize::{Resize2d, resize_bilinear2d, resize_nearest2d};
use maquette_kernels::shuffle::{pixel_shuffle, pixel_unshuffle};
use maquette_ops::{Error, Op, attr_flag, attr_int, attr_padding, attr_pair};
use smallvec::SmallVec;

use super::dense::elements;
use super::{Kernel, Result, pieces, widened};
use crate::tensor::{candle_dtype, dims};

/// Four dimensions.
fn four(shape: &[usize]) -> Result<[usize; 4]> {
    Ok(shape
        .try_into()
        .map_err(|_| Error::internal("an image without four dimensions"))?)
}

/// `[n, c, the rest]`.
fn by_channel(shape: &[usize]) -> Result<[usize; 3]> {
    match shape {
        [n, c, rest @ ..] => Ok([*n, *c, rest.iter().product()]),
        _ => Err(Error::internal("an input without channels").into()),
    }
}

impl Kernel<'_> {
    /// Runs an op of images, whose output has elements.
    pub(super) fn vision(&self, op: Op) -> Result<Tensor> {
        if matches!(op, Op::PixelShuffle | Op::PixelUnshuffle) {
            return self.shuffle(op);
        }
        let dense = self.inputs.iter().map(|input| pieces::contiguous(&widened(input)?));
        let dense: SmallVec<[Tensor; 5]> = dense.collect::<Result<_>>()?;
        let elements = dense
            .iter()
            .map(|x| elements(x).ok_or_else(|| Error::internal("elements that are not dense f32")));
        let elements: SmallVec<[_; 5]> = elements.collect::<Result<_, _>>()?;
        let slices: SmallVec<[&[f32]; 5]> = elements.iter().map(|elements| &**elements).collect();
        let mut out = self.buffers.take(self.out.elements() as usize);
        self.images(op, &slices, &mut out)?;
        self.typed(out)
    }

    /// A tensor of the output's shape and dtype.
    fn typed(&self, elements: Vec<f32>) -> Result<Tensor> {
        let tensor = Tensor::from_vec(elements, dims(&self.out.shape), &Device::Cpu)?;
        pieces::cast(&tensor, candle_dtype(self.out.dtype))
    }

    fn images(&self, op: Op, inputs: &[&[f32]], out: &mut [f32]) -> Result<()> {
        let shape = self.input(0)?.dims();
        let (x, weight) = (inputs[0], inputs.get(1).copied());
        match op {
            Op::Conv2d => {
                let sizes = Conv2d {
                    input: four(shape)?,
                    outputs: self.out.shape[1] as usize,
                    kernel: self.kernel_size()?,
                    stride: self.pair(0)?,
                    padding: self.padding(1)?,
                    dilation: self.pair(2)?,
                    groups: self.int(3)?,
                };
                conv2d(&sizes, x, weight.unwrap_or_default(), inputs.get(2).copied(), out);
            }
            Op::ConvTranspose2d => {
                let sizes = ConvTranspose2d {
                    input: four(shape)?,
                    outputs: self.out.shape[1] as usize,
                    kernel: self.kernel_size()?,
                    stride: self.pair(0)?,
                    padding: self.pair(1)?,
                    output_padding: self.pair(2)?,
                    dilation: self.pair(3)?,
                    groups: self.int(4)?,
                };
                conv_transpose2d(&sizes, x, weight.unwrap_or_default(), inputs.get(2).copied(), out);
            }
            Op::MaxPool2d | Op::AvgPool2d => {
                let kernel = self.pair(0)?;
                let mut stride = self.pair(1)?;
                stride
                    .iter_mut()
                    .zip(kernel)
                    .filter(|(s, _)| **s == 0)
                    .for_each(|(s, k)| *s = k);
                let sizes = Pool2d {
                    input: four(shape)?,
                    kernel,
                    stride,
                    padding: self.pair(2)?,
                };
                let reduce = match op {
                    Op::MaxPool2d => Reduce::Max,
                    _ if self.flag(4)? => Reduce::Mean,
                    _ => Reduce::MeanInside,
                };
                pool2d(&sizes, reduce, x, out);
            }
            Op::AdaptiveAvgPool2d => adaptive_avg_pool2d(four(shape)?, self.out_size(), x, out),
            Op::ResizeNearest2d | Op::ResizeBilinear2d => {
                let sizes = Resize2d {
                    input: four(shape)?,
                    size: self.out_size(),
                };
                let resize = match op {
                    Op::ResizeNearest2d => resize_nearest2d,
                    _ => resize_bilinear2d,
                };
                resize(&sizes, self.flag(1)?, x, out);
            }
            Op::GroupNorm => {
                let (groups, eps) = (self.int(0)?, self.float(1)? as f32);
                let bias = inputs.get(2).copied();
                group_norm(by_channel(shape)?, groups, eps, x, weight, bias, out);
            }
            Op::BatchNorm => {
                let [_, mean, var, weight, bias] = inputs else {
                    return Err(Error::internal("an input is missing").into());
                };
                let by = Batch {
                    mean,
                    var,
                    weight,
                    bias,
                };
                batch_norm(by_channel(shape)?, self.float(0)? as f32, x, &by, out);
            }
            Op::Prelu => prelu(by_channel(shape)?, x, weight.unwrap_or_default(), out),
            _ => {
                let function = match op {
                    Op::LeakyRelu => Function::LeakyRelu(self.float(0)? as f32),
                    Op::Elu => Function::Elu(self.float(0)? as f32),
                    Op::HardSigmoid => Function::HardSigmoid,
                    Op::HardSwish => Function::HardSwish,
                    Op::Mish => Function::Mish,
                    Op::Softplus => Function::Softplus,
                    _ => return Err(Error::internal("an op that has no kernel for images").into()),
                };
                activate(function, x, out);
            }
        }
        Ok(())
    }

    fn shuffle(&self, op: Op) -> Result<Tensor> {
        fn typed<T: WithDType + Send + Sync>(all: &[T], x: &Tensor, kernel: &Kernel<'_>, op: Op) -> Result<Tensor> {
            let f = kernel.int(0)?;
            let layout = x.layout().contiguous_offsets();
            let (start, end) = layout.ok_or_else(|| Error::internal("a dense tensor that is none"))?;
            let (from, to) = (x.dims(), dims(&kernel.out.shape));
            let mut out = vec![T::zero(); end - start];
            if op == Op::PixelShuffle {
                pixel_shuffle([from[0], to[1], from[2], from[3]], f, &all[start..end], &mut out);
            } else {
                pixel_unshuffle([from[0], from[1], to[2], to[3]], f, &all[start..end], &mut out);
            }
            Ok(Tensor::from_vec(out, to, &Device::Cpu)?)
        }
        let x = pieces::contiguous(self.input(0)?)?;
        let (storage, _) = x.storage_and_layout();
        match &*storage {
            Storage::Cpu(CpuStorage::F32(v)) => typed(v, &x, self, op),
            Storage::Cpu(CpuStorage::F16(v)) => typed(v, &x, self, op),
            Storage::Cpu(CpuStorage::BF16(v)) => typed(v, &x, self, op),
            Storage::Cpu(CpuStorage::U8(v)) => typed(v, &x, self, op),
            Storage::Cpu(CpuStorage::U32(v)) => typed(v, &x, self, op),
            Storage::Cpu(CpuStorage::I64(v)) => typed(v, &x, self, op),
            _ => Err(Error::internal("an image of a type that no tensor has").into()),
        }
    }

    pub(super) fn random(&self) -> Result<Tensor> {
        let word = |at| attr_int(self.spec, self.attrs, at).ok_or_else(|| Error::internal("an attribute is missing"));
        let distribution = match self.spec.op {
            Op::Randn => Distribution::Normal,
            _ => Distribution::Uniform,
        };
        let mut out = self.buffers.take(self.out.elements() as usize);
        random(distribution, word(1)? as u64, word(2)? as u64, &mut out);
        debug_assert_eq!(candle_dtype(self.out.dtype), Candle::F32);
        self.typed(out)
    }

    fn kernel_size(&self) -> Result<[usize; 2]> {
        let (_, _, kh, kw) = self.input(1)?.dims4()?;
        Ok([kh, kw])
    }

    /// The output's height and width.
    fn out_size(&self) -> [usize; 2] {
        let shape = &self.out.shape;
        [2, 3].map(|axis| shape.get(axis).map_or(0, |dim| *dim as usize))
    }

    pub(super) fn flag(&self, at: usize) -> Result<bool> {
        attr_flag(self.spec, self.attrs, at).ok_or_else(|| Error::internal("a flag is missing").into())
    }

    pub(super) fn int(&self, at: usize) -> Result<usize> {
        let int = attr_int(self.spec, self.attrs, at).and_then(|int| usize::try_from(int).ok());
        int.ok_or_else(|| Error::internal("an integer is missing").into())
    }

    fn pair(&self, at: usize) -> Result<[usize; 2]> {
        let pair = attr_pair(self.spec, self.attrs, at).ok_or_else(|| Error::internal("a pair is missing"))?;
        Ok(pair.map(|value| usize::try_from(value).unwrap_or(0)))
    }

    fn padding(&self, at: usize) -> Result<[usize; 4]> {
        let all = attr_padding(self.spec, self.attrs, at).ok_or_else(|| Error::internal("a padding is missing"))?;
        Ok(all.map(|value| usize::try_from(value).unwrap_or(0)))
    }
}
