//! Fills in the defaults of missing fields, inside nested objects and lists too.

use serde_json::Value;

/// Fills in `default`s. A default of `null` stands for a missing field and is left out.
pub(super) fn fill(root: &Value, value: &mut Value) {
    fill_in(root, root, value);
}

fn fill_in(root: &Value, schema: &Value, value: &mut Value) {
    let Value::Object(keywords) = schema else { return };
    match value {
        Value::Object(fields) => {
            for (name, property) in keywords
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                match fields.get_mut(name) {
                    Some(inner) => fill_in(root, property, inner),
                    None => {
                        if let Some(default) = default_of(root, property) {
                            fields.insert(name.clone(), default.clone());
                        }
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = keywords.get("items") {
                for item in items.iter_mut().filter(|item| item.is_object() || item.is_array()) {
                    fill_in(root, schema, item);
                }
            }
        }
        _ => return,
    }
    if let Some(target) = target(root, schema) {
        fill_in(root, target, value);
    }
    for part in keywords.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        fill_in(root, part, value);
    }
}

/// What a `$ref` leads to. Schemas in use have been found free of cycles.
fn target<'a>(root: &'a Value, schema: &Value) -> Option<&'a Value> {
    root.pointer(schema.get("$ref")?.as_str()?.strip_prefix('#')?)
}

fn default_of<'a>(root: &'a Value, property: &'a Value) -> Option<&'a Value> {
    let own = property.get("default");
    own.or_else(|| target(root, property)?.get("default"))
        .filter(|default| !default.is_null())
}
