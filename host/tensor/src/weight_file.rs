//! A weight file: its header checked once, its tensors found by name and read as what they are asked for.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;

use ::safetensors::Dtype;
use bytemuck::pod_collect_to_vec;
use candle_core::Device;
use half::{bf16, f16};
use maquette_kernels::gemm::Packed;
use maquette_kernels::quantized::{Format, Quantized};
use maquette_ops::{DType, Error, MAX_RANK, Type, check_shape, nearest};
use memmap2::Mmap;
use smallvec::SmallVec;

use crate::matrix::Matrix;
use crate::tensor::{candle_dtype, dims, from_bytes, said};
use crate::{gguf, safetensors};

/// A tensor in a weight file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the file.
    pub name: String,
    /// Its element type, as the format spells it.
    pub stored: String,
    /// Its shape.
    pub shape: SmallVec<[u32; MAX_RANK]>,
}

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// An element after the other.
    Plain(Dtype),
    /// In few bits.
    Quantized(Format),
}

impl Stored {
    /// As the format spells it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Plain(dtype) => format!("{dtype:?}"),
            Self::Quantized(format) => format.name().to_owned(),
        }
    }

    /// Bytes of so many elements in rows of `width`, if they are whole blocks.
    pub(crate) fn bytes(self, elements: u64, width: u64) -> Option<u64> {
        match self {
            Self::Plain(dtype) => elements.checked_mul(dtype.bitsize() as u64).map(|bits| bits / 8),
            Self::Quantized(format) => {
                let block = format.block() as u64;
                (width.is_multiple_of(block)).then(|| (elements / block).checked_mul(format.bytes() as u64))?
            }
        }
    }
}

/// A tensor that a header tells of.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) shape: SmallVec<[u64; MAX_RANK]>,
    pub(crate) stored: Stored,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// What a header tells.
#[derive(Debug)]
pub(crate) struct Header {
    /// In the file's order.
    pub(crate) found: Vec<Found>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// A weight file, safetensors or GGUF, mapped read-only. The blob store guarantees that nobody changes it.
#[derive(Debug)]
pub struct WeightFile {
    digest: String,
    map: Mmap,
    tensors: Vec<TensorInfo>,
    places: HashMap<String, Place>,
    metadata: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    index: usize,
    start: usize,
    end: usize,
    stored: Stored,
}

impl WeightFile {
    /// Opens and checks a file.
    ///
    /// # Errors
    /// `invalid-input` if it is neither a safetensors nor a GGUF file, or its header lies about sizes, offsets or shapes.
    pub(crate) fn open(digest: &str, path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| Error::internal(format!("weight file {}: {e}", path.display())))?;
        // SAFETY: the file is a blob of the store: immutable, and private to this user. Nobody truncates or writes it.
        let map = unsafe { Mmap::map(&file) };
        let map = map.map_err(|e| Error::internal(format!("weight file {}: {e}", path.display())))?;
        let header = if gguf::is_gguf(&map) {
            gguf::read(&map)?
        } else {
            safetensors::read(&map)?
        };
        let mut tensors = Vec::with_capacity(header.found.len());
        let mut places = HashMap::with_capacity(header.found.len());
        for (index, found) in header.found.into_iter().enumerate() {
            let name = found.name;
            let fail = |why: String| Error::invalid_input(format!("the weight file's tensor `{name}`: {why}"));
            let shape = found
                .shape
                .iter()
                .map(|dim| u32::try_from(*dim))
                .collect::<Result<SmallVec<_>, _>>();
            let shape = shape.map_err(|_| fail("a dimension does not fit 32 bits".to_owned()))?;
            check_shape::<u32>(&shape).map_err(|e| fail(e.message))?;
            let place = Place {
                index,
                start: found.start,
                end: found.end,
                stored: found.stored,
            };
            if places.insert(name.clone(), place).is_some() {
                return Err(fail("it is there twice".to_owned()));
            }
            tensors.push(TensorInfo {
                name,
                stored: found.stored.name(),
                shape,
            });
        }
        Ok(Self {
            digest: digest.to_owned(),
            map,
            tensors,
            places,
            metadata: header.metadata,
        })
    }

