//! Writing safetensors, one way for each set of tensors. Source: huggingface/safetensors, "Format".

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Serialize;

use super::tensors::Index;
use crate::{Error, Result};

/// Bytes moved at once.
const CHUNK: usize = 1 << 18;

/// A tensor in the header.
#[derive(Serialize)]
struct Entry<'a> {
    dtype: &'static str,
    shape: &'a [u32],
    data_offsets: [u64; 2],
}

/// Writes the tensors of `index`, whose bytes are in `file` (at `path`), to `out` (at `place`).
///
/// The metadata comes first in the header and the tensors follow by name. Their bytes lie with the widest elements first, then by
/// name: the format allows no gaps, and so each is aligned to its elements.
pub(super) fn write(
    index: &Index,
    file: &mut File,
    path: &Path,
    place: &Path,
    out: &mut dyn Write,
    moved: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut order: Vec<_> = index.tensors.iter().collect();
    order.sort_by_key(|(name, tensor)| (Reverse(tensor.dtype.size()), *name));
    let mut entries = BTreeMap::new();
    let mut end = 0;
    for (name, tensor) in &order {
        let start = end;
        end += tensor.len;
        let entry = Entry {
            dtype: tensor.dtype.name(),
            shape: &tensor.dims,
            data_offsets: [start, end],
        };
        entries.insert(name.as_str(), entry);
    }
    let mut header = json(&index.metadata, place)?;
    header.insert_str(0, "{\"__metadata__\":");
    // Two objects become one: the brace that opens the second gives way to a comma.
    match json(&entries, place)?.strip_prefix('{') {
        Some(rest) if !entries.is_empty() => header.extend([",", rest]),
        _ => header.push('}'),
    }
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(Error::io("write", place));
    put(&(header.len() as u64).to_le_bytes())?;
    put(header.as_bytes())?;

    let mut buffer = vec![0; CHUNK];
    for (_, tensor) in order {
        file.seek(SeekFrom::Start(tensor.start))
            .map_err(Error::io("read", path))?;
        let mut left = tensor.len;
        while left > 0 {
            let part = &mut buffer[..left.min(CHUNK as u64) as usize];
            file.read_exact(part).map_err(Error::io("read", path))?;
            put(part)?;
            moved(part.len() as u64);
            left -= part.len() as u64;
        }
    }
    Ok(())
}

fn json(value: &impl Serialize, place: &Path) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::io("write", place)(std::io::Error::new(ErrorKind::InvalidData, e)))
}
