//! What the documents of all areas are put together from.

use serde_json::{Value, json};

use super::refused;

/// A parameter that is text.
pub(super) fn parameter(name: &str, place: &str, required: bool) -> Value {
    json!({"name": name, "in": place, "required": required, "schema": {"type": "string"}})
}

/// An operation without answers yet.
pub(super) fn operation(id: &str, summary: &str, parameters: Value) -> Value {
    json!({"operationId": id, "summary": summary, "parameters": parameters})
}

/// The operation with a JSON body.
pub(super) fn body(mut operation: Value, schema: Value) -> Value {
    operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
    operation
}

/// The operation with an answer, of JSON if there is a schema.
pub(super) fn answer(mut operation: Value, status: &str, schema: Option<&Value>) -> Value {
    let mut good = json!({"description": operation["summary"]});
    if let Some(schema) = schema {
        good["content"] = json!({"application/json": {"schema": schema}});
    }
    operation["responses"] = json!({status: good, "default": refused("Refused or failed")});
    operation
}

/// A page of a list.
pub(super) fn page(of: &Value) -> Value {
    json!({
        "type": "object", "required": ["next", "previous", "results"],
        "properties": {"next": {"type": ["string", "null"]}, "previous": {"type": "null"}, "results": {"type": "array", "items": of}}
    })
}