    /// The digest of the blob.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Its tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// An entry of its metadata: a text as it is, anything else (GGUF has numbers, flags and lists) as JSON.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// A tensor by name.
    ///
    /// # Errors
    /// `invalid-input`, with the nearest names.
    pub fn info(&self, name: &str) -> Result<&TensorInfo, Error> {
        Ok(&self.tensors[self.place(name)?.index])
    }

    fn place(&self, name: &str) -> Result<Place, Error> {
        self.places.get(name).copied().ok_or_else(|| {
            let shown = &name[..name.floor_char_boundary(128)];
            let near = nearest(shown, self.tensors.iter().map(|t| t.name.as_str()), 3);
            Error::invalid_input(format!(
                "the weight file has no tensor `{shown}`; the nearest are {near}"
            ))
        })
    }

    /// The type that a tensor is used as, if none is asked for.
    ///
    /// # Errors
    /// `dtype` if it is stored in a type that no tensor has.
    pub(crate) fn natural(&self, name: &str) -> Result<DType, Error> {
        match self.place(name)?.stored {
            Stored::Plain(Dtype::F32 | Dtype::F64) | Stored::Quantized(_) => Ok(DType::F32),
            Stored::Plain(Dtype::F16) => Ok(DType::F16),
            Stored::Plain(Dtype::BF16) => Ok(DType::BF16),
            Stored::Plain(Dtype::U8 | Dtype::BOOL) => Ok(DType::U8),
            Stored::Plain(Dtype::U32) => Ok(DType::U32),
            Stored::Plain(Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::I8 | Dtype::U16) => Ok(DType::I64),
            Stored::Plain(other) => Err(Error::dtype(format!(
                "tensor `{name}` is stored as {other:?}, which is not supported"
            ))),
        }
    }

    /// Copies a tensor out of the file, as `dtype`.
    pub(crate) fn read(&self, name: &str, dtype: DType) -> Result<candle_core::Tensor, Error> {
        let place = self.place(name)?;
        let shape = &self.tensors[place.index].shape;
        let bytes = &self.map[place.start..place.end];
        let fail = |e: candle_core::Error| Error::internal(format!("weight `{name}`: {}", said(&e)));
        let plain = |values: candle_core::Result<candle_core::Tensor>| values.map_err(fail);
        let tensor = match place.stored {
            Stored::Quantized(format) => {
                let mut wide = vec![0.0; (Type::new(DType::F32, shape.iter().copied())).elements() as usize];
                format.dequantize(bytes, &mut wide);
                plain(candle_core::Tensor::from_vec(wide, dims(shape), &Device::Cpu))?
            }
            Stored::Plain(Dtype::F64) => {
                let values = pod_collect_to_vec::<u8, f64>(bytes);
                plain(candle_core::Tensor::from_vec(values, dims(shape), &Device::Cpu))?
            }
            Stored::Plain(Dtype::I32) => plain(integers(pod_collect_to_vec::<u8, i32>(bytes), dims(shape)))?,
            Stored::Plain(Dtype::I16) => plain(integers(pod_collect_to_vec::<u8, i16>(bytes), dims(shape)))?,
            Stored::Plain(Dtype::U16) => plain(integers(pod_collect_to_vec::<u8, u16>(bytes), dims(shape)))?,
            Stored::Plain(Dtype::I8) => plain(integers(pod_collect_to_vec::<u8, i8>(bytes), dims(shape)))?,
            Stored::Plain(_) => from_bytes(self.natural(name)?, shape, bytes)?,
        };
        tensor.to_dtype(candle_dtype(dtype)).map_err(fail)
    }

    /// How many bytes [`WeightFile::matrix`] takes, if the tensor can be one.
    pub(crate) fn matrix_bytes(&self, name: &str) -> Result<Option<u64>, Error> {
        let place = self.place(name)?;
        let [n, k] = self.tensors[place.index].shape.as_slice() else {
            return Ok(None);
        };
        let (n, k) = (u64::from(*n), u64::from(*k));
        Ok(match place.stored {
            Stored::Quantized(format) => Some(Quantized::bytes_for(format, n, k)),
            Stored::Plain(Dtype::F32 | Dtype::F16 | Dtype::BF16) => Some(Packed::bytes_for(n, k)),
            Stored::Plain(_) => None,
        })
    }

