//! CTranslate2's `model.bin`, binary versions 5 and 6. Source: OpenNMT/CTranslate2, `python/ctranslate2/specs/model_spec.py`
//! (`_serialize`) and `src/models/model.cc`.
//!
//! Little-endian: u32 version, string spec, u32 revision; u32 count of variables, each a string name, u8 rank, u32 dimensions, u8 type,
//! u32 bytes, and the bytes; u32 count of aliases, each a string and the string of what it stands for. A string is a u16 length and
//! as many bytes, the last of which is 0.

use std::io::{BufReader, Read, Seek};

use super::tensors::{DType, Index, MAX_NAMES, MAX_RANK, MAX_TENSORS, Place};

/// Reads where everything is, and none of the weights. What is wrong is told as a clause.
pub(super) fn read(file: &mut (impl Read + Seek), size: u64) -> Result<Index, String> {
    let mut input = Input {
        reader: BufReader::new(file),
        at: 0,
        size,
        names: 0,
    };
    let version = input.u32()?;
    if !(5..=6).contains(&version) {
        return Err(format!(
            "it begins with {version}, not with a CTranslate2 version that is read here, 5 or 6"
        ));
    }
    let mut index = Index::default();
    let spec = input.string("the specification's name")?;
    let revision = input.u32()?;
    index.metadata.insert("ctranslate2.spec".into(), spec);
    index
        .metadata
        .insert("ctranslate2.revision".into(), revision.to_string());

    for _ in 0..input.count("variables")? {
        let (name, place) = input.variable()?;
        if index.tensors.contains_key(&name) {
            return Err(format!("there are two variables `{name}`"));
        }
        index.tensors.insert(name, place);
    }
    for _ in 0..input.count("aliases")? {
        let alias = input.string("an alias")?;
        let target = input.string("an alias's variable")?;
        if !index.tensors.contains_key(&target) {
            return Err(format!("the alias `{alias}` stands for `{target}`, which is not there"));
        }
        let taken = index.tensors.contains_key(&alias);
        if taken || index.metadata.insert(format!("alias.{alias}"), target).is_some() {
            return Err(format!("there are two variables `{alias}`"));
        }
    }
    match input.left() {
        0 => Ok(index),
        more => Err(format!("{more} bytes follow where it should end")),
    }
}

/// The file, and how far it has been read.
struct Input<R> {
    reader: BufReader<R>,
    at: u64,
    size: u64,
    /// The bytes of all strings so far.
    names: usize,
}

impl<R: Read + Seek> Input<R> {
    fn left(&self) -> u64 {
        self.size.saturating_sub(self.at)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        let at = self.at;
        self.reader
            .read_exact(bytes)
            .map_err(|e| format!("it ends or cannot be read at byte {at} ({e})"))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn u8(&mut self) -> Result<u8, String> {
        Ok(self.bytes::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn count(&mut self, of: &str) -> Result<u32, String> {
        match self.u32()? {
            count if count > MAX_TENSORS => Err(format!("it has {count} {of}, more than {MAX_TENSORS}")),
            count => Ok(count),
        }
    }

    fn string(&mut self, what: &str) -> Result<String, String> {
        let (at, len) = (self.at, usize::from(u16::from_le_bytes(self.bytes()?)));
        self.names += len;
        if self.names > MAX_NAMES {
            return Err(format!("its names have more than {MAX_NAMES} bytes"));
        }
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        let text = match bytes.pop() {
            Some(0) => String::from_utf8(bytes).ok(),
            _ => None,
        };
        text.filter(|t| !t.is_empty() && !t.contains(char::is_control))
            .ok_or_else(|| format!("{what} at byte {at} is not text"))
    }

    fn variable(&mut self) -> Result<(String, Place), String> {
        let name = self.string("a variable's name")?;
        if name == "__metadata__" {
            return Err(format!(
                "a variable is called `{name}`, which safetensors does not allow"
            ));
        }
        let rank = self.u8()?;
        if rank > MAX_RANK {
            return Err(format!("`{name}` has {rank} dimensions, more than {MAX_RANK}"));
        }
        let dims = (0..rank).map(|_| self.u32()).collect::<Result<Vec<_>, _>>()?;
        let dtype = match self.u8()? {
            0 => DType::F32,
            1 => DType::I8,
            2 => DType::I16,
            3 => DType::I32,
            4 => DType::F16,
            5 => DType::BF16,
            other => return Err(format!("`{name}` has the type {other}, which is not known")),
        };
        // Settings, such as the number of heads, are small integers without dimensions.
        if matches!(dtype, DType::I8 | DType::I16) && rank > 0 {
            let dtype = dtype.name().to_ascii_lowercase();
            return Err(format!(
                "`{name}` is quantized ({dtype}), which is not converted: a model in float16 or float32 is"
            ));
        }
        let len = u64::from(self.u32()?);
        let elements = dims.iter().try_fold(1u64, |n, dim| n.checked_mul(u64::from(*dim)));
        if elements.and_then(|n| n.checked_mul(dtype.size())) != Some(len) {
            return Err(format!(
                "`{name}` has the shape {dims:?} and {len} bytes, which do not fit"
            ));
        }
        if len > self.left() {
            return Err(format!(
                "`{name}` has {len} bytes, but the file only {} more: it is cut off",
                self.left()
            ));
        }
        let start = self.at;
        let skipped = self.reader.seek_relative(i64::try_from(len).unwrap_or(i64::MAX));
        skipped.map_err(|e| format!("it cannot be read at byte {start} ({e})"))?;
        self.at += len;
        Ok((
            name,
            Place {
                dtype,
                dims,
                start,
                len,
            },
        ))
    }
}
