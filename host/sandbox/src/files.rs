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
    for Found { field, uri } in find(schema, input) {
        files.push(decode(uri).map_err(|why| Error::invalid_input(format!("{field}: {why}")))?);
        *uri = reference(files.len() - 1);
    }
    Ok(files)
}

/// A place in an input where a file belongs.
#[derive(Debug)]
pub struct Found<'a> {
    /// The field as callers write it, such as `images[1]`.
    pub field: String,
    /// What the caller put there.
    pub uri: &'a mut String,
}

/// Every string of an input whose schema says `format: uri`, in the order of the input.
pub fn find<'a>(schema: &Value, input: &'a mut Value) -> Vec<Found<'a>> {
    let mut found = Vec::new();
    seek(schema, schema, input, String::new(), &mut found);
    found
}

fn seek<'a>(root: &Value, schema: &Value, value: &'a mut Value, field: String, found: &mut Vec<Found<'a>>) {
    let schema = resolve(root, schema);
    match value {
        Value::String(uri) if is_uri(root, schema) => found.push(Found { field, uri }),
        Value::Array(items) => {
            if let Some(of) = options(root, schema).find_map(|s| s.get("items")) {
                for (i, item) in items.iter_mut().enumerate() {
                    seek(root, of, item, format!("{field}[{i}]"), found);
                }
            }
        }
        Value::Object(fields) => {
            for (name, inner) in fields.iter_mut() {
                if let Some(of) = options(root, schema).find_map(|s| s.get("properties")?.get(name)) {
                    let field = if field.is_empty() {
                        name.clone()
                    } else {
                        format!("{field}.{name}")
                    };
                    seek(root, of, inner, field, found);
                }
            }
        }
        _ => {}
    }
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

/// A schema and the alternatives inside it, as of an optional field.
fn options<'a>(root: &'a Value, schema: &'a Value) -> impl Iterator<Item = &'a Value> {
    let nested = ["anyOf", "allOf", "oneOf"]
        .into_iter()
        .filter_map(|key| schema.get(key)?.as_array())
        .flatten()
        .map(|option| resolve(root, option));
    std::iter::once(schema).chain(nested)
}

fn is_uri(root: &Value, schema: &Value) -> bool {
    options(root, schema).any(|s| s.get("format").and_then(Value::as_str) == Some("uri"))
}

/// The file inside a `data:` URI.
///
/// # Errors
/// What is wrong with the URI.
pub fn decode(uri: &str) -> Result<InputFile, String> {
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
    replace(output, &|index| {
        let file = files.get(index)?;
        Some(format!(
            "data:{};base64,{}",
            file.media_type,
            STANDARD.encode(&file.bytes)
        ))
    });
}

/// Replaces every reference in an output by what stands for that file from now on. Where that is nothing, the reference stays.
pub fn replace(output: &mut Value, stand_in: &impl Fn(usize) -> Option<String>) {
    match output {
        Value::String(text) => {
            if let Some(new) = index(text).and_then(stand_in) {
                *text = new;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, stand_in)),
        Value::Object(fields) => fields.values_mut().for_each(|value| replace(value, stand_in)),
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
                bytes: b"ok"[..].into(),
            }],
        );
        assert_eq!(
            output,
            json!([{"out": "data:text/plain;base64,b2s="}, "maquette-file:9"])
        );
    }

    #[test]
    fn files_of_optional_fields_are_found() {
        let list = json!({"anyOf": [{"type": "array", "items": {"format": "uri"}}, {"type": "null"}]});
        let pair = json!({"allOf": [{"$ref": "#/$defs/Pair"}]});
        let schema = json!({"properties": {"a": list, "b": pair, "c": list},
            "$defs": {"Pair": {"properties": {"left": {"format": "uri"}, "note": {"type": "string"}}}}});
        let mut input = json!({"a": ["data:,x", "data:,y"], "b": {"left": "data:,z", "note": "data:,n"}, "c": null});
        assert_eq!(extract(&schema, &mut input).unwrap().len(), 3);
        let expected = json!({"a": ["maquette-file:0", "maquette-file:1"], "b": {"left": "maquette-file:2", "note": "data:,n"}, "c": null});
        assert_eq!(input, expected);
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
