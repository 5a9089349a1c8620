//! The paths of what is known of models beside running them: cards, search, collections, deployments, account, trainings.

use serde_json::{Value, json};

use super::parts::{answer, body, operation, page, parameter};

/// Everything of models that is not publishing or running, and their surroundings.
pub(super) fn paths() -> Value {
    let (owner, name) = (parameter("owner", "path", true), parameter("name", "path", true));
    let (version, id, slug) = (
        parameter("version", "path", true),
        parameter("id", "path", true),
        parameter("slug", "path", true),
    );
    let any = json!({"type": "object"});
    let many = page(&any);
    let of_model = json!([owner, name]);
    let get = |id: &str, summary: &str, parameters: &Value, schema: &Value| {
        answer(operation(id, summary, parameters.clone()), "200", Some(schema))
    };
    let gone = |id: &str, summary: &str, parameters: &Value, status: &str| {
        answer(operation(id, summary, parameters.clone()), status, None)
    };
    let send = |id: &str, summary: &str, parameters: &Value, request: Value, status: &str| {
        answer(
            body(operation(id, summary, parameters.clone()), request),
            status,
            Some(&any),
        )
    };
    let none = json!([]);
    let mut readme = gone("getReadme", "A model's readme, in Markdown", &of_model, "200");
    readme["responses"]["200"]["content"] = json!({"text/plain": {"schema": {"type": "string"}}});
    let search = json!([
        {"name": "query", "in": "query", "required": true, "schema": {"type": "string", "minLength": 1, "maxLength": 1000}},
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 50, "default": 20}},
    ]);
    let of_version = json!([owner, name, version]);
    json!({
        "/v1/models": {"post": send("createModel", "Makes a model without versions", &none, model(true), "201")},
        "/v1/models/{owner}/{name}": {
            "patch": send("changeModel", "Changes what is said of a model", &of_model, model(false), "200"),
            "delete": gone("deleteModel", "Removes a model without versions", &of_model, "204"),
        },
        "/v1/models/{owner}/{name}/versions/{version}": {
            "delete": gone("deleteVersion", "Removes a version that nobody relies on", &of_version, "202"),
        },
        "/v1/models/{owner}/{name}/versions/{version}/release": {"post": get(
            "releaseVersion", "Lets a quarantined version be called again", &of_version, &json!({
                "type": "object", "required": ["id", "model", "released"],
                "properties": {"id": {"type": "string"}, "model": {"type": "string"}, "released": {"type": "boolean"}}
            }),
        )},
        "/v1/models/{owner}/{name}/versions/{version}/trainings": {"post": send(
            "createTraining", "Refused: no version declares a training", &of_version,
            json!({"type": "object", "required": ["destination"], "properties": {"destination": {"type": "string"}}}), "201",
        )},
        "/v1/models/{owner}/{name}/readme": {"get": readme},
        "/v1/models/{owner}/{name}/examples": {"get": get("listExamples", "The latest version's cases", &of_model, &many)},
        "/v1/search": {"get": get("search", "Models and collections that fit a text", &search, &any)},
        "/v1/collections": {"get": get("listCollections", "Collections", &none, &many)},
        "/v1/collections/{slug}": {
            "get": get("getCollection", "A collection and its models", &json!([slug]), &any),
            "put": send("putCollection", "Makes or changes a collection", &json!([slug]), collection(), "200"),
            "delete": gone("deleteCollection", "Removes a collection", &json!([slug]), "204"),
        },
        "/v1/deployments": {
            "get": get("listDeployments", "The caller's deployments", &json!([parameter("cursor", "query", false)]), &many),
            "post": send("createDeployment", "Makes a deployment", &none, deployment(true), "200"),
        },
        "/v1/deployments/{owner}/{name}": {
            "get": get("getDeployment", "A deployment", &of_model, &any),
            "patch": send("changeDeployment", "The next release of a deployment", &of_model, deployment(false), "200"),
            "delete": gone("deleteDeployment", "Removes a deployment", &of_model, "204"),
        },
        "/v1/hardware": {"get": get("listHardware", "Hardware that versions run on", &none, &json!({"type": "array", "items": any}))},
        "/v1/account": {"get": get("getAccount", "Whose token this is", &none, &any)},
        "/v1/trainings": {"get": get("listTrainings", "Trainings: none", &none, &many)},
        "/v1/trainings/{id}": {"get": get("getTraining", "A training: there is none", &json!([id]), &any)},
        "/v1/trainings/{id}/cancel": {"post": get("cancelTraining", "Stops a training: there is none", &json!([id]), &any)},
    })
}

fn model(new: bool) -> Value {
    let nullable = json!({"type": ["string", "null"]});
    let (text, url) = (
        json!({"type": "string"}),
        json!({"type": ["string", "null"], "format": "uri"}),
    );
    let mut schema = json!({"type": "object", "properties": {
        "description": nullable, "readme": nullable, "visibility": {"enum": ["public", "private", null]},
        "github_url": url, "paper_url": url, "weights_url": url, "license_url": url, "cover_image_url": url
    }});
    if new {
        schema["required"] = json!(["owner", "name", "visibility", "hardware"]);
        schema["properties"]["visibility"] = json!({"enum": ["public", "private"]});
        for name in ["owner", "name", "hardware"] {
            schema["properties"][name] = text.clone();
        }
    }
    schema
}

fn deployment(new: bool) -> Value {
    let text = json!({"type": "string"});
    let mut schema = json!({"type": "object", "properties": {
        "version": text, "hardware": text,
        "min_instances": {"type": "integer", "minimum": 0, "maximum": 5},
        "max_instances": {"type": "integer", "minimum": 0, "maximum": 20}
    }});
    if new {
        schema["required"] = json!(["name", "model", "version", "hardware", "min_instances", "max_instances"]);
        schema["properties"]["name"] = text.clone();
        schema["properties"]["model"] = text;
    }
    schema
}

fn collection() -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object", "required": ["name"], "additionalProperties": false,
        "properties": {
            "slug": text, "name": text, "description": text,
            "full_description": {"type": ["string", "null"]},
            "models": {"type": "array", "items": text, "maxItems": 1000}
        }
    })
}
