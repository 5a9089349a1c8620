//! Whisper from CTranslate2's weights to an endpoint: words and times are those of a float64 forward
//! (tests/peers/whisper_golden.py), also of more than 30 seconds; bad input is told what is wrong. One of many languages, in Hugging
//! Face's names and two files, says what transformers says (tests/peers/tiny_whisper.py).
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

/// The formula of tests/peers/tiny_whisper.py.
fn weight(name: &str, len: usize) -> impl Iterator<Item = f32> {
    let hash = name.bytes().fold(2_166_136_261_u32, |h, byte| {
        (h ^ u32::from(byte)).wrapping_mul(16_777_619)
    });
    let (add, times) = match name {
        _ if name.ends_with("norm.weight") => (1.0, 0.5),
        _ if name.ends_with("bias") => (0.0, 0.25),
        "model.decoder.embed_positions.weight" => (0.0, 4.0),
        _ => (0.0, 0.5),
    };
    (0..len as u32).map(move |i| {
        let mut x = i.wrapping_mul(2_654_435_761) ^ hash;
        x ^= x >> 16;
        x = x.wrapping_mul(0x85eb_ca6b);
        x ^= x >> 13;
        x = x.wrapping_mul(0xc2b2_ae35);
        x ^= x >> 16;
        add + ((x >> 8) as f32 / (1 << 24) as f32 - 0.5) * times
    })
}

/// A safetensors file of those of the golden's tensors whose names begin so.
fn safetensors(shapes: &Value, prefix: &str) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for (name, shape) in shapes.as_object().unwrap() {
        if name.starts_with(prefix) {
            let len: u64 = shape.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product();
            let start = data.len();
            data.extend(weight(name, len as usize).flat_map(f32::to_le_bytes));
            let info = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name.clone(), info);
        }
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

#[test]
fn a_whisper_of_many_languages_in_two_files_says_what_transformers_says() {
    let golden = read("tests/peers/golden/tiny_whisper.json");
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    succeed(
        maquette()
            .args(["build", "plugins/whisper", "--output"])
            .arg(folder.path().join("whisper.wasm")),
    );
    write("encoder.safetensors", &safetensors(&golden["shapes"], "model.encoder."));
    write("decoder.safetensors", &safetensors(&golden["shapes"], "model.decoder."));
    write("config.json", golden["config"].to_string().as_bytes());
    // A token's text is its number, so that the output tells the tokens.
    let vocabulary: serde_json::Map<String, Value> =
        (0..50_257).map(|id| (format!("\u{120}{id}"), json!(id))).collect();
    let tokenizer = json!({
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    });
    write("tokenizer.json", tokenizer.to_string().as_bytes());
    write(
        "maquette.toml",
        br#"
[model]
name = "whisper"
version = "0.0.1"

[component]
path = "whisper.wasm"

[weights.model]
shards = [{ source = "encoder.safetensors" }, { source = "decoder.safetensors" }]

[assets]
"config.json" = { source = "config.json" }
"tokenizer.json" = { source = "tokenizer.json" }

[limits]
memory_mb = 1024
"#,
    );
    let shown = succeed(maquette().arg("inspect").arg(folder.path()));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("model, shard 2"), "{shown}");

    let up = Up::start(folder.path().to_str().unwrap());
    let samples = golden["seconds"].as_i64().unwrap() * 16_000;
    let audio = wav((0..samples as u32).map(|i| {
        let i = i64::from(i);
        ((i * i / 512 + 11 * i) % 9001 - 4500) as i16
    }));
    for (name, case) in golden["cases"].as_object().unwrap() {
        let mut input = json!({"audio": audio, "translate": case["translate"], "timestamps": case["timestamps"]});
        if case["language"].is_string() {
            input["language"] = case["language"].clone();
        }
        let (status, _, output) = up.post(RUN, input.to_string().as_bytes());
        assert_eq!(status, 200, "{name}: {output}");
        assert_eq!(output["language"], case["found_language"], "{name}");
        let (found, expected) = (
            output["segments"].as_array().unwrap(),
            case["segments"].as_array().unwrap(),
        );
        assert_eq!(found.len(), expected.len(), "{name}: {output}");
        for (found, expected) in found.iter().zip(expected) {
            let ids = expected["ids"].as_array().unwrap().iter();
            let text: String = ids.map(|id| format!(" {id}")).collect();
            assert_eq!(found["text"], json!(text), "{name}");
            for at in ["start", "end"] {
                let gap = found[at].as_f64().unwrap() - expected[at].as_f64().unwrap();
                assert!(gap.abs() < 0.011, "{name}, {at}: {found}, expected {expected}");
            }
        }
    }
    let (status, _, problem) = up.post(RUN, json!({"audio": audio, "language": "xx"}).to_string().as_bytes());
    assert_eq!(status, 422, "{problem}");
    assert!(problem.to_string().contains("this model knows en, zh, de"), "{problem}");
}
