//! Which parts of a value a schema calls secret: `format: password`, or `x-cog-secret: true`.

use serde_json::Value;

/// Schemas are not recursive, but somebody's may be deep.
const MAX_DEPTH: usize = 32;

/// Goes through the secret parts of a value, each with its JSON pointer. What is null is no secret.
pub(crate) fn visit(schema: &Value, value: &mut Value, see: &mut dyn FnMut(&str, &mut Value)) {
    visit_within(schema, schema, value, &mut String::new(), see, 0);
}

/// The JSON pointers of a value's secret parts.
pub(super) fn pointers(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    visit(schema, &mut value.clone(), &mut |pointer, _| {
        found.push(pointer.to_owned())
    });
    found
}

/// Whether something in a schema may be secret.
pub(super) fn mentions(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => is_secret(schema) || map.values().any(mentions),
        Value::Array(items) => items.iter().any(mentions),
        _ => false,
    }
}

fn is_secret(schema: &Value) -> bool {
    schema.get("x-cog-secret").and_then(Value::as_bool) == Some(true)
        || schema.get("format").and_then(Value::as_str) == Some("password")
}

fn visit_within(
    root: &Value,
    schema: &Value,
    value: &mut Value,
    pointer: &mut String,
    see: &mut dyn FnMut(&str, &mut Value),
    depth: usize,
) {
    if depth > MAX_DEPTH || value.is_null() {
        return;
    }
    if is_secret(schema) {
        see(pointer, value);
        return;
    }
    let target = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|r| r.strip_prefix('#'));
    if let Some(target) = target.and_then(|target| root.pointer(target)) {
        visit_within(root, target, value, pointer, see, depth + 1);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for option in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
            visit_within(root, option, value, pointer, see, depth + 1);
        }
    }
    let mut inside = |pointer: &mut String, step: &str, of: &Value, inner: &mut Value| {
        let length = pointer.len();
        pointer.push('/');
        pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
        visit_within(root, of, inner, pointer, see, depth + 1);
        pointer.truncate(length);
    };
    match value {
        Value::Object(fields) => {
            let named = schema.get("properties").and_then(Value::as_object);
            let others = schema.get("additionalProperties").filter(|of| of.is_object());
            for (name, inner) in fields {
                let of = named.and_then(|named| named.get(name)).or(others);
                if let Some(of) = of {
                    inside(pointer, name, of, inner);
                }
            }
        }
        Value::Array(items) => {
            let first = schema.get("prefixItems").and_then(Value::as_array);
            for (i, item) in items.iter_mut().enumerate() {
                let of = first.and_then(|first| first.get(i)).or_else(|| schema.get("items"));
                if let Some(of) = of {
                    inside(pointer, &i.to_string(), of, item);
                }
            }
        }
        _ => {}
    }
}
