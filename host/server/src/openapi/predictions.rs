//! The paths of predictions, streams and usage.

use serde_json::{Value, json};

use super::parts::{answer, body, operation, page, parameter};
use super::refused;

/// Everything under `/v1/predictions`, `/v1/streams` and `/v1/usage`, and the predictions of models and deployments.
pub(super) fn paths() -> Value {
    let (owner, name, id) = (
        parameter("owner", "path", true),
        parameter("name", "path", true),
        parameter("id", "path", true),
    );
    let prediction = prediction();
    let wishes = || {
        vec![
            json!({"name": "prefer", "in": "header", "description": "`wait` or `wait=n` (seconds) holds the reply until the end",
                "schema": {"type": "string", "pattern": "^wait(=([1-9]|[1-5][0-9]|60))?$"}}),
            json!({"name": "cancel-after", "in": "header", "description": "Cancels it this long after its creation, such as `90`, `5m`",
                "schema": {"type": "string"}}),
            json!({"name": "idempotency-key", "in": "header", "description": "The same request under the same key is done once",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255}}),
            json!({"name": "x-maquette-cache", "in": "header", "description": "`off` asks for a fresh run", "schema": {"enum": ["off"]}}),
        ]
    };
    let make = |id: &str, summary: &str, more: &[&Value], request: Value| {
        let parameters: Vec<Value> = more.iter().map(|p| (*p).clone()).chain(wishes()).collect();
        let mut made = body(operation(id, summary, Value::Array(parameters)), request);
        let schema = json!({"application/json": {"schema": prediction}});
        made["responses"] = json!({
            "200": {"description": "It was there already, and has ended", "content": schema},
            "201": {"description": "Made: ended if the request waited, else `starting`", "content": schema},
            "202": {"description": "The wait is over and it has not ended", "content": schema},
            "default": refused("Refused: nothing was made"),
        });
        made
    };
    let get = operation("getPrediction", "A prediction as it stands", json!([id]));
    let cancel = operation("cancelPrediction", "Stops a prediction", json!([id]));
    let remove = operation("deletePrediction", "Removes input, output and logs", json!([id]));
    let stream = operation(
        "streamPrediction",
        "Its events, by a signed link",
        json!([
            owner,
            id,
            parameter("signature", "query", true),
            parameter("last-event-id", "header", false)
        ]),
    );
    let mut stream = answer(stream, "200", None);
    stream["security"] = json!([]);
    stream["responses"]["200"]["content"] = json!({"text/event-stream": {"schema": {"type": "string"}}});
    let time = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "format": "date-time"}});
    let filters = json!([
        parameter("cursor", "query", false), parameter("model", "query", false), parameter("version", "query", false),
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
        {"name": "status", "in": "query", "schema": {"enum": ["starting", "processing", "succeeded", "failed", "canceled"]}},
        {"name": "source", "in": "query", "schema": {"enum": ["api", "web"]}},
        time("created_after"), time("created_before"),
    ]);
    let list = operation("listPredictions", "Predictions, newest first", filters);
    let span = json!([parameter("from", "query", false), parameter("to", "query", false)]);
    let usage = operation("usage", "What was used, by day, model and token", span);
    let limit = operation(
        "putSpendLimit",
        "What an owner may spend a day and a month",
        json!([owner]),
    );
    let amount = json!({"type": ["number", "null"], "minimum": 0, "maximum": 1_000_000_000});
    let amounts =
        json!({"type": "object", "additionalProperties": false, "properties": {"day": amount, "month": amount}});
    let any = json!({"type": "object"});
    json!({
        "/v1/predictions": {
            "get": answer(list, "200", Some(&page(&prediction))),
            "post": make("createPrediction", "Runs a version", &[], request(true)),
        },
        "/v1/predictions/{id}": {
            "get": answer(get, "200", Some(&prediction)),
            "put": make("putPrediction", "Runs a version under an id of the caller's", &[&id], request(true)),
            "delete": answer(remove, "204", None),
        },
        "/v1/predictions/{id}/cancel": {"post": answer(cancel, "200", Some(&prediction))},
        "/v1/models/{owner}/{name}/predictions": {
            "post": make("createModelPrediction", "Runs a model's latest version", &[&owner, &name], request(false))
        },
        "/v1/deployments/{owner}/{name}/predictions": {
            "post": make("createDeploymentPrediction", "Runs a deployment's version", &[&owner, &name], request(false))
        },
        "/v1/streams/{owner}/{id}": {"get": stream},
        "/v1/usage": {"get": answer(usage, "200", Some(&any))},
        "/v1/spend-limits/{owner}": {"put": answer(body(limit, amounts), "200", Some(&any))},
    })
}

fn request(with_version: bool) -> Value {
    let mut schema = json!({
        "type": "object",
        "properties": {
            "input": {"type": "object"},
            "webhook": {"type": "string", "format": "uri"},
            "webhook_events_filter": {"type": "array", "items": {"enum": ["start", "output", "logs", "completed"]}},
            "lifetime": {"type": "string", "description": "As the header `cancel-after`"},
            "cache": {"type": "boolean", "description": "False asks for a fresh run"}
        }
    });
    if with_version {
        schema["required"] = json!(["version"]);
        schema["properties"]["version"] = json!({"type": "string", "description": "64 hex digits, `owner/name:` with an id or alias, or `owner/name`"});
    }
    schema
}

fn prediction() -> Value {
    let text = json!({"type": "string"});
    let time = json!({"type": ["string", "null"], "format": "date-time"});
    json!({
        "type": "object",
        "required": ["id", "model", "version", "status", "input", "output", "error", "logs", "data_removed", "created_at", "urls"],
        "properties": {
            "id": text, "model": text, "version": text,
            "status": {"enum": ["starting", "processing", "succeeded", "failed", "canceled"]},
            "input": {"type": "object"}, "output": {}, "error": {"type": ["string", "null"]}, "logs": text,
            "data_removed": {"type": "boolean"}, "source": {"enum": ["api", "web"]},
            "created_at": {"type": "string", "format": "date-time"}, "started_at": time, "completed_at": time, "deadline": time,
            "deployment": text, "webhook": text, "webhook_events_filter": {"type": "array", "items": text},
            "queue_position": {"type": "integer"}, "expected_start_at": time,
            "cache": {"enum": ["off", "miss", "hit", "shared"]},
            "metrics": {"type": "object", "properties": {
                "predict_time": {"type": "number", "description": "Seconds on the lane"},
                "total_time": {"type": "number", "description": "Seconds from creation to end"},
                "queue_time": {"type": "number"}, "load_time": {"type": "number"},
                "billed_ms": {"type": "integer", "description": "Begun milliseconds of device time"},
                "cost": {"type": "number"}, "model": {"type": "object", "description": "What the model measured itself"}
            }},
            "urls": {"type": "object", "required": ["get", "cancel", "web", "stream"],
                "properties": {"get": text, "cancel": text, "web": text, "stream": text}}
        },
        "description": "A call and its record"
    })
}
