//! Whisper from CTranslate2's weights to an endpoint: words and times are those of a float64 forward
//! (tests/peers/whisper_golden.py), also of more than 30 seconds; bad input is told what is wrong.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use base64::Engine as _;
use serde_json::{Value, json};
use support::{Up, json, maquette, repository, succeed};

const RUN: &str = "/v1/models/local/whisper/run";

fn read(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(repository().join(path)).unwrap()).unwrap()
}

/// A wav file of 16-bit samples at 16 kHz.
fn wav(samples: impl ExactSizeIterator<Item = i16>) -> String {
    let bytes = samples.len() as u32 * 2;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + bytes).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(16_000_u32.to_le_bytes());
    file.extend(32_000_u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend(bytes.to_le_bytes());
    file.extend(samples.flat_map(i16::to_le_bytes));
    let encoded = base64::engine::general_purpose::STANDARD.encode(file);
    format!("data:audio/wav;base64,{encoded}")
}

#[test]
fn its_cases_hold_in_the_sandbox() {
    let report = json(&succeed(maquette().args(["test", "plugins/whisper", "--json"])));
    assert!(report.to_string().contains("sentence"), "{report}");
}

#[test]
fn it_hears_more_than_thirty_seconds_and_refuses_what_is_no_sound() {
    let up = Up::start("plugins/whisper");
    let ask = |input: Value| up.post(RUN, input.to_string().as_bytes());
    let sentence = read("plugins/whisper/cases/sentence.json")["input"]["audio"].clone();
    let golden = read("tests/peers/golden/whisper_tiny_en.json");

    // The golden's long recording: the sentence and a second of silence, again and again, cut at 65 seconds.
    let encoded = sentence.as_str().unwrap().split_once(',').unwrap().1;
    let flac = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    let once: Vec<i16> = maquette::audio::Audio::decode(&flac)
        .unwrap()
        .samples
        .iter()
        .map(|x| (x * 32768.0) as i16)
        .chain(std::iter::repeat_n(0, 16_000))
        .collect();
    let long: Vec<i16> = once.iter().copied().cycle().take(65 * 16_000).collect();
    let (status, _, output) = ask(json!({"audio": wav(long.into_iter())}));
    assert_eq!(status, 200, "{output}");
    assert_eq!(output["text"], golden["long"]["text"]);
    let times: Vec<(f64, f64)> = output["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["start"].as_f64().unwrap(), s["end"].as_f64().unwrap()))
        .collect();
    assert_eq!(times.len(), 13);
    for (i, (start, end)) in times.iter().enumerate() {
        // The last sentence is cut: its end is the golden's, too.
        let expected = if i == 12 { 64.0 } else { 5.0 * (i + 1) as f64 };
        assert!(
            (start - 5.0 * i as f64).abs() < 0.011 && (end - expected).abs() < 0.011,
            "{times:?}"
        );
    }

    let (status, _, plain) = ask(json!({"audio": sentence, "timestamps": false}));
    assert_eq!(
        (status, &plain["text"]),
        (200, &golden["arctic_a0007"]["without timestamps"]["text"])
    );

    let silence = wav(std::iter::repeat_n(0, 0));
    let (status, _, output) = ask(json!({"audio": silence}));
    assert_eq!(
        (status, output["text"].as_str()),
        (200, Some("")),
        "no sound is no words"
    );
    for (input, says) in [
        (json!({}), "audio"),
        (json!({"audio": "data:audio/wav;base64,AAAA"}), "no sound file"),
        (json!({"audio": sentence, "language": "fr"}), "English"),
        (json!({"audio": sentence, "translate": true}), "translate"),
        (json!({"audio": sentence, "language": 7}), "language"),
    ] {
        let (status, _, problem) = ask(input);
        assert_eq!(status, 422, "{problem}");
        assert!(problem.to_string().contains(says), "{says}: {problem}");
    }
}
