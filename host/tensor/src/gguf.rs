//! The header of a GGUF file: metadata and where each tensor lies. Source: ggml's `docs/gguf.md`, versions 2 and 3.
//!
//! Nothing in the file is believed: every length is checked against what is left of the file before anything is allocated for it.

use std::collections::BTreeMap;

use maquette_kernels::quantized::Format;
use maquette_ops::{Error, MAX_RANK};
use serde_json::Value;
use smallvec::SmallVec;

use crate::weight_file::{Found, Header, Stored};

/// The most tensors, and metadata entries, that a file may have.
const MAX_ENTRIES: u64 = 1 << 16;

/// How deep arrays may lie in arrays.
const MAX_DEPTH: u32 = 4;

/// Whether the file begins as a GGUF file does.
pub(crate) fn is_gguf(file: &[u8]) -> bool {
    file.starts_with(b"GGUF")
}

/// Reads the header.
///
/// # Errors
/// `invalid-input`, saying what is wrong.
pub(crate) fn read(file: &[u8]) -> Result<Header, Error> {
    let mut reader = Reader { file, at: 4 };
    let version = reader.u32()?;
    if !(2..=3).contains(&version) {
        return Err(broken(format!("version {version}; 2 and 3 are known")));
    }
    let (tensors, entries) = (reader.u64()?, reader.u64()?);
    if tensors > MAX_ENTRIES || entries > MAX_ENTRIES {
        return Err(broken(format!(
            "{tensors} tensors and {entries} metadata entries; at most {MAX_ENTRIES} of each are allowed"
        )));
    }
    let mut metadata = BTreeMap::new();
    let mut alignment = 32;
    for _ in 0..entries {
        let key = reader.text()?;
        let kind = reader.u32()?;
        let value = reader
            .value(kind, 0)
            .map_err(|e| broken(format!("metadata `{key}`: {}", e.message)))?;
        if key == "general.alignment" {
            alignment = value
                .as_u64()
                .filter(|a| a.is_power_of_two() && *a <= 1 << 20)
                .ok_or_else(|| broken(format!("its alignment is {value}, which is no small power of two")))?;
        }
        let text = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        metadata.insert(key, text);
    }
    let mut infos = Vec::new();
    for _ in 0..tensors {
        let name = reader.text()?;
        let fail = |why: String| broken(format!("tensor `{name}`: {why}"));
        let rank = reader.u32()? as usize;
        if rank > MAX_RANK {
            return Err(fail(format!("{rank} dimensions; at most {MAX_RANK} are allowed")));
        }
        let mut shape = SmallVec::<[u64; MAX_RANK]>::new();
        for _ in 0..rank {
            shape.push(reader.u64()?);
        }
        // Innermost first in the file.
        shape.reverse();
        let (kind, offset) = (reader.u32()?, reader.u64()?);
        infos.push((name, shape, kind, offset));
    }
    // Tensors begin at the next multiple of the alignment.
    let data = (reader.at as u64).next_multiple_of(alignment);
    let mut found = Vec::with_capacity(infos.len());
    for (name, shape, kind, offset) in infos {
        let fail = |why: String| broken(format!("tensor `{name}`: {why}"));
        let stored = stored(kind).ok_or_else(|| fail(format!("its type number is {kind}, which is not known here")))?;
        if !offset.is_multiple_of(alignment) {
            return Err(fail(format!(
                "its offset {offset} is no multiple of the alignment {alignment}"
            )));
        }
        let elements = shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        let width = shape.last().copied().unwrap_or(1);
        let bytes = elements.and_then(|elements| stored.bytes(elements, width));
        let start = data.checked_add(offset);
        let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file.len() as u64 => found.push(Found {
                name,
                shape,
                stored,
                start: start as usize,
                end: end as usize,
            }),
            _ => {
                return Err(fail(format!(
                    "its shape {shape:?} as {} at {offset} does not fit the file of {} bytes",
                    stored.name(),
                    file.len()
                )));
            }
        }
    }
    found.sort_by_key(|tensor| tensor.start);
    Ok(Header { found, metadata })
}

/// ggml's numbers for types.
fn stored(kind: u32) -> Option<Stored> {
    use safetensors::Dtype;
    Some(match kind {
        0 => Stored::Plain(Dtype::F32),
        1 => Stored::Plain(Dtype::F16),
        2 => Stored::Quantized(Format::Q4_0),
        3 => Stored::Quantized(Format::Q4_1),
        6 => Stored::Quantized(Format::Q5_0),
        7 => Stored::Quantized(Format::Q5_1),
        8 => Stored::Quantized(Format::Q8_0),
        9 => Stored::Quantized(Format::Q8_1),
        10 => Stored::Quantized(Format::Q2K),
        11 => Stored::Quantized(Format::Q3K),
        12 => Stored::Quantized(Format::Q4K),
        13 => Stored::Quantized(Format::Q5K),
        14 => Stored::Quantized(Format::Q6K),
        15 => Stored::Quantized(Format::Q8K),
        24 => Stored::Plain(Dtype::I8),
        25 => Stored::Plain(Dtype::I16),
        26 => Stored::Plain(Dtype::I32),
        27 => Stored::Plain(Dtype::I64),
        28 => Stored::Plain(Dtype::F64),
        30 => Stored::Plain(Dtype::BF16),
        _ => return None,
    })
}

fn broken(why: String) -> Error {
    Error::invalid_input(format!("not a usable GGUF file: {why}"))
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], Error> {
        let left = &self.file[self.at..];
        let taken = usize::try_from(count).ok().and_then(|count| left.get(..count));
        let taken = taken.ok_or_else(|| {
            broken(format!(
                "{count} bytes are announced at byte {}, where {} are left",
                self.at,
                left.len()
            ))
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.number()?))
    }

    fn text(&mut self) -> Result<String, Error> {
        let len = self.u64()?;
        Ok(String::from_utf8_lossy(self.take(len)?).into_owned())
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, Error> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.number()?).into(),
            1 => i8::from_le_bytes(self.number()?).into(),
            2 => u16::from_le_bytes(self.number()?).into(),
            3 => i16::from_le_bytes(self.number()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.number()?).into(),
            6 => f32::from_le_bytes(self.number()?).into(),
            7 => (u8::from_le_bytes(self.number()?) != 0).into(),
            8 => self.text()?.into(),
            9 if depth < MAX_DEPTH => {
                let (kind, count) = (self.u32()?, self.u64()?);
                // Every item takes a byte at least, so a count that lies ends before memory does.
                let mut items = Vec::with_capacity(count.min(1 << 16) as usize);
                for _ in 0..count {
                    items.push(self.value(kind, depth + 1)?);
                }
                Value::Array(items)
            }
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.number()?).into(),
            12 => f64::from_le_bytes(self.number()?).into(),
            _ => return Err(broken(format!("a value of type number {kind}"))),
        })
    }
}
