//! OpenAPI 3.1 documents: one for each version, one for the server.

mod outside;
mod parts;
mod predictions;
mod registry;

use serde_json::{Map, Value, json};

/// Describes one version as an API of its own. `model` is `owner/name`, `version` its id, the schemas are those of `describe`.
///
/// Clients read `components.schemas.Input` and `.Output`; definitions that those refer to become components too.
pub fn version(model: &str, version: &str, input: &Value, output: &Value) -> Value {
    let mut schemas = Map::new();
    let input = lift(input, "Input", &mut schemas);
    schemas.insert("Input".to_owned(), titled(input, "Input"));
    let output = lift(output, "Output", &mut schemas);
    schemas.insert("Output".to_owned(), titled(output, "Output"));
    schemas.insert("Problem".to_owned(), problem());
    let path = format!("/v1/models/{model}/versions/{version}/run");
    json!({
        "openapi": "3.1.0",
        "info": {"title": model, "version": version},
        "paths": {path: {"post": {
            "operationId": "run",
            "summary": "Runs this version of the model",
            "security": [{"token": []}],
            "requestBody": {
                "required": true,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Input"}}}
            },
            "responses": {
                "200": {
                    "description": "The output; a stream of events if the request accepts `text/event-stream`",
                    "headers": facts(),
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/Output"}},
                        "text/event-stream": {"schema": {"type": "string"}}
                    }
                },
                "default": refused("The call was refused or failed")
            }
        }}},
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    })
}

/// Moves a schema's definitions into the document's components and makes its references follow.
fn lift(schema: &Value, prefix: &str, schemas: &mut Map<String, Value>) -> Value {
    let mut schema = schema.clone();
    let mut names = Vec::new();
    for key in ["$defs", "definitions"] {
        let Some(Value::Object(defs)) = schema.as_object_mut().and_then(|map| map.remove(key)) else {
            continue;
        };
        for (name, definition) in defs {
            let taken = matches!(name.as_str(), "Input" | "Output" | "Problem")
                || schemas.get(&name).is_some_and(|other| *other != definition);
            let new = if taken { format!("{prefix}{name}") } else { name.clone() };
            names.push((
                format!("#/{key}/{}", escape(&name)),
                format!("#/components/schemas/{}", escape(&new)),
            ));
            schemas.insert(new, definition);
        }
    }
    rename(&mut schema, &names);
    for (_, new) in &names {
        let name = new
            .trim_start_matches("#/components/schemas/")
            .replace("~1", "/")
            .replace("~0", "~");
        if let Some(definition) = schemas.get_mut(&name) {
            rename(definition, &names);
        }
    }
    if let Some(map) = schema.as_object_mut() {
        map.remove("$schema");
    }
    schema
}

/// A name as a part of a JSON pointer.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn rename(value: &mut Value, names: &[(String, String)]) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref") {
                let inside = |old: &str| {
                    reference
                        .strip_prefix(old)
                        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                let renamed = names
                    .iter()
                    .find_map(|(old, new)| Some(format!("{new}{}", inside(old)?)));
                if let Some(renamed) = renamed {
                    *reference = renamed;
                }
            }
            map.values_mut().for_each(|inner| rename(inner, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| rename(inner, names)),
        _ => {}
    }
}

fn titled(mut schema: Value, title: &str) -> Value {
    if let Some(map) = schema.as_object_mut() {
        map.entry("title").or_insert_with(|| title.into());
    }
    schema
}

fn problem() -> Value {
    json!({
        "type": "object", "required": ["status", "title", "detail", "code"],
        "properties": {
            "status": {"type": "integer"},
            "title": {"type": "string"},
            "detail": {"type": "string", "description": "What failed and what to do"},
            "code": {"type": "string", "description": "A stable word for programs"},
            "errors": {"type": "array", "description": "Every offending field of an input", "items": {
                "type": "object", "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}}
            }},
            "errors_omitted": {"type": "integer"},
            "step": {"type": "string", "description": "The step of publishing that failed"},
            "log": {"type": "string", "description": "For the model's contributors: what the guest said, and a backtrace"}
        }
    })
}

