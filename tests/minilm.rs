//! MiniLM from a folder to an endpoint: the goldens hold everywhere, and a native implementation agrees.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Up, cosine, maquette, repository, succeed, vectors};

fn golden(case: &str) -> Value {
    let path = repository().join(format!("plugins/minilm/cases/{case}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn assert_near(found: &Value, expected: &Value) {
    let (found, expected) = (vectors(found), vectors(expected));
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().flatten().zip(expected.iter().flatten()) {
        assert!((a - b).abs() <= 2e-6, "{a} is not {b}");
    }
}

#[test]
fn its_cases_hold_in_the_sandbox() {
    let report = support::json(&succeed(maquette().args(["test", "plugins/minilm", "--json"])));
    assert!(report.to_string().contains("batch"), "{report}");
}

#[test]
fn a_call_without_a_server_gives_the_golden_embedding() {
    let output = succeed(maquette().args(["run", "plugins/minilm", "-i", "text=A cat sits on the mat.", "--json"]));
    let document = support::json(&output);
    assert_near(document.get("output").unwrap_or(&document), &golden("one")["output"]);

    // A first call loads the weights, and what that took is no part of what computing took.
    let time = |name: &str| document["report"][name].as_u64().unwrap();
    assert!(time("load_us") > 0 && time("compute_us") > 0, "{}", document["report"]);
    assert!(
        time("load_us") + time("compute_us") <= time("total_us"),
        "{}",
        document["report"]
    );
}

#[test]
fn up_serves_it_the_curl_line_works_and_bad_input_is_told_what_is_wrong() {
    let up = Up::start("plugins/minilm");

    let curl = succeed(std::process::Command::new("sh").args(["-c", up.told["curl"].as_str().unwrap()]));
    assert_eq!(vectors(&support::json(&curl))[0].len(), 384);

    let run = "/v1/models/local/minilm/run";
    let (status, headers, output) = up.post(run, golden("batch")["input"].to_string().as_bytes());
    assert_eq!(status, 200, "{output}");
    assert_near(&output, &golden("batch")["output"]);
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    assert_eq!(header("x-maquette-version").unwrap(), up.told["id"].as_str().unwrap());
    for name in ["x-maquette-queue-ms", "x-maquette-compute-ms", "x-maquette-total-ms"] {
        assert!(header(name).unwrap().parse::<f64>().unwrap() >= 0.0, "{name}");
    }
    let likeness = vectors(&output);
    assert!((cosine(&likeness[0], &likeness[1]) - 0.6553).abs() < 1e-3);
    assert!((cosine(&likeness[0], &likeness[2]) - 0.0911).abs() < 1e-3);

    let refused = |body: &[u8], status: u16, field: &str| {
        let (found, _, problem) = up.post(run, body);
        assert_eq!(
            (found, problem["status"].as_u64()),
            (status, Some(u64::from(status))),
            "{problem}"
        );
        assert!(problem.to_string().contains(field), "{field}: {problem}");
    };
    refused(b"{\"text\":", 400, "JSON");
    refused(b"{\"text\": \"\xff\"}", 400, "");
    refused(br#"{"text": 1}"#, 422, "text");
    refused(br#"{"texts": ["a", 2, null]}"#, 422, "texts[1]");
    refused(br#"{"texts": []}"#, 422, "texts");
    refused(b"{}", 422, "`texts`");
    refused(br#"{"text": "a", "texts": ["b"]}"#, 422, "`texts`");
    refused(json!({"texts": vec!["a"; 10_000]}).to_string().as_bytes(), 422, "texts");
    refused(json!({"text": "x".repeat(1 << 20)}).to_string().as_bytes(), 422, "text");
    // A client that is told so before it has sent everything; curl reads the answer all the same.
    let large = up.data.path().join("large");
    std::fs::write(&large, vec![b' '; 64 << 20]).unwrap();
    let answer = succeed(
        std::process::Command::new("curl")
            .args(["-sS", "-w", "%{http_code}", "-H", "Content-Type: application/json"])
            .args([
                "-H",
                &format!("Authorization: Bearer {}", up.token()),
                "--data-binary",
                &format!("@{}", large.display()),
                &up.url(run),
            ]),
    );
    assert!(
        answer.stdout.ends_with(b"413"),
        "{}",
        String::from_utf8_lossy(&answer.stdout)
    );

    let (status, _, _) = up.post("/v1/models/local/nobody/run", b"{}");
    assert_eq!(status, 404);
    let (status, _, _) = up.post(
        &format!("/v1/models/local/minilm/versions/{}/run", "0".repeat(64)),
        b"{}",
    );
    assert_eq!(status, 404);
    assert_eq!(up.get("/v1/models", None).0, 401);
    assert_eq!(up.get("/v1/models", Some("mqt_wrong")).0, 401);
    assert_eq!((up.get("/healthz", None).0, up.get("/readyz", None).0), (200, 200));
    let token = up.token();
    let (_, _, openapi) = up.get("/v1/models/local/minilm/versions/latest/openapi.json", Some(&token));
    assert_eq!(
        openapi["components"]["schemas"]["Input"]["properties"]["texts"]["maxItems"],
        1024
    );
    let (_, _, metrics) = up.get("/metrics", Some(&token));
    assert!(metrics.as_str().unwrap().contains("maquette_"), "{metrics}");

    let (status, _, output) = up.post(run, golden("one")["input"].to_string().as_bytes());
    assert_eq!(status, 200, "the server goes on");
    assert_near(&output, &golden("one")["output"]);

    let (code, took, data) = up.interrupt();
    assert_eq!(code, Some(0), "Ctrl-C stops it cleanly");
    assert!(took < Duration::from_secs(10), "{took:?}");

    let again = Up::start_in("plugins/minilm", data);
    let ready = again.told["ready_ms"].as_u64().unwrap();
    assert!(ready < 60_000, "a second run reuses everything: {ready} ms");
    assert_eq!(again.post(run, golden("one")["input"].to_string().as_bytes()).0, 200);
}

#[test]
fn candle_transformers_own_bert_agrees() {
    use candle_core::{DType, Device, Tensor};
    use candle_transformers::models::bert::{BertModel, Config};

    // The weights and ids are where the model's own test left them.
    let report = support::json(&succeed(maquette().args(["inspect", "plugins/minilm", "--json"])));
    let digest = find_digest(&report, "model").unwrap();
    let blob = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("maquette-cache/blobs/sha256/{}/{digest}", &digest[..2]));
    let config: Config = serde_json::from_value(json!({
        "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "max_position_embeddings": 512,
        "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "position_embedding_type": "absolute", "use_cache": true, "model_type": "bert"
    }))
    .unwrap();
    let tensors = candle_core::safetensors::load(blob, &Device::Cpu).unwrap();
    let weights = candle_nn::VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let bert = BertModel::load(weights, &config).unwrap();
    let ids = Tensor::new(
        &[[101_u32, 1037, 4937, 7719, 2006, 1996, 13523, 1012, 102]],
        &Device::Cpu,
    )
    .unwrap();
    let hidden = bert.forward(&ids, &ids.zeros_like().unwrap(), None).unwrap();
    let native: Vec<f32> = hidden.mean(1).unwrap().squeeze(0).unwrap().to_vec1().unwrap();
    let native: Vec<f64> = native.into_iter().map(f64::from).collect();

    let output = succeed(maquette().args(["run", "plugins/minilm", "-i", "text=A cat sits on the mat.", "--json"]));
    let document = support::json(&output);
    let ours = vectors(document.get("output").unwrap_or(&document)).remove(0);
    let likeness = cosine(&native, &ours);
    assert!(likeness >= 0.99999, "{likeness}");
}

/// The digest of a weight file anywhere in what `inspect` prints.
fn find_digest(value: &Value, name: &str) -> Option<String> {
    let found = value
        .pointer(&format!("/manifest/weights/{name}/sha256"))
        .or_else(|| value.pointer(&format!("/weights/{name}/sha256")));
    found
        .and_then(Value::as_str)
        .map(str::to_owned)
        .or_else(|| match value {
            Value::Object(map) => map.values().find_map(|inner| find_digest(inner, name)),
            Value::Array(list) => list.iter().find_map(|inner| find_digest(inner, name)),
            _ => None,
        })
}
