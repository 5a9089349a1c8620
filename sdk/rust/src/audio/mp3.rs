//! MP3 files, by the crate nanomp3: minimp3 in Rust without `unsafe`. Source: ISO/IEC 11172-3, 13818-3.

use nanomp3::{Options, SliceReader};

use super::{Audio, Limit};
use crate::{Error, Result};

const KIND: &str = "MP3";

pub(super) fn decode(bytes: &[u8], limit: Limit) -> Result<Audio> {
    // Without a scan of the whole file, which only seeking needs.
    let mut reader = SliceReader::<f32>::with_options(bytes, Options::default().skip_scan(true));
    let Some(channels) = reader.channels() else {
        return Err(Error::invalid_input(
            "audio: the MP3 file has no frame that can be decoded; it is damaged",
        ));
    };
    let (channels, rate) = (u16::from(channels.num()), reader.sample_rate());
    let most = limit.samples(KIND, rate, channels)?;
    let stated = reader.total_samples().map(|n| n.saturating_mul(u64::from(channels)));
    if stated.is_some_and(|n| n > most as u64) {
        return Err(limit.exceeded(KIND));
    }
    let mut samples: Vec<f32> = Vec::new();
    while let Some(frame) = reader.read_frame().map_err(damaged)? {
        if samples.len() + frame.len() > most {
            return Err(limit.exceeded(KIND));
        }
        samples.extend_from_slice(frame);
    }
    Ok(Audio {
        samples,
        channels,
        rate,
    })
}

fn damaged(why: impl std::fmt::Display) -> Error {
    Error::invalid_input(format!("audio: the MP3 file cannot be decoded: {why}"))
}
