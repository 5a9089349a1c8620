//! Whether a schema is safe to check values with: what a contributor writes must not make the host loop, fetch or explode.

use std::collections::HashMap;

use serde_json::Value;

/// Schema nodes when every reference is written out: bounds the work that one value can cause.
const MAX_NODES: u64 = 20_000;

/// References that lead to references, at most.
const MAX_CHAIN: usize = 64;

/// Keywords whose value is a schema.
const ONE: &[&str] = &[
    "items",
    "additionalItems",
    "additionalProperties",
    "contains",
    "not",
    "if",
    "then",
    "else",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
];

/// Keywords whose value is a list of schemas.
const LIST: &[&str] = &["allOf", "anyOf", "oneOf", "prefixItems", "items"];

/// Keywords whose value is a map of schemas.
const MAP: &[&str] = &["properties", "patternProperties", "dependentSchemas", "dependencies"];

/// The one dialect there is.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Keywords that change what references mean.
const REFUSED: &[&str] = &[
    "$id",
    "$anchor",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$vocabulary",
];

/// Refuses schemas whose use could cost unbounded time.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    if !schema.is_object() {
        return Err("a schema is a JSON object".to_owned());
    }
    if let Some(dialect) = schema.get("$schema")
        && dialect
            .as_str()
            .is_none_or(|text| text.trim_end_matches('#') != DIALECT)
    {
        return Err(format!("`$schema` must be `{DIALECT}` or missing"));
    }
    let nodes = Walk {
        root: schema,
        known: HashMap::new(),
        open: Vec::new(),
    }
    .nodes(schema)?;
    if nodes > MAX_NODES {
        return Err(format!(
            "it has more than {MAX_NODES} parts when its references are written out: make it simpler"
        ));
    }
    Ok(())
}

struct Walk<'a> {
    root: &'a Value,
    /// Sizes of what references lead to.
    known: HashMap<&'a str, u64>,
    /// References being followed.
    open: Vec<&'a str>,
}

impl<'a> Walk<'a> {
    fn nodes(&mut self, schema: &'a Value) -> Result<u64, String> {
        let Value::Object(map) = schema else { return Ok(1) };
        for key in REFUSED {
            if map.contains_key(*key) {
                return Err(format!("`{key}` is not supported: use `$ref` into `#/$defs/…`"));
            }
        }
        let mut nodes = 1_u64;
        let mut add = |more: u64| nodes = nodes.saturating_add(more);
        if let Some(reference) = map.get("$ref") {
            add(self.follow(reference)?);
        }
        for inner in ONE.iter().filter_map(|key| map.get(*key)) {
            if inner.is_object() {
                add(self.nodes(inner)?);
            }
        }
        for inner in LIST
            .iter()
            .filter_map(|key| map.get(*key))
            .filter_map(Value::as_array)
            .flatten()
        {
            add(self.nodes(inner)?);
        }
        for inner in MAP
            .iter()
            .filter_map(|key| map.get(*key))
            .filter_map(Value::as_object)
            .flat_map(|m| m.values())
        {
            add(self.nodes(inner)?);
        }
        Ok(nodes)
    }

    fn follow(&mut self, reference: &'a Value) -> Result<u64, String> {
        let Some(reference) = reference.as_str() else {
            return Err("`$ref` must be a text".to_owned());
        };
        let target = reference
            .strip_prefix('#')
            .and_then(|pointer| self.root.pointer(pointer));
        let Some(target) = target else {
            let shown = crate::names::shown(reference);
            return Err(format!(
                "`$ref: {shown}` leads nowhere: references go to `#/$defs/…` of the same schema"
            ));
        };
        if let Some(nodes) = self.known.get(reference) {
            return Ok(*nodes);
        }
        if self.open.contains(&reference) || std::ptr::eq(target, self.root) {
            return Err(format!(
                "`$ref: {}` refers to itself: recursive schemas are not supported",
                crate::names::shown(reference)
            ));
        }
        if self.open.len() >= MAX_CHAIN {
            return Err(format!(
                "more than {MAX_CHAIN} references lead from one to the next: make it simpler"
            ));
        }
        self.open.push(reference);
        let nodes = self.nodes(target)?;
        self.open.pop();
        self.known.insert(reference, nodes);
        Ok(nodes)
    }
}
