//! `nullable: true`, which is OpenAPI 3.0's word and what SDK and Cog write, in the words of JSON Schema: `null` is one more type.

use serde_json::{Value, json};

/// Keywords whose value is a schema, a list of schemas, or schemas by name.
const ONE: [&str; 10] = [
    "items",
    "additionalProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
];
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const NAMED: [&str; 5] = [
    "properties",
    "patternProperties",
    "dependentSchemas",
    "$defs",
    "definitions",
];

/// Makes a schema that is free of cycles take `null` wherever it says `nullable`.
pub(super) fn widen(schema: &mut Value) {
    let Value::Object(keywords) = schema else { return };
    for key in ONE {
        if let Some(inner) = keywords.get_mut(key) {
            widen(inner);
        }
    }
    for key in LIST {
        for inner in keywords
            .get_mut(key)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            widen(inner);
        }
    }
    for key in NAMED {
        for (_, inner) in keywords
            .get_mut(key)
            .and_then(Value::as_object_mut)
            .into_iter()
            .flatten()
        {
            widen(inner);
        }
    }
    if keywords.get("nullable") != Some(&Value::Bool(true)) {
        return;
    }
    keywords.remove("nullable");
    let combined = ["$ref", "allOf", "anyOf", "oneOf", "not", "const"];
    if combined.iter().any(|key| keywords.contains_key(*key)) {
        let whole = std::mem::take(keywords);
        *schema = json!({"anyOf": [whole, {"type": "null"}]});
        return;
    }
    match keywords.get_mut("type") {
        Some(Value::Array(types)) if !types.iter().any(|name| name == "null") => types.push("null".into()),
        Some(name @ Value::String(_)) if name != "null" => *name = json!([name, "null"]),
        _ => {}
    }
    if let Some(Value::Array(choices)) = keywords.get_mut("enum")
        && !choices.contains(&Value::Null)
    {
        choices.push(Value::Null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_one_more_type_where_a_schema_says_nullable() {
        for (schema, expected) in [
            (json!({"type": "string"}), json!({"type": "string"})),
            (
                json!({"type": "string", "nullable": false}),
                json!({"type": "string", "nullable": false}),
            ),
            (
                json!({"type": "string", "nullable": true}),
                json!({"type": ["string", "null"]}),
            ),
            (
                json!({"type": ["string", "null"], "nullable": true}),
                json!({"type": ["string", "null"]}),
            ),
            (
                json!({"type": "string", "enum": ["a"], "nullable": true}),
                json!({"type": ["string", "null"], "enum": ["a", null]}),
            ),
            (
                json!({"$ref": "#/$defs/A", "nullable": true}),
                json!({"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]}),
            ),
            (
                json!({"properties": {"nullable": {"items": {"type": "integer", "nullable": true}}}}),
                json!({"properties": {"nullable": {"items": {"type": ["integer", "null"]}}}}),
            ),
            // What is no schema stays what it is.
            (
                json!({"default": {"type": "string", "nullable": true}}),
                json!({"default": {"type": "string", "nullable": true}}),
            ),
            (json!(true), json!(true)),
        ] {
            let mut widened = schema.clone();
            widen(&mut widened);
            assert_eq!(widened, expected, "{schema}");
        }
    }
}
