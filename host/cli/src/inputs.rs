//! Inputs from the command line: `-i name=value` and `--input-json`, turned into a JSON object by the model's input schema.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};

/// The largest file that is read into an input, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// Makes the input object: first `json` (text, `@file` or `@-`), then each `name=value` over it.
pub(crate) fn read(schema: &Value, json: Option<&str>, pairs: &[String]) -> Result<Value> {
    let mut input = match json {
        None => Map::new(),
        Some(text) => object(text)?,
    };
    let mut seen = BTreeSet::new();
    for pair in pairs {
        let Some((name, text)) = pair.split_once('=') else {
            return Err(Failure::usage(format!("`-i {pair}` has no `=`"))
                .help("write -i NAME=VALUE, such as -i text=\"hello\""));
        };
        let name = name.trim();
        let Some(property) = schema.get("properties").and_then(|p| p.get(name)) else {
            return Err(unknown(schema, name));
        };
        let value = value(schema, property, name, text)?;
        let again = !seen.insert(name.to_owned());
        match (input.get_mut(name), again) {
            // Said twice: the items of a list.
            (Some(Value::Array(items)), true) if takes(schema, property, "array") => match value {
                Value::Array(more) => items.extend(more),
                one => items.push(one),
            },
            (Some(first), true) if takes(schema, property, "array") => {
                let first = first.take();
                input.insert(name.to_owned(), Value::Array(vec![first, value]));
            }
            (Some(_), true) => {
                return Err(Failure::usage(format!(
                    "`-i {name}=…` is given twice, and `{name}` is not a list"
                )));
            }
            _ => {
                input.insert(name.to_owned(), value);
            }
        }
    }
    Ok(Value::Object(input))
}

fn object(text: &str) -> Result<Map<String, Value>> {
    let fail = |why: String| {
        Failure::usage(format!("--input-json: {why}")).help(
            "give a JSON object, such as --input-json '{\"text\": \"hello\"}', or @file, or @- for standard input",
        )
    };
    let text = match text.strip_prefix('@') {
        Some(path) => {
            let bytes = file(path).map_err(|e| fail(e.what))?;
            String::from_utf8(bytes).map_err(|_| fail(format!("{path} is not UTF-8")))?
        }
        None => text.to_owned(),
    };
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(fail(format!("expected an object, this is {}", kind(&other)))),
        Err(e) => Err(fail(format!("it is not JSON: {e}"))),
    }
}

fn unknown(schema: &Value, name: &str) -> Failure {
    let names: Vec<&str> = schema
        .get("properties")
        .and_then(Value::as_object)
        .map(|p| p.keys().map(String::as_str).collect())
        .unwrap_or_default();
    let help = if names.is_empty() {
        "it takes none".to_owned()
    } else {
        format!("it has: {}", names.join(", "))
    };
    Failure::usage(format!("the model has no input `{name}`")).help(help)
}

/// One value, typed by its schema.
fn value(root: &Value, property: &Value, name: &str, text: &str) -> Result<Value> {
    let takes = |kind: &str| takes(root, property, kind);
    let wrong = |expected: &str| {
        Failure::usage(format!("-i {name}={}: expected {expected}", shown(text)))
            .help("`maquette inspect` prints what the model's inputs are")
    };
    if let Some(path) = text.strip_prefix('@').filter(|rest| !rest.starts_with('@')) {
        return from_file(root, property, name, path);
    }
    // `@@x` is the text `@x`.
    let text = if text.starts_with("@@") { &text[1..] } else { text };
    let parsed = || serde_json::from_str::<Value>(text.trim()).ok();
    if takes("array")
        && text.trim_start().starts_with('[')
        && let Some(list @ Value::Array(_)) = parsed()
    {
        return Ok(list);
    }
    if takes("object")
        && text.trim_start().starts_with('{')
        && let Some(map @ Value::Object(_)) = parsed()
    {
        return Ok(map);
    }
    if takes("boolean") {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => return Ok(Value::Bool(true)),
            "false" | "no" | "off" | "0" => return Ok(Value::Bool(false)),
            _ if !takes("string") => return Err(wrong("true or false")),
            _ => {}
        }
    }
    if (takes("integer") || takes("number")) && !takes("string") {
        return match parsed() {
            Some(number @ Value::Number(_)) if takes("number") || number.is_i64() || number.is_u64() => Ok(number),
            Some(Value::Null) if takes("null") => Ok(Value::Null),
            _ => Err(wrong(if takes("number") { "a number" } else { "a whole number" })),
        };
    }
    if takes("string") {
        return Ok(Value::String(text.to_owned()));
    }
    if takes("array") {
        // One item of a list.
        let nothing = Value::Bool(true);
        let item = branches(root, property)
            .into_iter()
            .find_map(|s| s.get("items"))
            .unwrap_or(&nothing)
            .clone();
        return self::value(root, &item, name, text).map(|v| Value::Array(vec![v]));
    }
    if takes("object") {
        return Err(wrong("a JSON object"));
    }
    // A schema without a type: JSON if it reads as such, else text.
    Ok(parsed().unwrap_or_else(|| Value::String(text.to_owned())))
}

