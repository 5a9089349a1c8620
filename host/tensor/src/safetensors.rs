//! The header of a safetensors file. Source: the safetensors format, version 0.3 on.

use ::safetensors::SafeTensors;
use maquette_ops::{Error, MAX_RANK};

use crate::weight_file::{Found, Header, Stored};

/// Reads the header.
///
/// # Errors
/// `invalid-input`, saying what is wrong.
pub(crate) fn read(file: &[u8]) -> Result<Header, Error> {
    let broken = |why: String| Error::invalid_input(format!("not a usable safetensors file: {why}"));
    // This checks that the header fits, offsets are in order without gaps or overlaps, and sizes match shapes.
    let (header, metadata) = SafeTensors::read_metadata(file).map_err(|e| broken(e.to_string()))?;
    let data = header
        .checked_add(8)
        .ok_or_else(|| broken("its header is too large".to_owned()))?;
    if data.checked_add(metadata.data_len()) != Some(file.len()) {
        return Err(broken(format!(
            "its header speaks of {} bytes of data",
            metadata.data_len()
        )));
    }
    let mut infos: Vec<_> = metadata.tensors().into_iter().collect();
    infos.sort_by_key(|(name, info)| (info.data_offsets.0, name.clone()));
    let mut found = Vec::with_capacity(infos.len());
    for (name, info) in infos {
        if info.shape.len() > MAX_RANK {
            return Err(broken(format!(
                "tensor `{name}`: {} dimensions; at most {MAX_RANK} are allowed",
                info.shape.len()
            )));
        }
        found.push(Found {
            name,
            shape: info.shape.iter().map(|dim| *dim as u64).collect(),
            stored: Stored::Plain(info.dtype),
            start: data + info.data_offsets.0,
            end: data + info.data_offsets.1,
        });
    }
    let metadata = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok(Header { found, metadata })
}