    /// A tensor `[out, in]` as the weight of a linear layer, packed for its kernel.
    pub(crate) fn matrix(&self, name: &str) -> Result<Matrix, Error> {
        let place = self.place(name)?;
        let [n, k] = *dims(&self.tensors[place.index].shape) else {
            return Err(Error::shape(format!("weight `{name}` is no matrix")));
        };
        let bytes = &self.map[place.start..place.end];
        let packed = |wide: &[f32]| Matrix::Plain(Packed::from_rows(wide, n, k));
        Ok(match place.stored {
            Stored::Quantized(format) => match Quantized::from_rows(format, bytes, n, k) {
                Some(matrix) => Matrix::Quantized(matrix),
                None => return Err(Error::internal(format!("weight `{name}` is not whole blocks"))),
            },
            Stored::Plain(Dtype::F32) => match bytemuck::try_cast_slice::<u8, f32>(bytes) {
                Ok(wide) => packed(wide),
                Err(_) => packed(&pod_collect_to_vec::<u8, f32>(bytes)),
            },
            Stored::Plain(Dtype::F16) => packed(&widened(bytes, |b| f16::from_le_bytes(b).to_f32())),
            Stored::Plain(Dtype::BF16) => packed(&widened(bytes, |b| bf16::from_le_bytes(b).to_f32())),
            Stored::Plain(other) => return Err(Error::dtype(format!("weight `{name}` is stored as {other:?}"))),
        })
    }

    /// Whether rows can be read one by one as `dtype`: they are of that type, or made of it while they are read.
    pub(crate) fn has_rows(&self, name: &str, dtype: DType) -> Result<bool, Error> {
        Ok(match self.place(name)?.stored {
            Stored::Plain(Dtype::F16 | Dtype::BF16) if dtype == DType::F32 => true,
            Stored::Plain(_) => {
                let ty = Type::new(dtype, self.info(name)?.shape.iter().copied());
                self.natural(name)? == dtype && self.stored(name)?.len() as u64 == ty.bytes()
            }
            Stored::Quantized(_) => dtype == DType::F32,
        })
    }

    /// The bytes of a tensor as they lie in the file.
    ///
    /// # Errors
    /// As [`WeightFile::info`].
    pub(crate) fn stored(&self, name: &str) -> Result<&[u8], Error> {
        let place = self.place(name)?;
        Ok(&self.map[place.start..place.end])
    }

    /// A function that writes a row of a matrix `[_, width]` as f32, if it is stored as something else than that.
    pub(crate) fn wide_rows(&self, name: &str, width: usize) -> Result<Option<impl Fn(usize, &mut [f32])>, Error> {
        let place = self.place(name)?;
        let size = match place.stored {
            Stored::Quantized(format) => format.row_bytes(width).unwrap_or(0),
            Stored::Plain(Dtype::F16 | Dtype::BF16) => 2 * width,
            Stored::Plain(_) => return Ok(None),
        };
        Ok(Some(move |row: usize, out: &mut [f32]| {
            let bytes = &self.map[place.start..place.end][row * size..][..size];
            match place.stored {
                Stored::Quantized(format) => format.dequantize(bytes, out),
                Stored::Plain(Dtype::F16) => widen(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
                Stored::Plain(_) => widen(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            }
        }))
    }
}

fn widen(bytes: &[u8], out: &mut [f32], wide: impl Fn([u8; 2]) -> f32) {
    out.iter_mut()
        .zip(bytes.as_chunks::<2>().0)
        .for_each(|(x, half)| *x = wide(*half));
}

fn widened(bytes: &[u8], wide: impl Fn([u8; 2]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<2>().0.iter().map(|half| wide(*half)).collect()
}

fn integers<T: Into<i64>>(values: Vec<T>, dims: Vec<usize>) -> candle_core::Result<candle_core::Tensor> {
    let values: Vec<i64> = values.into_iter().map(Into::into).collect();
    candle_core::Tensor::from_vec(values, dims, &candle_core::Device::Cpu)
}