/// `@path`: a file input gets the file as a data URI; a text its content; anything else the JSON in it.
fn from_file(root: &Value, property: &Value, name: &str, path: &str) -> Result<Value> {
    let bytes = file(path)?;
    let branches = branches(root, property);
    let uri = |s: &Value| s.get("format").and_then(Value::as_str) == Some("uri");
    let data_uri = || format!("data:{};base64,{}", media_type(path), STANDARD.encode(&bytes));
    if branches.iter().any(|s| uri(s)) {
        return Ok(Value::String(data_uri()));
    }
    if let Some(items) = branches.iter().find_map(|s| s.get("items"))
        && self::branches(root, items).iter().any(|s| uri(s))
    {
        return Ok(Value::Array(vec![Value::String(data_uri())]));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::usage(format!("-i {name}=@{path}: the file is not UTF-8 text")).at(path))?;
    if takes(root, property, "string") {
        return Ok(Value::String(text));
    }
    serde_json::from_str(&text)
        .map_err(|e| Failure::usage(format!("-i {name}=@{path}: the file is not JSON: {e}")).at(path))
}

/// The bytes of a file, or of standard input (`-`).
fn file(path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = if path == "-" {
        std::io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut bytes))
    };
    read.map_err(|e| {
        Failure::usage(format!("cannot read {path}: {e}"))
            .help("`@` means the content of a file; write @@ for a text that begins with @")
    })?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Failure::usage(format!("{path} has more than {} MiB", MAX_FILE >> 20)));
    }
    Ok(bytes)
}

/// Whether a schema allows values of this JSON type.
fn takes(root: &Value, schema: &Value, kind: &str) -> bool {
    branches(root, schema).iter().any(|s| match s.get("type") {
        Some(Value::String(t)) => t == kind,
        Some(Value::Array(ts)) => ts.iter().any(|t| t == kind),
        _ => s
            .get("enum")
            .and_then(Value::as_array)
            .is_some_and(|choices| choices.iter().any(|c| self::kind_name(c) == kind)),
    })
}

/// A schema with what it refers to and the alternatives it names, flattened; bounded, for a schema may be anybody's.
fn branches<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let mut found = Vec::new();
    let mut waiting = vec![schema];
    while let Some(at) = waiting.pop() {
        if found.len() >= 64 {
            break;
        }
        found.push(at);
        if let Some(target) = at.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'))
            && let Some(next) = root.pointer(target)
        {
            waiting.push(next);
        }
        for key in ["anyOf", "oneOf", "allOf"] {
            if let Some(list) = at.get(key).and_then(Value::as_array) {
                waiting.extend(list);
            }
        }
    }
    found
}

fn kind_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn kind(value: &Value) -> String {
    let name = kind_name(value);
    let article = if matches!(name, "integer" | "array" | "object") {
        "an"
    } else {
        "a"
    };
    format!("{article} {name}")
}

fn shown(text: &str) -> String {
    let cut: String = text.chars().take(40).collect();
    if cut.len() < text.len() {
        format!("{cut}…")
    } else {
        cut
    }
}

/// The media type that a file's name tells.
pub(crate) fn media_type(path: &str) -> &'static str {
    let extension = Path::new(path).extension().and_then(|e| e.to_str()).unwrap_or_default();
    let lower = extension.to_ascii_lowercase();
    TYPES
        .iter()
        .find(|(known, _)| *known == lower)
        .map_or("application/octet-stream", |(_, t)| t)
}

/// The usual extension of a media type's files.
pub(crate) fn extension(media_type: &str) -> &'static str {
    let plain = media_type.split(';').next().unwrap_or_default().trim();
    TYPES
        .iter()
        .find(|(_, t)| *t == plain)
        .map_or("bin", |(extension, _)| extension)
}

