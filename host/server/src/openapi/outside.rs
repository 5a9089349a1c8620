//! The paths of files and webhooks.

use serde_json::{Value, json};

use super::refused;

/// Everything under `/v1/files` and `/v1/webhooks`.
pub(super) fn paths() -> Value {
    let text = json!({"type": "string"});
    let parameter = |name: &str, place: &str, required: bool| json!({"name": name, "in": place, "required": required, "schema": text});
    let id = parameter("id", "path", true);
    let cursor = json!({
        "name": "cursor", "in": "query", "description": "From the `next` of the page before", "schema": text
    });
    let operation = |id: &str, summary: &str, parameters: Value, status: &str, schema: Option<&Value>| {
        let mut answer = json!({"description": summary});
        if let Some(schema) = schema {
            answer["content"] = json!({"application/json": {"schema": schema}});
        }
        json!({
            "operationId": id, "summary": summary, "parameters": parameters,
            "responses": {status: answer, "default": refused("Refused or failed")}
        })
    };
    let page = |of: &Value| {
        json!({
            "type": "object", "required": ["next", "previous", "results"],
            "properties": {"next": {"type": ["string", "null"]}, "previous": {"type": "null"}, "results": {"type": "array", "items": of}}
        })
    };
    let file = file();
    let delivery = delivery();
    let mut create = operation("createFile", "Keeps a file for a while", json!([]), "201", Some(&file));
    create["requestBody"] = json!({"required": true, "content": {"multipart/form-data": {"schema": {
        "type": "object", "required": ["content"],
        "properties": {
            "content": {"type": "string", "contentMediaType": "application/octet-stream"},
            "filename": {"type": "string", "maxLength": 255},
            "type": {"type": "string", "description": "A media type; else that of the part `content`"},
            "metadata": {"type": "object", "description": "As JSON, or as fields `metadata[key]`"}
        }
    }}}});
    let signed = json!([
        id,
        parameter("owner", "query", true),
        parameter("expiry", "query", true),
        parameter("signature", "query", true)
    ]);
    let mut download = operation("downloadFile", "A file's bytes, by a signed link", signed, "200", None);
    download["security"] = json!([]);
    download["responses"]["200"]["content"] = json!({"application/octet-stream": {}});
    download["responses"]["206"] = json!({"description": "The range that was asked for"});
    download["responses"]["304"] = json!({"description": "What the caller has is right"});
    let secret = json!({"type": "object", "required": ["key"], "properties": {"key": text}});
    let filters = json!([cursor, parameter("prediction", "query", false), {
        "name": "state", "in": "query", "schema": {"enum": ["pending", "delivered", "dead", "skipped"]}
    }]);
    json!({
        "/v1/files": {
            "get": operation("listFiles", "Files, newest first", json!([cursor]), "200", Some(&page(&file))),
            "post": create,
        },
        "/v1/files/{id}": {
            "get": operation("getFile", "What is known of a file", json!([id]), "200", Some(&file)),
            "delete": operation("deleteFile", "Removes a file", json!([id]), "204", None),
        },
        "/v1/files/{id}/download": {"get": download},
        "/v1/webhooks/default/secret": {
            "get": operation("getWebhookSecret", "What the caller's webhooks are signed with", json!([]), "200", Some(&secret))
        },
        "/v1/webhooks/deliveries": {
            "get": operation("listDeliveries", "Webhooks, newest first", filters, "200", Some(&page(&delivery)))
        },
        "/v1/webhooks/deliveries/{id}": {
            "get": operation("getDelivery", "One webhook, with what is sent", json!([id]), "200", Some(&delivery))
        },
        "/v1/webhooks/deliveries/{id}/redeliver": {
            "post": operation("redeliver", "Sends a webhook again, now", json!([id]), "202", Some(&delivery))
        },
    })
}

fn file() -> Value {
    let (text, time) = (
        json!({"type": "string"}),
        json!({"type": "string", "format": "date-time"}),
    );
    json!({
        "type": "object",
        "required": ["id", "name", "content_type", "size", "etag", "checksums", "metadata", "created_at", "expires_at", "urls"],
        "properties": {
            "id": text, "name": text, "kind": {"enum": ["upload", "output"]}, "content_type": text, "size": {"type": "integer"}, "etag": text,
            "checksums": {"type": "object", "properties": {"sha256": text, "md5": text}},
            "metadata": {"type": "object"}, "created_at": time, "expires_at": time,
            "urls": {"type": "object", "properties": {
                "get": {"type": "string", "description": "The metadata; inputs may name it"},
                "download": {"type": "string", "description": "The bytes, without a token, until the file expires"}
            }}
        }
    })
}

fn delivery() -> Value {
    let (text, time) = (
        json!({"type": "string"}),
        json!({"type": ["string", "null"], "format": "date-time"}),
    );
    json!({
        "type": "object",
        "properties": {
            "id": text, "prediction": text, "url": text, "event": text,
            "state": {"enum": ["pending", "delivered", "dead", "skipped"]},
            "attempts": {"type": "integer"}, "next_attempt_at": time,
            "last_status": {"type": ["integer", "null"]}, "last_error": {"type": ["string", "null"]},
            "created_at": time, "finished_at": time, "body": {"description": "What is sent; not in lists"}
        }
    })
}