fn facts() -> Value {
    let fact = |text: &str, schema: Value| json!({"description": text, "schema": schema});
    json!({
        "x-maquette-version": fact("The id of the version that served the call", json!({"type": "string"})),
        "x-maquette-prediction": fact("The id of the call", json!({"type": "string"})),
        "x-maquette-queue-ms": fact("Milliseconds that the call waited for a lane", json!({"type": "number"})),
        "x-maquette-compute-ms": fact("Milliseconds inside tensor ops", json!({"type": "number"})),
        "x-maquette-total-ms": fact("Milliseconds from the end of the request to the start of the reply", json!({"type": "number"})),
    })
}

fn refused(description: &str) -> Value {
    let schema = json!({"$ref": "#/components/schemas/Problem"});
    json!({"description": description, "content": {"application/problem+json": {"schema": schema}}})
}

/// Describes the server itself.
pub(crate) fn server() -> Value {
    let owner = json!({"name": "owner", "in": "path", "required": true, "schema": {"type": "string"}});
    let name = json!({"name": "name", "in": "path", "required": true, "schema": {"type": "string"}});
    let version = json!({
        "name": "version", "in": "path", "required": true, "description": "An id or an alias", "schema": {"type": "string"}
    });
    let cursor = json!({
        "name": "cursor", "in": "query", "description": "From the `next` of the page before", "schema": {"type": "string"}
    });
    let limit = json!({
        "name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 100}
    });
    let any = json!({"type": "object"});
    let answer = |status: &str, description: &str, schema: &Value| {
        json!({
            status: {"description": description, "content": {"application/json": {"schema": schema}}},
            "default": refused("Refused or failed"),
        })
    };
    let operation = |id: &str, summary: &str, parameters: Value, body: Option<Value>, responses: Value| {
        let mut operation =
            json!({"operationId": id, "summary": summary, "parameters": parameters, "responses": responses});
        if let Some(schema) = body {
            operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
        }
        operation
    };
    let page = json!({
        "type": "object", "required": ["next", "previous", "results"],
        "properties": {
            "next": {"type": ["string", "null"]}, "previous": {"type": "null"}, "results": {"type": "array", "items": any}
        }
    });
    let run = |id: &str, parameters: Value| {
        let responses = json!({
            "200": {"description": "The output", "headers": facts(), "content": {
                "application/json": {"schema": {}}, "text/event-stream": {"schema": {"type": "string"}}
            }},
            "default": refused("Refused or failed"),
        });
        operation(
            id,
            "Runs a model: the input object in, the output out",
            parameters,
            Some(any.clone()),
            responses,
        )
    };
    let publish = json!({
        "type": "object", "required": ["manifest"], "additionalProperties": false,
        "properties": {
            "manifest": {"type": "object", "description": "The canonical manifest; its sha256 is the version's id"},
            "aliases": {"type": "array", "items": {"type": "string"}, "maxItems": 16, "default": ["latest"]},
            "accept_grants": {"type": "boolean", "default": false, "description":
                "Agrees that the version asks for more than the one before; without, that is refused with the code `needs-consent`"}
        }
    });
    let missing = json!({
        "type": "object", "required": ["digests"], "additionalProperties": false,
        "properties": {"digests": {"type": "array", "items": {"type": "string"}, "maxItems": 10_000}}
    });
    let token = json!({
        "type": "object", "required": ["owner", "scopes"], "additionalProperties": false,
        "properties": {
            "owner": {"type": "string"}, "label": {"type": "string"},
            "scopes": {"type": "array", "items": {"enum": ["read", "predict", "publish", "admin"]}},
            "expires_at": {"type": ["string", "null"], "format": "date-time"}
        }
    });
    let alias = json!({"name": "alias", "in": "path", "required": true, "schema": {"type": "string"}});
    let digest = json!({
        "name": "sha256", "in": "path", "required": true, "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    });
    let mut put_blob = operation(
        "putBlob",
        "Stores bytes under their sha256",
        json!([digest]),
        None,
        json!({
            "200": {"description": "Stored already"}, "201": {"description": "Stored"}, "default": refused("Refused or failed")
        }),
    );
    put_blob["requestBody"] = json!({"required": true, "content": {"application/octet-stream": {}}});
    let open = |id: &str, summary: &str| {
        let mut operation = operation(
            id,
            summary,
            json!([]),
            None,
            json!({
                "200": {"description": "Yes"}, "503": refused("No")
            }),
        );
        operation["security"] = json!([]);
        operation
    };
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {"title": "Maquette", "version": env!("CARGO_PKG_VERSION")},
        "security": [{"token": []}],
        "paths": {
            "/v1/models": {"get": operation("listModels", "Models, the latest published first", json!([cursor, limit,
                {"name": "sort_by", "in": "query", "schema": {"enum": ["model_created_at", "latest_version_created_at"]}},
                {"name": "sort_direction", "in": "query", "schema": {"enum": ["asc", "desc"]}}]), None, answer("200", "A page", &page))},
            "/v1/models/{owner}/{name}": {"get": operation("getModel", "A model", json!([owner, name]), None, answer("200", "The model", &any))},
            "/v1/models/{owner}/{name}/run": {"post": run("run", json!([owner, name]))},
            "/v1/models/{owner}/{name}/versions": {
                "get": operation("listVersions", "Versions, newest first", json!([owner, name, cursor, limit]), None, answer("200", "A page", &page)),
                "post": operation("publish", "Publishes a version whose blobs are stored", json!([owner, name]), Some(publish), {
                    let mut responses = answer("201", "Published", &any);
                    responses["200"] = json!({"description": "Published already", "content": {"application/json": {"schema": any}}});
                    responses
                }),
            },
            "/v1/models/{owner}/{name}/versions/{version}": {
                "get": operation("getVersion", "A version", json!([owner, name, version]), None, answer("200", "The version", &any))
            },
            "/v1/models/{owner}/{name}/versions/{version}/openapi.json": {
                "get": operation("getVersionApi", "A version as an API of its own", json!([owner, name, version]), None, answer("200", "OpenAPI 3.1", &any))
            },
            "/v1/models/{owner}/{name}/versions/{version}/run": {"post": run("runVersion", json!([owner, name, version]))},
            "/v1/models/{owner}/{name}/aliases/{alias}": {"put": operation(
                "putAlias", "Points an alias at a version", json!([owner, name, alias]),
                Some(json!({"type": "object", "required": ["version"], "properties": {"version": {"type": "string"}}})),
                answer("200", "Pointed", &any),
            )},
            "/v1/publish/missing": {"post": operation(
                "missingBlobs", "Which of these blobs the server lacks", json!([]), Some(missing), answer("200", "Those it lacks", &any),
            )},
            "/v1/blobs/{sha256}": {"put": put_blob},
            "/v1/tokens": {
                "get": operation("listTokens", "Tokens, without their secrets", json!([]), None, answer("200", "All tokens", &any)),
                "post": operation("createToken", "Makes a token; its secret is shown this once", json!([]), Some(token), answer("201", "Made", &any)),
            },
            "/v1/tokens/{id}": {"delete": operation(
                "deleteToken", "Revokes a token", json!([{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}]),
                None, json!({"204": {"description": "Revoked"}, "default": refused("Refused or failed")}),
            )},
            "/healthz": {"get": open("health", "Whether the process lives")},
            "/readyz": {"get": open("ready", "Whether the server takes calls")},
            "/metrics": {"get": operation("metrics", "Figures in the OpenMetrics text format", json!([]), None, json!({
                "200": {"description": "Figures", "content": {"application/openmetrics-text": {"schema": {"type": "string"}}}},
                "default": refused("Refused or failed")
            }))},
        },
        "components": {"schemas": {"Problem": problem()}, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    });
    for area in [outside::paths(), predictions::paths(), registry::paths()] {
        for (path, methods) in area.as_object().into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                document["paths"][path][method] = operation.clone();
            }
        }
    }
    for operations in document["paths"].as_object_mut().into_iter().flatten() {
        let (path, Value::Object(operations)) = operations else {
            continue;
        };
        for operation in operations.values_mut() {
            spell_out(path, operation);
        }
    }
    document
}