const TYPES: [(&str, &str); 20] = [
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("webp", "image/webp"),
    ("gif", "image/gif"),
    ("bmp", "image/bmp"),
    ("svg", "image/svg+xml"),
    ("wav", "audio/wav"),
    ("mp3", "audio/mpeg"),
    ("flac", "audio/flac"),
    ("ogg", "audio/ogg"),
    ("m4a", "audio/mp4"),
    ("mp4", "video/mp4"),
    ("webm", "video/webm"),
    ("txt", "text/plain"),
    ("csv", "text/csv"),
    ("json", "application/json"),
    ("pdf", "application/pdf"),
    ("zip", "application/zip"),
    ("npy", "application/x-npy"),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "count": {"type": "integer"},
                "scale": {"type": "number"},
                "loud": {"type": "boolean"},
                "texts": {"type": "array", "items": {"type": "string"}},
                "both": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
                "ids": {"type": "array", "items": {"type": "integer"}},
                "options": {"type": "object"},
                "mode": {"allOf": [{"$ref": "#/$defs/Mode"}]},
                "image": {"type": "string", "format": "uri"},
                "images": {"type": "array", "items": {"type": "string", "format": "uri"}},
                "maybe": {"type": ["integer", "null"]},
            },
            "$defs": {"Mode": {"type": "string", "enum": ["a", "b"]}},
        })
    }

    fn given(pairs: &[&str]) -> Result<Value> {
        let pairs: Vec<String> = pairs.iter().map(ToString::to_string).collect();
        read(&schema(), None, &pairs)
    }

    #[test]
    fn values_take_the_type_that_the_schema_gives_them() {
        for (pair, expected) in [
            ("text=5", json!({"text": "5"})),
            ("text=", json!({"text": ""})),
            ("text=a=b", json!({"text": "a=b"})),
            ("text=[1]", json!({"text": "[1]"})),
            ("text=@@home", json!({"text": "@home"})),
            ("count=5", json!({"count": 5})),
            ("scale=0.5", json!({"scale": 0.5})),
            ("scale=2", json!({"scale": 2})),
            ("loud=yes", json!({"loud": true})),
            ("loud=false", json!({"loud": false})),
            ("texts=one", json!({"texts": ["one"]})),
            (r#"texts=["a","b"]"#, json!({"texts": ["a", "b"]})),
            ("both=one", json!({"both": "one"})),
            (r#"both=["a"]"#, json!({"both": ["a"]})),
            ("ids=7", json!({"ids": [7]})),
            (r#"options={"a":1}"#, json!({"options": {"a": 1}})),
            ("mode=b", json!({"mode": "b"})),
            ("maybe=null", json!({"maybe": null})),
        ] {
            assert_eq!(given(&[pair]).unwrap(), expected, "{pair}");
        }
    }

    #[test]
    fn a_list_may_be_given_item_by_item() {
        assert_eq!(given(&["texts=a", "texts=b"]).unwrap(), json!({"texts": ["a", "b"]}));
        assert_eq!(
            given(&["both=a", "both=b", "both=c"]).unwrap(),
            json!({"both": ["a", "b", "c"]})
        );
        assert!(given(&["text=a", "text=b"]).unwrap_err().what.contains("given twice"));
    }

    #[test]
    fn wrong_values_name_the_input_and_what_was_expected() {
        for (pair, expected) in [
            ("count=five", "-i count=five: expected a whole number"),
            ("count=1.5", "expected a whole number"),
            ("scale=big", "expected a number"),
            ("loud=maybe", "expected true or false"),
            ("options=x", "expected a JSON object"),
            ("ids=x", "expected a whole number"),
            ("nothing", "has no `=`"),
            ("colour=red", "the model has no input `colour`"),
            ("text=@/nonexistent/file", "cannot read /nonexistent/file"),
        ] {
            let error = given(&[pair]).unwrap_err();
            assert_eq!(error.exit as i32, 2);
            assert!(error.what.contains(expected), "{pair}: {}", error.what);
        }
        assert!(
            given(&["colour=red"]).unwrap_err().help.contains("count"),
            "the inputs there are"
        );
    }

    #[test]
    fn files_become_data_uris_text_or_json_as_the_schema_says() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path.display().to_string()
        };
        let (png, txt, list) = (file("a.png", b"hi"), file("a.txt", b"hello"), file("a.json", b"[1,2]"));
        let latin = file("latin.txt", b"caf\xe9");
        assert_eq!(
            given(&[&format!("image=@{png}")]).unwrap(),
            json!({"image": "data:image/png;base64,aGk="})
        );
        assert_eq!(
            given(&[&format!("images=@{png}"), &format!("images=@{txt}")]).unwrap(),
            json!({"images": ["data:image/png;base64,aGk=", "data:text/plain;base64,aGVsbG8="]})
        );
        assert_eq!(given(&[&format!("text=@{txt}")]).unwrap(), json!({"text": "hello"}));
        assert_eq!(given(&[&format!("ids=@{list}")]).unwrap(), json!({"ids": [1, 2]}));
        assert!(
            given(&[&format!("text=@{latin}")])
                .unwrap_err()
                .what
                .contains("not UTF-8")
        );
    }

    #[test]
    fn pairs_go_over_the_json_object() {
        let pairs = ["count=2".to_owned()];
        let input = read(&schema(), Some(r#"{"count": 1, "text": "x"}"#), &pairs).unwrap();
        assert_eq!(input, json!({"count": 2, "text": "x"}));
        for (json, expected) in [
            ("[1]", "this is an array"),
            ("{", "not JSON"),
            ("@/nonexistent", "cannot read"),
        ] {
            let error = read(&schema(), Some(json), &[]).unwrap_err();
            assert!(error.what.contains(expected), "{}", error.what);
        }
    }
}
