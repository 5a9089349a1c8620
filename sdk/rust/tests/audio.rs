//! Sound files, resampling and mel spectrograms against numpy, librosa and soundfile (`tests/golden/audio.py`), and against bytes
//! that nobody would send in good faith.
#![cfg(all(feature = "audio-flac", feature = "audio-mp3"))]
#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init, missing_docs)]

use std::f64::consts::TAU;
use std::path::Path;

use maquette::Code;
use maquette::audio::mel::{Mel, Norm, Pad, Scale, Settings};
use maquette::audio::{Audio, MAX_SAMPLES_PER_SECOND, segments};
use proptest::prelude::*;
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_slice(&file("audio.json")).unwrap()
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new("tests/golden").join(name)).unwrap()
}

const FILES: [&str; 14] = [
    "u8.wav",
    "s16.wav",
    "s24.wav",
    "s32.wav",
    "f32.wav",
    "f64.wav",
    "ulaw.wav",
    "alaw.wav",
    "rf64.wav",
    "s16.flac",
    "s24.flac",
    "s8.flac",
    "mono.mp3",
    "stereo.mp3",
];

/// The script's chirp.
fn chirp(n: usize, rate: u32) -> Vec<f32> {
    let value = |i: usize| {
        let t = i as f64 / f64::from(rate);
        (0.6 * (TAU * (60.0 * t + 900.0 * t * t)).sin() * (0.75 + 0.25 * (TAU * 3.0 * t).cos())) as f32
    };
    (0..n).map(value).collect()
}

/// The largest difference from what was picked, each divided by `scale(expected)`. Ours has `columns` values in a row, of which the
/// picked array has the first ones.
fn worst(picked: &Value, ours: &[f32], columns: usize, scale: impl Fn(f64) -> f64) -> f64 {
    let width = picked["shape"].as_array().unwrap().last().unwrap().as_u64().unwrap() as usize;
    let at = picked["at"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i.as_u64().unwrap() as usize);
    let values = picked["value"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap());
    at.zip(values)
        .map(|(at, value)| (f64::from(ours[at / width * columns + at % width]) - value).abs() / scale(value))
        .fold(0.0, f64::max)
}

fn message(bytes: &[u8]) -> String {
    let error = Audio::decode(bytes).unwrap_err();
    assert_eq!(error.code(), Code::InvalidInput);
    error.message().to_owned()
}

#[test]
fn files_decode_to_what_soundfile_reads() {
    let golden = golden();
    for name in FILES {
        let expected = &golden["files"][name];
        let audio = Audio::decode(&file(name)).unwrap();
        assert_eq!(u64::from(audio.rate), expected["rate"].as_u64().unwrap(), "{name}");
        assert_eq!(
            u64::from(audio.channels),
            expected["channels"].as_u64().unwrap(),
            "{name}"
        );
        assert_eq!(
            audio.samples.len() as u64,
            expected["shape"][0].as_u64().unwrap(),
            "{name}"
        );
        let error = worst(expected, &audio.samples, audio.samples.len(), |_| 1.0);
        println!("{name}: {error:e}");
        // The two decoders of MP3 round differently; all else is exact, up to f32.
        let allowed = if name.ends_with(".mp3") { 2e-5 } else { 6e-8 };
        assert!(error <= allowed, "{name}: {error}");
    }
}

#[test]
fn mel_spectrograms_are_those_of_whisper_and_librosa() {
    let golden = golden();
    let sound = chirp(40_000, 16_000);
    for (name, n_mels, pad_to) in [
        ("whisper80", 80, 480_000),
        ("whisper128", 128, 480_000),
        ("whisper80_short", 80, 40_000),
    ] {
        let (mel, frames) = Mel::whisper(n_mels).unwrap().frames(&sound, pad_to);
        assert_eq!(frames, pad_to / 160);
        assert_eq!(mel.len(), n_mels * frames);
        let error = worst(&golden[name], &mel, frames, |_| 1.0);
        println!("{name}: {error:e}");
        assert!(error < 2e-4, "{name}: {error}");
    }
    let sound = chirp(30_000, 22_050);
    let librosa = Settings::librosa(22_050);
    let htk = Settings {
        n_fft: 1024,
        win: 800,
        hop: 200,
        n_mels: 40,
        fmin: 80.0,
        fmax: 7600.0,
        power: 1.0,
        scale: Scale::Htk,
        norm: Norm::None,
        centre: None,
        ..librosa.clone()
    };
    let odd = Settings {
        n_fft: 441,
        win: 441,
        hop: 147,
        n_mels: 32,
        fmin: 20.0,
        centre: Some(Pad::Zero),
        ..librosa.clone()
    };
    // Rounding leaves in each frequency what is small beside the loudest one: in amplitudes that is more than in energies.
    for (name, settings, floor) in [("librosa", librosa, 1e-6), ("htk", htk, 1e-3), ("odd", odd, 1e-6)] {
        let n_mels = settings.n_mels as u64;
        let (mel, frames) = settings.build().unwrap().frames(&sound, 0);
        let most = f64::from(mel.iter().copied().fold(0.0, f32::max));
        assert_eq!(golden[name]["shape"], serde_json::json!([n_mels, frames]), "{name}");
        let error = worst(&golden[name], &mel, frames, |v| v + floor * most);
        println!("{name}: {error:e}");
        assert!(error < 1e-3, "{name}: {error}");
    }
}

