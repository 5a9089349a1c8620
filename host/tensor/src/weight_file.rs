//! A weight file: its header checked once, its tensors found by name and read as what they are asked for.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::safetensors::Dtype;
use bytemuck::{Pod, pod_collect_to_vec};
use candle_core::{Device, WithDType};
use half::{bf16, f16};
use maquette_kernels::gemm::Packed;
use maquette_kernels::quantized::{Format, Quantized};
use maquette_kernels::stop;
use maquette_ops::{DType, Error, MAX_RANK, Type, check_shape, nearest};
use memmap2::Mmap;
use smallvec::SmallVec;

use crate::matrix::Matrix;
use crate::tensor::{dims, from_bytes, said};
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

/// A weight file, safetensors or GGUF, mapped read-only, or several that are one. The blob store guarantees that nobody changes them.
#[derive(Debug)]
pub struct WeightFile {
    digest: String,
    shards: Vec<Arc<Shard>>,
    tensors: Vec<TensorInfo>,
    places: HashMap<String, Place>,
    metadata: BTreeMap<String, String>,
}

/// One file of it.
#[derive(Debug)]
struct Shard {
    digest: String,
    map: Mmap,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    index: usize,
    shard: usize,
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
                shard: 0,
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
            shards: vec![Arc::new(Shard {
                digest: digest.to_owned(),
                map,
            })],
            tensors,
            places,
            metadata: header.metadata,
        })
    }

    /// Several files as one: a tensor is found in whichever it is in, an entry of the metadata in the first that has it.
    ///
    /// # Errors
    /// `invalid-input` if two have a tensor of the same name: which one was meant would be a guess.
    pub(crate) fn join(files: &[Arc<Self>]) -> Result<Self, Error> {
        let digests: Vec<&str> = files.iter().map(|file| file.digest()).collect();
        let mut joined = Self {
            digest: digests.join("+"),
            shards: Vec::new(),
            tensors: Vec::new(),
            places: HashMap::new(),
            metadata: BTreeMap::new(),
        };
        for (i, file) in files.iter().enumerate() {
            let (index, shard) = (joined.tensors.len(), joined.shards.len());
            for info in &file.tensors {
                let place = file.place(&info.name)?;
                let place = Place {
                    index: index + place.index,
                    shard: shard + place.shard,
                    ..place
                };
                if let Some(other) = joined.places.insert(info.name.clone(), place) {
                    return Err(Error::invalid_input(format!(
                        "the tensor `{}` is in shard {} and in shard {}; each must be in one",
                        info.name,
                        other.shard + 1,
                        i + 1
                    )));
                }
                joined.tensors.push(info.clone());
            }
            for (key, value) in &file.metadata {
                joined.metadata.entry(key.clone()).or_insert_with(|| value.clone());
            }
            joined.shards.extend(file.shards.iter().cloned());
        }
        Ok(joined)
    }

    /// The digest of the blob; of several, their digests with `+` between them.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The digest of the blob that a tensor is in.
    pub(crate) fn digest_of(&self, name: &str) -> Result<&str, Error> {
        Ok(&self.shards[self.place(name)?.shard].digest)
    }

    fn bytes(&self, place: Place) -> &[u8] {
        &self.shards[place.shard].map[place.start..place.end]
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
        let bytes = self.bytes(place);
        let ty = Type::new(dtype, shape.iter().copied());
        if let Stored::Plain(_) = place.stored
            && self.natural(name)? == dtype
            && bytes.len() as u64 == ty.bytes()
        {
            return from_bytes(dtype, shape, bytes);
        }
        let fail = |e: candle_core::Error| Error::internal(format!("weight `{name}`: {}", said(&e)));
        let elements = ty.elements() as usize;
        let stored = place.stored;
        match dtype {
            DType::F32 => converted::<f32>(stored, bytes, elements),
            DType::F16 => converted::<f16>(stored, bytes, elements),
            DType::BF16 => converted::<bf16>(stored, bytes, elements),
            DType::U8 => converted::<u8>(stored, bytes, elements),
            DType::U32 => converted::<u32>(stored, bytes, elements),
            DType::I64 => converted::<i64>(stored, bytes, elements),
        }
        .and_then(|flat| flat.reshape(dims(shape)))
        .map_err(fail)
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
        let bytes = self.bytes(place);
        let made = |row: &(dyn Fn(usize, &mut [f32]) + Sync)| Matrix::Plain(Packed::from_made_rows(n, k, row));
        Ok(match place.stored {
            Stored::Quantized(format) => match Quantized::from_rows(format, bytes, n, k) {
                Some(matrix) => Matrix::Quantized(matrix),
                None => return Err(Error::internal(format!("weight `{name}` is not whole blocks"))),
            },
            Stored::Plain(Dtype::F32) => match bytemuck::try_cast_slice::<u8, f32>(bytes) {
                Ok(wide) => Matrix::Plain(Packed::from_rows(wide, n, k)),
                Err(_) => made(&|row, out| widen(&bytes[4 * row * k..][..4 * k], out, f32::from_le_bytes)),
            },
            Stored::Plain(other) => match self.wide_rows(name, k)? {
                Some(row) => made(&row),
                None => return Err(Error::dtype(format!("weight `{name}` is stored as {other:?}"))),
            },
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
        Ok(self.bytes(place))
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
            let bytes = &self.bytes(place)[row * size..][..size];
            match place.stored {
                Stored::Quantized(format) => format.dequantize(bytes, out),
                Stored::Plain(Dtype::F16) => widen(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
                Stored::Plain(_) => widen(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            }
        }))
    }
}

