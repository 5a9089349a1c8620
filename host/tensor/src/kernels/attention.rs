//! Attention and rotary embedding: vectors are read where they lie, half floats in f32.

use candle_core::{CpuStorage, DType as Candle, Device, Storage, Tensor};
use maquette_kernels::attention::{Attention, Bias, Memory, Rows, attention};
use maquette_kernels::kv::Page;
use maquette_kernels::rope::{Pairs, angles, frequencies, rope};
use maquette_ops::{Attr, Error, OpSpec, attr_flag, attr_float, attr_int};

use super::{Kernel, Result, pieces, widened};
use crate::tensor::dims;

/// What `attention/1` and `cached_attention/1` take beside tensors.
pub(super) struct Options {
    scale: f32,
    window: usize,
    cap: f32,
}

impl Options {
    /// The attributes at these places; a scale of 0 stands for `1 / sqrt(width)`.
    pub(super) fn of(spec: &OpSpec, attrs: &[Attr], [scale, window, cap]: [usize; 3], width: usize) -> Option<Self> {
        let scale = match attr_float(spec, attrs, scale)? {
            0.0 => 1.0 / (width.max(1) as f64).sqrt(),
            scale => scale,
        };
        Some(Self {
            scale: scale as f32,
            window: usize::try_from(attr_int(spec, attrs, window)?).ok()?,
            cap: attr_float(spec, attrs, cap)? as f32,
        })
    }
}

/// Calls a function with the vectors of a tensor `[batch, time, heads, width]`, copied only if their elements do not lie side by side.
pub(super) fn with_rows<R>(x: &Tensor, f: impl FnOnce(Rows<'_>) -> R) -> Result<R> {
    let x = widened(x)?;
    let x = if x.stride()[3] == 1 || x.dims()[3] <= 1 {
        x
    } else {
        pieces::contiguous(&x)?
    };
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(all)) = &*storage else {
        return Err(Error::internal("vectors that are not f32").into());
    };
    let stride = layout.stride();
    Ok(f(Rows {
        data: &all[layout.start_offset()..],
        batch: stride[0],
        time: stride[1],
        head: stride[2],
    }))
}

impl Kernel<'_> {
    fn options(&self, at: [usize; 3], width: usize) -> Result<Options> {
        let options = Options::of(self.spec, self.attrs, at, width);
        Ok(options.ok_or_else(|| Error::internal("an attribute is missing"))?)
    }

    pub(super) fn attention(&self, q: &Tensor) -> Result<Tensor> {
        let (k, v) = (self.input(1)?, self.input(2)?);
        let (batch, queries, heads, width) = q.dims4()?;
        let (_, keys, kv_heads, value_width) = v.dims4()?;
        let options = self.options([0, 2, 3], width)?;
        let bias = match self.inputs.get(3) {
            Some(bias) => Some(widened(bias)?),
            None => None,
        };
        let broadcast = match &bias {
            Some(bias) => Some(bias.broadcast_as((batch, heads, queries, keys))?),
            None => None,
        };
        let stored = broadcast.as_ref().map(|bias| bias.storage_and_layout());
        let bias = match &stored {
            Some((storage, layout)) => match &**storage {
                Storage::Cpu(CpuStorage::F32(all)) => Some(Bias {
                    data: &all[layout.start_offset()..],
                    strides: [
                        layout.stride()[0],
                        layout.stride()[1],
                        layout.stride()[2],
                        layout.stride()[3],
                    ],
                }),
                _ => return Err(Error::internal("a bias that is not f32").into()),
            },
            None => None,
        };
        let sizes = Attention {
            batch,
            queries,
            keys,
            heads,
            kv_heads,
            width,
            value_width,
            scale: options.scale,
            cap: options.cap,
            causal: attr_flag(self.spec, self.attrs, 1).unwrap_or(false),
            window: options.window,
            bias,
        };
        let mut out = self.buffers.take(self.out.elements() as usize);
        with_rows(q, |q| {
            with_rows(k, |keys| {
                with_rows(v, |values| {
                    attention(&sizes, q, Memory::Rows { keys, values }, &mut out)
                })
            })
        })???;
        self.narrowed(out)
    }

    /// Attention over the pages of a cache's layer, which hold `keys` places, the last of them those of the queries.
    pub(super) fn cached_attention(&self, pages: &[&Page], keys: usize) -> Result<Tensor> {
        let q = self.input(0)?;
        let (batch, queries, heads, width) = q.dims4()?;
        let (_, _, kv_heads, value_width) = self.input(2)?.dims4()?;
        let options = self.options([2, 3, 4], width)?;
        let sizes = Attention {
            batch,
            queries,
            keys,
            heads,
            kv_heads,
            width,
            value_width,
            scale: options.scale,
            cap: options.cap,
            causal: true,
            window: options.window,
            bias: None,
        };
        let mut out = self.buffers.take(self.out.elements() as usize);
        with_rows(q, |q| attention(&sizes, q, Memory::Pages(pages), &mut out))?;
        self.narrowed(out)
    }

    pub(super) fn rope(&self, x: &Tensor) -> Result<Tensor> {
        let (_, time, heads, width) = x.dims4()?;
        let positions = self.input(1)?.to_dtype(Candle::I64)?.flatten_all()?.to_vec1::<i64>()?;
        let frequencies = match self.inputs.get(2) {
            Some(given) => {
                let given = widened(given)?.contiguous()?.to_vec1::<f32>()?;
                given.into_iter().map(f64::from).collect()
            }
            None => frequencies(self.float(0)?, width),
        };
        let pairs = match attr_flag(self.spec, self.attrs, 1) {
            Some(true) => Pairs::Neighbours,
            _ => Pairs::Halves,
        };
        let n = frequencies.len();
        let (cos, sin) = angles(positions.iter().map(|position| *position as f64), &frequencies);
        debug_assert!(positions.len() == time || positions.len().is_multiple_of(time.max(1)));
        let wide = pieces::contiguous(&widened(x)?)?;
        let input = super::dense::elements(&wide).ok_or_else(|| Error::internal("vectors that are not f32"))?;
        let mut out = self.buffers.take(input.len());
        rope(&input, heads, width, &cos, &sin, n, pairs, &mut out);
        self.narrowed(out)
    }

    /// A tensor of the output's shape and dtype.
    fn narrowed(&self, elements: Vec<f32>) -> Result<Tensor> {
        let tensor = Tensor::from_vec(elements, dims(&self.out.shape), &Device::Cpu)?;
        pieces::cast(&tensor, crate::tensor::candle_dtype(self.out.dtype))
    }
}
