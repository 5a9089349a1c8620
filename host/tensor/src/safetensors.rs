//! One safetensors file: its header checked once, its tensors found by name. Source: the safetensors format, version 0.3 on.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;

use ::safetensors::{Dtype, SafeTensors};
use maquette_ops::{DType, Error, MAX_RANK, check_shape, nearest};
use memmap2::Mmap;
use smallvec::SmallVec;

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

/// A weight file, mapped read-only. The blob store guarantees that nobody changes it.
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
    stored: Dtype,
}

impl WeightFile {
    /// Opens and checks a file.
    ///
    /// # Errors
    /// `invalid-input` if it is no safetensors file, or its header lies about sizes, offsets or shapes.
    pub(crate) fn open(digest: &str, path: &Path) -> Result<Self, Error> {
        let broken = |why: String| Error::invalid_input(format!("not a usable safetensors file: {why}"));
        let file = File::open(path).map_err(|e| Error::internal(format!("weight file {}: {e}", path.display())))?;
        // SAFETY: the file is a blob of the store: immutable, and private to this user. Nobody truncates or writes it.
        let map = unsafe { Mmap::map(&file) };
        let map = map.map_err(|e| Error::internal(format!("weight file {}: {e}", path.display())))?;
        // `deserialize` checks that the header fits, offsets are in order without gaps or overlaps, and sizes match shapes.
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| broken(e.to_string()))?;
        let data = header
            .checked_add(8)
            .ok_or_else(|| broken("its header is too large".to_owned()))?;
        if data.checked_add(metadata.data_len()) != Some(map.len()) {
            return Err(broken(format!(
                "its header speaks of {} bytes of data",
                metadata.data_len()
            )));
        }
        let mut infos: Vec<_> = metadata.tensors().into_iter().collect();
        infos.sort_by_key(|(name, info)| (info.data_offsets.0, name.clone()));
        let mut tensors = Vec::with_capacity(infos.len());
        let mut places = HashMap::with_capacity(infos.len());
        for (index, (name, info)) in infos.into_iter().enumerate() {
            let fail = |why: String| broken(format!("tensor `{name}`: {why}"));
            if info.shape.len() > MAX_RANK {
                return Err(fail(format!(
                    "{} dimensions; at most {MAX_RANK} are allowed",
                    info.shape.len()
                )));
            }
            let shape = info
                .shape
                .iter()
                .map(|dim| u32::try_from(*dim))
                .collect::<Result<SmallVec<_>, _>>();
            let shape = shape.map_err(|_| fail("a dimension does not fit 32 bits".to_owned()))?;
            check_shape::<u32>(&shape).map_err(|e| fail(e.message))?;
            let (start, end) = (data + info.data_offsets.0, data + info.data_offsets.1);
            places.insert(
                name.clone(),
                Place {
                    index,
                    start,
                    end,
                    stored: info.dtype,
                },
            );
            tensors.push(TensorInfo {
                name,
                stored: format!("{:?}", info.dtype),
                shape,
            });
        }
        let metadata = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self {
            digest: digest.to_owned(),
            map,
            tensors,
            places,
            metadata,
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

    /// An entry of its metadata.
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
        let place = self.place(name)?;
        match place.stored {
            Dtype::F32 => Ok(DType::F32),
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::BF16),
            Dtype::U8 | Dtype::BOOL => Ok(DType::U8),
            Dtype::U32 => Ok(DType::U32),
            Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::I8 | Dtype::U16 => Ok(DType::I64),
            Dtype::F64 => Ok(DType::F32),
            other => Err(Error::dtype(format!(
                "tensor `{name}` is stored as {other:?}, which is not supported"
            ))),
        }
    }

    /// The bytes of a tensor as they lie in the file.
    ///
    /// # Errors
    /// As [`WeightFile::info`].
    pub(crate) fn stored(&self, name: &str) -> Result<&[u8], Error> {
        let place = self.place(name)?;
        Ok(&self.map[place.start..place.end])
    }

    /// Copies a tensor out of the file, as `dtype`.
    pub(crate) fn read(&self, name: &str, dtype: DType) -> Result<candle_core::Tensor, Error> {
        use candle_core::Device;
        let place = self.place(name)?;
        let shape = &self.tensors[place.index].shape;
        let bytes = &self.map[place.start..place.end];
        let fail = |e: candle_core::Error| Error::internal(format!("weight `{name}`: {}", crate::tensor::said(&e)));
        let dims = crate::tensor::dims(shape);
        let tensor = match place.stored {
            Dtype::F64 => {
                candle_core::Tensor::from_vec(bytemuck::pod_collect_to_vec::<u8, f64>(bytes), dims, &Device::Cpu)
            }
            Dtype::I32 => integers(bytemuck::pod_collect_to_vec::<u8, i32>(bytes), dims),
            Dtype::I16 => integers(bytemuck::pod_collect_to_vec::<u8, i16>(bytes), dims),
            Dtype::U16 => integers(bytemuck::pod_collect_to_vec::<u8, u16>(bytes), dims),
            Dtype::I8 => integers(bytemuck::pod_collect_to_vec::<u8, i8>(bytes), dims),
            _ => Ok(crate::tensor::from_bytes(self.natural(name)?, shape, bytes)?),
        };
        tensor
            .and_then(|tensor| tensor.to_dtype(crate::tensor::candle_dtype(dtype)))
            .map_err(fail)
    }
}

fn integers<T: Into<i64>>(values: Vec<T>, dims: Vec<usize>) -> candle_core::Result<candle_core::Tensor> {
    let values: Vec<i64> = values.into_iter().map(Into::into).collect();
    candle_core::Tensor::from_vec(values, dims, &candle_core::Device::Cpu)
}