/// Says which refusals an operation has, in place of a default that would allow any: what is the caller's fault; a server that is full or
/// stopping; and what only some have. Any other status is a fault of the server's.
fn spell_out(path: &str, operation: &mut Value) {
    let keeps_bytes = matches!(operation["operationId"].as_str(), Some("createFile" | "putBlob"));
    let Some(responses) = operation["responses"].as_object_mut() else {
        return;
    };
    let Some(refusal) = responses.remove("default") else {
        return;
    };
    responses.insert("4XX".to_owned(), refusal);
    responses.insert(
        "503".to_owned(),
        refused("The server is full or stopping: `retry-after` says when to try again"),
    );
    if path.ends_with("/run") {
        responses.insert("500".to_owned(), refused("The model failed"));
        responses.insert("504".to_owned(), refused("The model took longer than it may"));
    }
    if keeps_bytes {
        responses.insert("507".to_owned(), refused("There is no room left for this"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` in a document, with what it leads to.
    fn references<'a>(root: &'a Value, value: &'a Value, found: &mut Vec<(String, Option<&'a Value>)>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.push((
                        reference.clone(),
                        reference.strip_prefix('#').and_then(|p| root.pointer(p)),
                    ));
                }
                map.values().for_each(|inner| references(root, inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| references(root, inner, found)),
            _ => {}
        }
    }

    #[test]
    fn definitions_become_components_and_references_follow() {
        let input = json!({"type": "object", "properties": {"m": {"$ref": "#/$defs/Mode"}, "o": {"$ref": "#/$defs/Output"}},
            "$defs": {"Mode": {"enum": ["a"]}, "Output": {"items": {"$ref": "#/$defs/Mode"}}}});
        let output = json!({"type": "array", "items": {"$ref": "#/$defs/Mode"}, "$defs": {"Mode": {"enum": ["b"]}}});
        let document = version("o/m", "1", &input, &output);
        let schemas = &document["components"]["schemas"];
        assert_eq!(schemas["Input"]["properties"]["m"]["$ref"], "#/components/schemas/Mode");
        assert_eq!(
            schemas["Input"]["properties"]["o"]["$ref"],
            "#/components/schemas/InputOutput"
        );
        assert_eq!(schemas["InputOutput"]["items"]["$ref"], "#/components/schemas/Mode");
        assert_eq!(
            schemas["Output"]["items"]["$ref"], "#/components/schemas/OutputMode",
            "another definition of that name"
        );
        assert_eq!(schemas["Output"]["title"], "Output");
        let mut found = Vec::new();
        references(&document, &document, &mut found);
        assert!(found.iter().all(|(_, target)| target.is_some()), "{found:?}");
    }

    #[test]
    fn every_path_that_the_router_knows_is_in_the_document() {
        let router = include_str!("http/mod.rs");
        let known = router
            .split(".route(")
            .skip(1)
            .filter_map(|rest| rest.split('"').nth(1));
        let document = server();
        let missing: Vec<_> = known
            .filter(|path| *path != "/openapi.json" && document["paths"].get(*path).is_none())
            .collect();
        assert_eq!(missing, Vec::<&str>::new());
    }

    #[test]
    fn the_servers_document_has_no_dangling_reference_and_no_name_twice() {
        let document = server();
        let mut found = Vec::new();
        references(&document, &document, &mut found);
        assert!(
            !found.is_empty() && found.iter().all(|(_, target)| target.is_some()),
            "{found:?}"
        );
        let paths = document["paths"].as_object().into_iter().flatten();
        let operations = paths.flat_map(|(_, methods)| methods.as_object().into_iter().flatten());
        let mut ids: Vec<_> = operations
            .map(|(_, operation)| operation["operationId"].as_str())
            .collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((ids.len(), ids.contains(&None)), (count, false));
    }
}