fn widen<const N: usize>(bytes: &[u8], out: &mut [f32], wide: impl Fn([u8; N]) -> f32) {
    out.iter_mut()
        .zip(bytes.as_chunks::<N>().0)
        .for_each(|(x, narrow)| *x = wide(*narrow));
}

/// Elements that are converted at once, between two looks whether to stop or to make way for others.
const PART: usize = 64 << 10;

/// Stored elements as those of another type, in one dimension.
fn converted<T: WithDType>(stored: Stored, bytes: &[u8], elements: usize) -> candle_core::Result<candle_core::Tensor> {
    let part = match stored {
        Stored::Quantized(format) => PART / format.block() * format.bytes(),
        Stored::Plain(dtype) => PART * dtype.bitsize() / 8,
    };
    let mut all = Vec::with_capacity(elements);
    for bytes in bytes.chunks(part) {
        stop::look();
        all.extend(as_stored(stored, bytes)?.to_dtype(T::DTYPE)?.to_vec1::<T>()?);
    }
    candle_core::Tensor::from_vec(all, elements, &Device::Cpu)
}

/// Stored elements as the nearest type that tensors have, in one dimension.
fn as_stored(stored: Stored, bytes: &[u8]) -> candle_core::Result<candle_core::Tensor> {
    fn plain<T: Pod, U: WithDType>(
        bytes: &[u8],
        as_tensor: impl Fn(T) -> U,
    ) -> candle_core::Result<candle_core::Tensor> {
        let values: Vec<U> = pod_collect_to_vec::<u8, T>(bytes).into_iter().map(as_tensor).collect();
        let len = values.len();
        candle_core::Tensor::from_vec(values, len, &Device::Cpu)
    }
    match stored {
        Stored::Quantized(format) => {
            let mut wide = vec![0.0_f32; bytes.len() / format.bytes() * format.block()];
            format.dequantize(bytes, &mut wide);
            let len = wide.len();
            candle_core::Tensor::from_vec(wide, len, &Device::Cpu)
        }
        Stored::Plain(Dtype::F64) => plain(bytes, |x: f64| x),
        Stored::Plain(Dtype::F32) => plain(bytes, |x: f32| x),
        Stored::Plain(Dtype::F16) => plain(bytes, |x: f16| x),
        Stored::Plain(Dtype::BF16) => plain(bytes, |x: bf16| x),
        Stored::Plain(Dtype::U8 | Dtype::BOOL) => plain(bytes, |x: u8| x),
        Stored::Plain(Dtype::U32) => plain(bytes, |x: u32| x),
        Stored::Plain(Dtype::I64) => plain(bytes, |x: i64| x),
        Stored::Plain(Dtype::I32) => plain(bytes, |x: i32| i64::from(x)),
        Stored::Plain(Dtype::I16) => plain(bytes, |x: i16| i64::from(x)),
        Stored::Plain(Dtype::U16) => plain(bytes, |x: u16| i64::from(x)),
        Stored::Plain(Dtype::I8) => plain(bytes, |x: i8| i64::from(x)),
        Stored::Plain(other) => candle_core::bail!("it is stored as {other:?}, which is not supported"),
    }
}
