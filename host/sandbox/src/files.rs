//! Files of a call: how JSON refers to them, and how they travel as `data:` URIs where nothing better is at hand.

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use base64::{alphabet, engine::DecodePaddingMode};
use maquette_tensor::ops::Error;
use serde_json::Value;

use crate::call::{InputFile, OutputFile};

const PREFIX: &str = "maquette-file:";

/// Base64 as callers write it: padding may be missing.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The text that stands for file `index` inside an input or an output.
pub fn reference(index: usize) -> String {
    format!("{PREFIX}{index}")
}

/// The file that a text stands for, if it is a reference.
pub fn index(reference: &str) -> Option<usize> {
    reference.strip_prefix(PREFIX)?.parse().ok()
}

/// Takes the files out of an input: every string whose schema says `format: uri` must be a `data:` URI and is replaced by a
/// reference to the file in the result.
///
/// # Errors
/// `invalid-input`, naming the field, for a URI of another kind or base64 that does not decode.
pub fn extract(schema: &Value, input: &mut Value) -> Result<Vec<InputFile>, Error> {
    let mut files = Vec::new();
    take(schema, schema, input, "", &mut files)?;
    Ok(files)
}

fn take(root: &Value, schema: &Value, value: &mut Value, field: &str, files: &mut Vec<InputFile>) -> Result<(), Error> {
    let schema = resolve(root, schema);
    if let Value::String(text) = value {
        if is_uri(root, schema) {
            files.push(decode(text).map_err(|why| Error::invalid_input(format!("{field}: {why}")))?);
            *text = reference(files.len() - 1);
        }
        return Ok(());
    }
    match value {
        Value::Array(items) => {
            if let Some(of) = schema.get("items") {
                for (i, item) in items.iter_mut().enumerate() {
                    take(root, of, item, &format!("{field}[{i}]"), files)?;
                }
            }
        }
        Value::Object(fields) => {
            if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
                for (name, of) in properties {
                    if let Some(inner) = fields.get_mut(name) {
                        let field = if field.is_empty() {
                            name.clone()
                        } else {
                            format!("{field}.{name}")
                        };
                        take(root, of, inner, &field, files)?;
                    }
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Follows a `$ref` into the schema's own definitions, a few steps at most.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut at = schema;
    for _ in 0..8 {
        let Some(target) = at.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#')) else {
            break;
        };
        match root.pointer(target) {
            Some(next) => at = next,
            None => break,
        }
    }
    at
}

fn is_uri(root: &Value, schema: &Value) -> bool {
    let direct = schema.get("format").and_then(Value::as_str) == Some("uri");
    let nested = ["anyOf", "allOf", "oneOf"].iter().any(|key| {
        let options = schema.get(key).and_then(Value::as_array);
        options.is_some_and(|o| {
            o.iter()
                .any(|s| resolve(root, s).get("format").and_then(Value::as_str) == Some("uri"))
        })
    });
    direct || nested
}

fn decode(uri: &str) -> Result<InputFile, String> {
    let Some(rest) = uri.strip_prefix("data:") else {
        return Err("expected a `data:` URI such as `data:image/png;base64,…`".to_owned());
    };
    let Some((head, data)) = rest.split_once(',') else {
        return Err("this `data:` URI has no comma between its media type and its data".to_owned());
    };
    let (media_type, base64) = match head.strip_suffix(";base64") {
        Some(media_type) => (media_type, true),
        None => (head, false),
    };
    let bytes = if base64 {
        LENIENT
            .decode(data)
            .map_err(|e| format!("the base64 of this `data:` URI does not decode: {e}"))?
    } else {
        percent_decode(data)?
    };
    let media_type = if media_type.is_empty() {
        "application/octet-stream"
    } else {
        media_type
    };
    Ok(InputFile {
        media_type: printable(media_type),
        bytes: bytes.into(),
    })
}

fn percent_decode(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let hex = tail
                .get(..2)
                .and_then(|h| std::str::from_utf8(h).ok())
                .and_then(|h| u8::from_str_radix(h, 16).ok());
            let Some(value) = hex else {
                return Err("this `data:` URI has a `%` without two hex digits".to_owned());
            };
            bytes.push(value);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    Ok(bytes)
}

/// Replaces every reference in an output by the file itself, as a `data:` URI. A reference to a file that is not there stays.
pub fn embed(output: &mut Value, files: &[OutputFile]) {
    match output {
        Value::String(text) => {
            if let Some(file) = index(text).and_then(|i| files.get(i)) {
                *text = format!("data:{};base64,{}", file.media_type, STANDARD.encode(&file.bytes));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| embed(item, files)),
        Value::Object(fields) => fields.values_mut().for_each(|value| embed(value, files)),
        _ => {}
    }
}

/// A media type without anything that could break a header or a URI.
pub(crate) fn printable(media_type: &str) -> String {
    let clean: String = media_type
        .chars()
        .filter(|c| c.is_ascii_graphic() && *c != ',')
        .take(128)
        .collect();
    if clean.is_empty() {
        "application/octet-stream".to_owned()
    } else {
        clean
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn files_leave_the_input_by_schema_and_return_as_data_uris() {
        let schema = json!({"properties": {
            "image": {"type": "string", "format": "uri"},
            "more": {"type": "array", "items": {"$ref": "#/$defs/File"}},
            "note": {"type": "string"}
        }, "$defs": {"File": {"type": "string", "format": "uri"}}});
        let mut input = json!({
            "image": "data:image/png;base64,aGk", "more": ["data:,a%20b"], "note": "data:image/png;base64,aGk="
        });
        let files = extract(&schema, &mut input).unwrap();
        assert_eq!(
            input,
            json!({
                "image": "maquette-file:0", "more": ["maquette-file:1"], "note": "data:image/png;base64,aGk="
            })
        );
        assert_eq!(
            (&*files[0].bytes, files[0].media_type.as_str()),
            (&b"hi"[..], "image/png")
        );
        assert_eq!(
            (&*files[1].bytes, files[1].media_type.as_str()),
            (&b"a b"[..], "application/octet-stream")
        );

        let mut output = json!([{"out": "maquette-file:0"}, "maquette-file:9"]);
        embed(
            &mut output,
            &[OutputFile {
                media_type: "text/plain".into(),
                bytes: b"ok".to_vec(),
            }],
        );
        assert_eq!(
            output,
            json!([{"out": "data:text/plain;base64,b2s="}, "maquette-file:9"])
        );
    }

    #[test]
    fn a_uri_that_is_not_data_names_its_field() {
        let schema = json!({"properties": {"images": {"items": {"format": "uri"}}}});
        let mut input = json!({"images": ["data:,x", "ftp://example/x"]});
        let error = extract(&schema, &mut input).unwrap_err();
        assert!(
            error.message.starts_with("images[1]: expected a `data:` URI"),
            "{}",
            error.message
        );
    }
}