/// The speech is not kept here; `tests/golden/audio.py` says where it is from.
#[test]
#[ignore = "needs MAQUETTE_SPEECH, the path of arctic_a0007.wav"]
fn the_mel_spectrogram_of_speech_is_whispers() {
    let golden = golden();
    let audio = Audio::decode(&std::fs::read(std::env::var("MAQUETTE_SPEECH").unwrap()).unwrap()).unwrap();
    for (name, n_mels) in [("arctic80", 80), ("arctic128", 128)] {
        let mel = Mel::whisper(n_mels).unwrap();
        let start = std::time::Instant::now();
        let (values, frames) = mel.frames(&audio.samples, 480_000);
        println!("{name}: {:?}", start.elapsed());
        let error = worst(&golden[name], &values, frames, |_| 1.0);
        println!("{name}: {error:e}");
        assert!(error < 2e-4, "{name}: {error}");
    }
}

#[test]
fn short_and_empty_sounds_have_spectrograms() {
    let mel = Mel::whisper(80).unwrap();
    let (silence, frames) = mel.frames(&[], 480_000);
    assert_eq!(frames, 3000);
    assert!(silence.iter().all(|x| *x == -1.5));
    for n in [0, 1, 2, 159, 160, 200, 201] {
        let (values, frames) = mel.frames(&vec![0.5; n], 0);
        assert_eq!((values.len(), frames), (80 * (n / 160), n / 160));
        assert!(values.iter().all(|x| x.is_finite()));
    }
    // Cut, not only padded.
    assert_eq!(
        mel.frames(&chirp(4000, 16_000), 1600),
        mel.frames(&chirp(1600, 16_000), 0)
    );
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let good = Settings::librosa(16_000);
    let bad = [
        (
            "rate",
            Settings {
                rate: 0,
                ..good.clone()
            },
        ),
        (
            "n_fft",
            Settings {
                n_fft: 1 << 17,
                ..good.clone()
            },
        ),
        (
            "win",
            Settings {
                win: 4096,
                ..good.clone()
            },
        ),
        ("hop", Settings { hop: 0, ..good.clone() }),
        (
            "n_mels",
            Settings {
                n_mels: 0,
                ..good.clone()
            },
        ),
        (
            "fmin",
            Settings {
                fmin: f32::NAN,
                ..good.clone()
            },
        ),
        (
            "fmax",
            Settings {
                fmax: 9000.0,
                ..good.clone()
            },
        ),
        ("power", Settings { power: 0.0, ..good }),
    ];
    for (name, settings) in bad {
        let error = settings.build().unwrap_err();
        assert!(error.message().contains(name), "{name}: {error}");
    }
    assert!(Mel::whisper(0).is_err() && Mel::whisper(usize::MAX).is_err());
}

/// Decibels of the error of a resampled sine against the ideal one, away from the ends.
fn sine_error(from: u32, to: u32, hz: f64) -> f64 {
    let sine = |n: usize, rate: u32| -> Vec<f32> {
        let value = |i: usize| (TAU * hz * i as f64 / f64::from(rate)).sin() as f32;
        (0..n).map(value).collect()
    };
    let audio = Audio {
        samples: sine(from as usize / 2, from),
        channels: 1,
        rate: from,
    };
    let got = audio.resample(to).unwrap().samples;
    assert_eq!(got.len(), (from as usize / 2 * to as usize).div_ceil(from as usize));
    let ideal = if hz < f64::from(to) / 2.0 {
        sine(got.len(), to)
    } else {
        vec![0.0; got.len()]
    };
    let middle = got.len() / 4..got.len() * 3 / 4;
    let worst = got[middle.clone()]
        .iter()
        .zip(&ideal[middle])
        .map(|(a, b)| f64::from((a - b).abs()));
    20.0 * worst.fold(1e-12, f64::max).log10()
}

