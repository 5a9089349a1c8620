//! WAV files. Sources: "Multimedia Programming Interface and Data Specifications 1.0" (RIFF), Microsoft's WAVEFORMATEXTENSIBLE,
//! EBU Tech 3306 (RF64), ITU-T G.711 (A-law, µ-law).

use super::{Audio, Limit};
use crate::{Error, Result};

/// The largest absolute value of a sample that is taken for sound: some floats are in the scale of 32-bit integers.
const LOUDEST: f32 = 2_147_483_648.0;
/// The last 14 bytes of every SubFormat that stands for an old format code.
const BASE_GUID: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];

/// What the chunk `fmt ` says.
struct Format {
    coding: Coding,
    channels: u16,
    rate: u32,
}

/// How a sample is written.
#[derive(Clone, Copy)]
enum Coding {
    U8,
    S16,
    S24,
    S32,
    F32,
    F64,
    ALaw,
    MuLaw,
}

pub(super) fn decode(bytes: &[u8], limit: Limit) -> Result<Audio> {
    let mut rest = bytes.get(12..).unwrap_or_default();
    let mut format = None;
    let mut long = None;
    while let Some((name, size, content)) = chunk(rest) {
        // What a chunk lacks at the end of the file is cut off: recorders that stream cannot go back and correct the size.
        let inside = content.get(..size).unwrap_or(content);
        match name {
            b"fmt " => format = Some(read_format(inside)?),
            b"ds64" => {
                long = inside
                    .get(8..16)
                    .and_then(|b| b.try_into().ok())
                    .map(u64::from_le_bytes)
            }
            b"data" => {
                let Some(format) = format else {
                    return Err(damaged("the samples come before their format"));
                };
                let data = match long.and_then(|size| content.get(..usize::try_from(size).ok()?)) {
                    Some(data) if size == u32::MAX as usize => data,
                    _ => inside,
                };
                return read_samples(data, &format, limit);
            }
            _ => {}
        }
        // Chunks begin at even offsets.
        rest = content.get(size.saturating_add(size & 1)..).unwrap_or_default();
    }
    Err(damaged("it has no samples (no chunk `data`)"))
}

fn chunk(bytes: &[u8]) -> Option<(&[u8; 4], usize, &[u8])> {
    let (name, rest) = bytes.split_first_chunk::<4>()?;
    let (size, content) = rest.split_first_chunk::<4>()?;
    Some((name, u32::from_le_bytes(*size) as usize, content))
}

fn read_format(bytes: &[u8]) -> Result<Format> {
    let short = |at: usize| match bytes.get(at..at + 2) {
        Some(&[low, high]) => Ok(u16::from_le_bytes([low, high])),
        _ => Err(damaged("the chunk `fmt ` is too short")),
    };
    let rate = u32::from(short(4)?) | u32::from(short(6)?) << 16;
    let (mut code, channels, block, bits) = (short(0)?, short(2)?, short(12)?, short(14)?);
    if code == 0xfffe {
        code = short(24)?;
        if bytes.get(26..40) != Some(&BASE_GUID) {
            return Err(Error::invalid_input(
                "audio: the WAV file has a SubFormat that is not known; save it as 16-bit PCM",
            ));
        }
    }
    let coding = match (code, bits.div_ceil(8)) {
        (1, 1) => Coding::U8,
        (1, 2) => Coding::S16,
        (1, 3) => Coding::S24,
        (1, 4) => Coding::S32,
        (3, 4) => Coding::F32,
        (3, 8) => Coding::F64,
        (6, 1) => Coding::ALaw,
        (7, 1) => Coding::MuLaw,
        _ => {
            return Err(Error::invalid_input(format!(
                "audio: the WAV file has samples of format {code} with {bits} bits; save it as 16-bit PCM"
            )));
        }
    };
    if usize::from(block) != usize::from(channels) * coding.bytes() {
        return Err(damaged(&format!(
            "a frame of {channels} channels with {bits} bits has {block} bytes"
        )));
    }
    Ok(Format { coding, channels, rate })
}

impl Coding {
    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::ALaw | Self::MuLaw => 1,
            Self::S16 => 2,
            Self::S24 => 3,
            Self::S32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

fn read_samples(data: &[u8], format: &Format, limit: Limit) -> Result<Audio> {
    let Format { coding, channels, rate } = *format;
    let most = limit.samples("WAV", rate, channels)?;
    let frame = coding.bytes() * usize::from(channels);
    // A frame cut off at the end is no frame.
    let data = &data[..data.len() / frame * frame];
    if data.len() / coding.bytes() > most {
        return Err(limit.exceeded("WAV"));
    }
    let samples: Vec<f32> = match coding {
        Coding::U8 => data.iter().map(|b| (f32::from(*b) - 128.0) / 128.0).collect(),
        Coding::S16 => each(data, |b| f32::from(i16::from_le_bytes(b)) / 32_768.0),
        Coding::S24 => each(data, |[a, b, c]| {
            i32::from_le_bytes([0, a, b, c]) as f32 / 2_147_483_648.0
        }),
        Coding::S32 => each(data, |b| i32::from_le_bytes(b) as f32 / 2_147_483_648.0),
        Coding::F32 => each(data, f32::from_le_bytes),
        Coding::F64 => each(data, |b| f64::from_le_bytes(b) as f32),
        Coding::ALaw => data.iter().map(|b| a_law(*b)).collect(),
        Coding::MuLaw => data.iter().map(|b| mu_law(*b)).collect(),
    };
    // Only floats can be what this looks for.
    if let Some(at) = samples.iter().position(|x| x.is_nan() || x.abs() > LOUDEST) {
        let (sample, value) = (at / usize::from(channels), samples[at]);
        return Err(Error::invalid_input(format!(
            "audio: sample {sample} of the WAV file is {value}, which is no sound; write it anew"
        )));
    }
    Ok(Audio {
        samples,
        channels,
        rate,
    })
}

fn each<const N: usize>(data: &[u8], sample: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    data.as_chunks::<N>().0.iter().map(|bytes| sample(*bytes)).collect()
}

fn a_law(byte: u8) -> f32 {
    let byte = byte ^ 0x55;
    let mantissa = i16::from(byte & 0x0f) << 4 | 8;
    let value = match byte >> 4 & 7 {
        0 => mantissa,
        exponent => (mantissa | 0x100) << (exponent - 1),
    };
    f32::from(if byte & 0x80 == 0 { -value } else { value }) / 32_768.0
}

fn mu_law(byte: u8) -> f32 {
    let byte = !byte;
    let value = ((i16::from(byte & 0x0f) << 3 | 0x84) << (byte >> 4 & 7)) - 0x84;
    f32::from(if byte & 0x80 == 0 { value } else { -value }) / 32_768.0
}

fn damaged(what: &str) -> Error {
    Error::invalid_input(format!("audio: the WAV file is damaged: {what}"))
}
