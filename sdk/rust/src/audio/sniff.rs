//! What kind of file some bytes are, from how they begin.

/// The kinds that this build decodes, for messages.
pub(super) const KNOWN: &str = if cfg!(all(feature = "audio-flac", feature = "audio-mp3")) {
    "WAV, FLAC or MP3"
} else if cfg!(feature = "audio-flac") {
    "WAV or FLAC"
} else if cfg!(feature = "audio-mp3") {
    "WAV or MP3"
} else {
    "WAV"
};

pub(super) enum Container {
    Wav,
    /// And where it starts: after a tag that some programs put in front.
    #[cfg(feature = "audio-flac")]
    Flac(usize),
    #[cfg(feature = "audio-mp3")]
    Mp3,
    /// What it is, as far as that is known.
    Unknown(&'static str),
}

pub(super) fn sniff(bytes: &[u8]) -> Container {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let form = bytes.get(8..12).unwrap_or_default();
    if (starts(b"RIFF") || starts(b"RF64")) && form == b"WAVE" {
        return Container::Wav;
    }
    let start = after_id3(bytes);
    if bytes[start..].starts_with(b"fLaC") {
        #[cfg(feature = "audio-flac")]
        return Container::Flac(start);
        #[cfg(not(feature = "audio-flac"))]
        return Container::Unknown("a FLAC file");
    }
    let known: [(bool, &str); 10] = [
        (bytes.is_empty(), "an empty file"),
        (starts(b"OggS"), "an Ogg file"),
        (bytes.get(4..8) == Some(b"ftyp"), "an MP4 or M4A file"),
        (starts(&[0x1a, 0x45, 0xdf, 0xa3]), "a WebM or Matroska file"),
        (starts(b"FORM"), "an AIFF file"),
        (starts(b"caff"), "a CAF file"),
        (starts(b"RIFX"), "a WAV file in big-endian order"),
        (starts(b"RIFF"), "a RIFF file without sound"),
        (starts(b".snd"), "an AU file"),
        (starts(b"#!AMR"), "an AMR file"),
    ];
    if let Some((_, what)) = known.into_iter().find(|(is, _)| *is) {
        return Container::Unknown(what);
    }
    #[cfg(feature = "audio-mp3")]
    if nanomp3::detect(bytes) {
        return Container::Mp3;
    }
    Container::Unknown("no sound file that is known here")
}

/// The length of an ID3v2 tag at the beginning. Source: ID3 tag version 2.4.0, main structure, section 3.1.
fn after_id3(bytes: &[u8]) -> usize {
    match bytes {
        [b'I', b'D', b'3', _, _, flags, a, b, c, d, ..] if [a, b, c, d].iter().all(|x| **x < 0x80) => {
            let size = [a, b, c, d].iter().fold(0, |n, x| n << 7 | usize::from(**x));
            let footer = if flags & 0x10 == 0 { 0 } else { 10 };
            (10 + size + footer).min(bytes.len())
        }
        _ => 0,
    }
}
