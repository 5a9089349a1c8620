//! FLAC files, by the crate claxon. Source: RFC 9639.

use std::io::Read as _;

use claxon::{FlacReader, FlacReaderOptions};

use super::{Audio, Limit};
use crate::{Error, Result};

const KIND: &str = "FLAC";

pub(super) fn decode(bytes: &[u8], limit: Limit) -> Result<Audio> {
    let (info, frames) = split(bytes)?;
    // Tags and pictures are left out: they may be large, and damage in them is no concern of ours.
    let mut header = b"fLaC\x80\0\0\x22".to_vec();
    header.extend_from_slice(info);
    let options = FlacReaderOptions {
        metadata_only: false,
        read_vorbis_comment: false,
    };
    let mut reader = FlacReader::new_ext(header.as_slice().chain(frames), options).map_err(damaged)?;
    let info = reader.streaminfo();
    // The format has at most 8 channels.
    let (rate, channels) = (info.sample_rate, info.channels as u16);
    let most = limit.samples(KIND, rate, channels)?;
    let stated = info.samples.map(|n| n.saturating_mul(u64::from(channels)));
    if stated.is_some_and(|n| n > most as u64) {
        return Err(limit.exceeded(KIND));
    }
    let stated = stated.and_then(|n| usize::try_from(n).ok());
    // Half of what is usual; a header that lies gets no memory for it.
    let mut samples = Vec::with_capacity(stated.unwrap_or(0).min(bytes.len()));
    let scale = 1.0 / (1u64 << (info.bits_per_sample.clamp(1, 32) - 1)) as f32;
    let mut blocks = reader.blocks();
    let mut buffer = Vec::new();
    // What follows the last sample that was promised may be a tag of another format.
    while stated.is_none_or(|n| samples.len() < n) {
        let Some(block) = blocks.read_next_or_eof(buffer).map_err(damaged)? else {
            break;
        };
        if block.channels() != u32::from(channels) {
            return Err(damaged("the number of channels changes"));
        }
        if samples.len() + block.len() as usize > most {
            return Err(limit.exceeded(KIND));
        }
        for at in 0..block.duration() {
            samples.extend((0..block.channels()).map(|channel| block.sample(channel, at) as f32 * scale));
        }
        buffer = block.into_buffer();
    }
    if let Some(stated) = stated.filter(|n| samples.len() < *n) {
        let missing = stated - samples.len();
        return Err(damaged(format!("{missing} of {stated} samples are missing at the end")));
    }
    samples.truncate(stated.unwrap_or(usize::MAX));
    Ok(Audio {
        samples,
        channels,
        rate,
    })
}

/// The 34 bytes of STREAMINFO, and everything after the metadata.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let short = || damaged("it ends within its metadata");
    let mut rest = bytes.get(4..).ok_or_else(short)?;
    let mut info = None;
    loop {
        let (&[kind, a, b, c], content) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let size = u32::from_be_bytes([0, a, b, c]) as usize;
        let (block, after) = content.split_at_checked(size).ok_or_else(short)?;
        if kind & 0x7f == 0 {
            info = Some(block);
        }
        rest = after;
        if kind & 0x80 != 0 {
            break;
        }
    }
    match info {
        Some(info) if info.len() == 34 => Ok((info, rest)),
        _ => Err(damaged("it has no STREAMINFO")),
    }
}

fn damaged(why: impl std::fmt::Display) -> Error {
    Error::invalid_input(format!("audio: the FLAC file cannot be decoded: {why}"))
}