#[test]
fn a_resampled_sine_is_the_ideal_one_to_90_db() {
    let rates = [
        (44_100, 16_000),
        (48_000, 16_000),
        (8_000, 16_000),
        (16_000, 44_100),
        (22_050, 16_000),
        (11_025, 48_000),
        (44_101, 16_000),
        (15_999, 16_000),
        (47_999, 16_001),
        (96_000, 8_000),
    ];
    let mut all = Vec::new();
    for (from, to) in rates {
        let nyquist = f64::from(from.min(to)) / 2.0;
        // The last two are above what the lower rate can hold, and must vanish.
        for part in [0.01, 0.1, 0.37, 0.7, 0.9, 1.0, 1.4] {
            let hz = part * nyquist;
            if hz < f64::from(from) / 2.0 {
                all.push((sine_error(from, to, hz), from, to, part));
            }
        }
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("worst: {:?}", &all[..6]);
    assert!(all[0].0 < -90.0, "{:?}", all[0]);
}

#[test]
fn resampling_keeps_constants_channels_and_lengths() {
    let both: Vec<f32> = (0..4000).flat_map(|_| [0.5, -0.25]).collect();
    let audio = Audio {
        samples: both,
        channels: 2,
        rate: 44_100,
    };
    let out = audio.clone().resample(16_000).unwrap();
    assert_eq!(
        (out.channels, out.rate, out.samples.len()),
        (2, 16_000, 2 * (4000 * 160usize).div_ceil(441))
    );
    for frame in out.samples[800..2000].chunks_exact(2) {
        assert!(
            (frame[0] - 0.5).abs() < 1e-6 && (frame[1] + 0.25).abs() < 1e-6,
            "{frame:?}"
        );
    }
    assert_eq!(audio.clone().resample(44_100).unwrap(), audio);
    let empty = Audio {
        samples: Vec::new(),
        channels: 1,
        rate: 8000,
    };
    assert!(empty.resample(16_000).unwrap().samples.is_empty());
    for (from, to) in [
        (16_000, 0),
        (16_000, 1),
        (16_000, 4_000_000_000),
        (0, 16_000),
        (1, 16_000),
        (u32::MAX, 16_000),
    ] {
        let audio = Audio {
            samples: vec![0.0; 8],
            channels: 1,
            rate: from,
        };
        let error = audio.resample(to).unwrap_err();
        assert!(error.message().contains("1000 to 384000 Hz"), "{error}");
    }
}

#[test]
fn mono_is_the_mean() {
    let audio = Audio {
        samples: vec![1.0, 0.0, 0.5, 0.25],
        channels: 2,
        rate: 8000,
    };
    assert_eq!(
        audio.mono(),
        Audio {
            samples: vec![0.5, 0.375],
            channels: 1,
            rate: 8000
        }
    );
}

#[test]
fn windows_cover_everything_once() {
    let all = |n, window, overlap| segments(n, window, overlap).collect::<Vec<_>>();
    assert_eq!(all(0, 10, 0), []);
    assert_eq!(all(9, 10, 0), [0..9]);
    assert_eq!(all(10, 10, 3), [0..10]);
    assert_eq!(all(21, 10, 0), [0..10, 10..20, 20..21]);
    assert_eq!(all(17, 10, 3), [0..10, 7..17]);
    assert_eq!(all(18, 10, 3), [0..10, 7..17, 14..18]);
    assert_eq!(all(3, 0, 9), [0..1, 1..2, 2..3]);
}

fn wav(code: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let block = channels * bits.div_ceil(8);
    let mut out = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0".to_vec();
    out.extend(code.to_le_bytes());
    out.extend(channels.to_le_bytes());
    out.extend(rate.to_le_bytes());
    out.extend(rate.wrapping_mul(u32::from(block)).to_le_bytes());
    out.extend(block.to_le_bytes());
    out.extend(bits.to_le_bytes());
    out.extend(b"data");
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out
}

#[test]
fn files_that_cannot_be_used_are_told_why() {
    for (bytes, what) in [
        (b"".to_vec(), "an empty file"),
        (b"OggS\0\x02".to_vec(), "an Ogg file; send WAV, FLAC or MP3"),
        (b"\0\0\0\x20ftypM4A ".to_vec(), "an MP4 or M4A file"),
        (b"hello, this is no sound".to_vec(), "no sound file"),
        (wav(2, 1, 8000, 4, &[0; 8]), "format 2 with 4 bits"),
        (wav(1, 0, 8000, 16, &[]), "0 channels"),
        (wav(1, 1, 0, 16, &[]), "at 0 Hz"),
        (wav(1, 1, u32::MAX, 16, &[0; 8]), "more than 384000 samples a second"),
        (wav(1, 1000, 48_000, 8, &[0; 8]), "more than 384000 samples a second"),
        (
            wav(3, 1, 8000, 32, &f32::NAN.to_le_bytes()),
            "sample 0 of the WAV file is NaN",
        ),
        (wav(3, 1, 8000, 32, &f32::INFINITY.to_le_bytes()), "is inf"),
        (wav(3, 1, 8000, 64, &1e300f64.to_le_bytes()), "is inf"),
        (wav(1, 1, 1, 8, &[0; 601]), "longer than 600 seconds"),
        (b"RIFF\0\0\0\0WAVE".to_vec(), "no samples"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0".to_vec(), "before their format"),
        (file("s16.flac")[..200].to_vec(), "the FLAC file cannot be decoded"),
        (b"fLaC".to_vec(), "ends within its metadata"),
    ] {
        let message = message(&bytes);
        assert!(message.contains(what), "{what}: {message}");
    }
    // No sound at all is sound.
    let empty = Audio::decode(&wav(1, 2, 8000, 16, &[1, 2, 3])).unwrap();
    assert_eq!((empty.samples.len(), empty.channels, empty.seconds()), (0, 2, 0.0));
}

#[test]
fn a_header_that_nobody_corrected_gives_what_is_there() {
    let mut bytes = file("s16.wav");
    let whole = Audio::decode(&bytes).unwrap();
    let data = bytes.windows(4).position(|w| w == b"data").unwrap();
    bytes[data + 4..data + 8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Audio::decode(&bytes).unwrap(), whole);
    // Tags in front of it and behind it.
    let mut flac = b"ID3\x04\0\0\0\0\0\x03abc".to_vec();
    flac.extend(file("s16.flac"));
    flac.extend([b'T'; 128]);
    assert_eq!(Audio::decode(&flac).unwrap(), Audio::decode(&file("s16.flac")).unwrap());
}

#[test]
fn what_is_too_long_is_refused() {
    for name in FILES {
        let bytes = file(name);
        let seconds = Audio::decode(&bytes).unwrap().seconds();
        assert!(Audio::decode_up_to(&bytes, seconds).is_ok(), "{name}");
        for most in [seconds * 0.9, 0.0, -1.0, f64::NAN] {
            let error = Audio::decode_up_to(&bytes, most).unwrap_err();
            assert!(error.message().contains("is longer than"), "{name}: {error}");
        }
    }
    // A header that promises ten hours, without them: no memory, and an error.
    let mut flac = file("s16.flac");
    flac[22..26].copy_from_slice(&[0x10, 0, 0, 0]);
    assert!(message(&flac).contains("longer than 600 seconds"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever comes: an answer or an error, and never more samples than were allowed.
    #[test]
    fn no_bytes_panic_or_grow(
        which in 0..FILES.len() + 5,
        changes in prop::collection::vec((0.0..1.0f64, any::<u8>()), 0..12),
        early in any::<bool>(),
        cut in 0.0..1.3f64,
        noise in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut bytes = match FILES.get(which) {
            Some(name) => file(name),
            None => [&b"RIFF\0\0\0\0WAVE"[..], b"fLaC", b"ID3\x04", b"\xff\xfb\x90\x44", b""][which - FILES.len()].to_vec(),
        };
        for (at, value) in changes {
            // Half of the time only in the headers.
            let most = if early { bytes.len().min(64) } else { bytes.len() };
            if most > 0 {
                bytes[(at * most as f64) as usize] = value;
            }
        }
        bytes.truncate((cut * bytes.len() as f64) as usize);
        if which >= FILES.len() || cut > 1.2 {
            bytes.extend(noise);
        }
        if let Ok(audio) = Audio::decode_up_to(&bytes, 2.0) {
            prop_assert!(audio.samples.len() as u64 <= 2 * MAX_SAMPLES_PER_SECOND);
            prop_assert!(audio.channels > 0 && audio.samples.len() % usize::from(audio.channels) == 0);
            prop_assert!(audio.samples.iter().all(|x| x.is_finite()));
            let audio = audio.mono();
            if (1_000..384_000).contains(&audio.rate) {
                let out = audio.resample(16_000).unwrap();
                prop_assert!(out.samples.iter().all(|x| x.is_finite()));
                let (mel, _) = Mel::whisper(80).unwrap().frames(&out.samples, 0);
                prop_assert!(mel.iter().all(|x| x.is_finite()));
            }
        }
    }
}
