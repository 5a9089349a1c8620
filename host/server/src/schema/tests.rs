//! What callers and contributors are told about schemas and inputs.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn errors(schema: Value, input: Value) -> Vec<String> {
    let mut input = input;
    validate(&schema, &mut input)
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn embed() -> Value {
    json!({
        "type": "object", "required": ["texts"], "additionalProperties": false,
        "properties": {
            "texts": {"anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "minItems": 1, "maxItems": 4, "items": {"type": "string", "minLength": 1}}
            ]},
            "scale": {"type": "number", "minimum": 0, "maximum": 2, "default": 1.0},
            "mode": {"allOf": [{"$ref": "#/$defs/Mode"}], "default": "mean"},
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 8, "default": null}
        },
        "$defs": {"Mode": {"type": "string", "enum": ["mean", "cls"]}}
    })
}

#[test]
fn every_offending_field_is_named() {
    let cases = [
        (json!({}), vec!["texts: is required"]),
        (json!([]), vec!["expected an object, got an array"]),
        (
            json!({"texts": []}),
            vec!["texts: has 0 items, fewer than the 1 it needs"],
        ),
        (
            json!({"texts": ["a", 1, "b", null]}),
            vec![
                "texts[1]: expected a string, got a number",
                "texts[3]: expected a string, got null",
            ],
        ),
        (
            json!({"texts": 5}),
            vec!["texts: expected a string or an array, got a number"],
        ),
        (
            json!({"texts": "a", "scale": 3}),
            vec!["scale: 3 is greater than the maximum of 2"],
        ),
        (
            json!({"texts": "a", "mode": "max"}),
            vec!["mode: \"max\" is not one of [\"mean\", \"cls\"]"],
        ),
        (
            json!({"texts": "a", "name": "A1"}),
            vec!["name: does not match the pattern `^[a-z]+$`"],
        ),
        (
            json!({"texts": "a", "name": "abcdefghij"}),
            vec!["name: has 10 characters, more than the 8 allowed"],
        ),
        (
            json!({"text": "a", "zzzzzz": 1}),
            vec![
                "text: is not a field of this model; did you mean `texts`?",
                "texts: is required",
                "zzzzzz: is not a field of this model",
            ],
        ),
        (
            json!({"texts": 1, "scale": "x", "mode": 2}),
            vec![
                "mode: 2 is not one of [\"mean\", \"cls\"]",
                "mode: expected a string, got a number",
                "scale: expected a number, got a string",
                "texts: expected a string or an array, got a number",
            ],
        ),
    ];
    for (input, expected) in cases {
        let mut got = errors(embed(), input.clone());
        got.sort();
        assert_eq!(got, expected, "{input}");
    }
}

#[test]
fn defaults_are_filled_in_and_null_ones_left_out() {
    let mut input = json!({"texts": "a"});
    validate(&embed(), &mut input).unwrap();
    assert_eq!(input, json!({"texts": "a", "scale": 1.0, "mode": "mean"}));
    let mut given = json!({"texts": "a", "scale": 0.5, "mode": "cls"});
    validate(&embed(), &mut given).unwrap();
    assert_eq!(given["scale"], 0.5);
}

#[test]
fn defaults_reach_into_nested_objects_and_lists() {
    let schema = json!({
        "type": "object",
        "properties": {"boxes": {"type": "array", "items": {"$ref": "#/$defs/Box"}}},
        "$defs": {"Box": {"type": "object", "properties": {"w": {"default": 3}, "in": {"properties": {"h": {"default": 4}}}}}}
    });
    let mut input = json!({"boxes": [{"w": 1}, {"in": {}}]});
    validate(&schema, &mut input).unwrap();
    assert_eq!(input, json!({"boxes": [{"w": 1}, {"w": 3, "in": {"h": 4}}]}));
}

#[test]
fn field_names_with_slashes_and_digits_are_shown_as_they_are() {
    let schema = json!({"type": "object", "properties": {"a/b": {"properties": {"0": {"type": "string"}}}}});
    assert_eq!(
        errors(schema, json!({"a/b": {"0": 1}})),
        ["a/b.0: expected a string, got a number"]
    );
}

#[test]
fn schemas_that_could_loop_fetch_or_explode_are_refused() {
    let doubling = |n: usize| {
        let mut defs = serde_json::Map::new();
        for i in 0..n {
            let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
            defs.insert(format!("d{i}"), json!({"allOf": [next, next]}));
        }
        defs.insert(format!("d{n}"), json!({"type": "object"}));
        json!({"$defs": defs, "$ref": "#/$defs/d0"})
    };
    let refused = [
        (
            json!({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
            "refers to itself",
        ),
        (json!({"properties": {"x": {"$ref": "#"}}}), "refers to itself"),
        (
            json!({"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}),
            "refers to itself",
        ),
        (json!({"$ref": "http://169.254.169.254/schema"}), "leads nowhere"),
        (json!({"$ref": "file:///etc/passwd"}), "leads nowhere"),
        (json!({"$id": "http://x/", "type": "object"}), "`$id` is not supported"),
        (
            json!({"properties": {"x": {"pattern": "(?=a)b"}}}),
            "properties/x/pattern",
        ),
        (
            json!({"properties": {"x": {"pattern": "(((a{1000}){1000}){1000})"}}}),
            "properties/x/pattern",
        ),
        (json!({"type": "thing"}), "type"),
        (doubling(40), "make it simpler"),
        (json!(true), "is a JSON object"),
    ];
    for (schema, part) in refused {
        let error = Schema::new(schema.clone()).unwrap_err();
        assert!(error.contains(part), "{schema}: {error}");
    }
    Schema::new(doubling(5)).unwrap();
}

#[test]
fn a_huge_wrong_input_is_told_its_first_error_and_no_more() {
    let schema = json!({"type": "object", "properties": {"x": {"items": {"type": "string"}}}});
    let mut input = json!({"x": vec![1; 200_000]});
    let errors = validate(&schema, &mut input).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].field, "x[0]");
}

#[test]
fn a_message_never_quotes_a_long_value_whole() {
    let schema = json!({"type": "object", "properties": {"x": {"enum": ["a"]}, "y": {"maxLength": 3}}});
    let long = "é".repeat(100_000);
    for error in errors(schema, json!({"x": long, "y": long})) {
        assert!(error.len() < 500, "{} bytes", error.len());
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::hash_map("(texts|scale|mode|name|.{0,4})", inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_passes_fits_and_what_fails_names_a_reason(input in any_json()) {
        let plain = jsonschema::validator_for(&embed()).unwrap();
        let mut filled = input.clone();
        match validate(&embed(), &mut filled) {
            Ok(()) => prop_assert!(plain.is_valid(&filled)),
            Err(errors) => {
                prop_assert!(!plain.is_valid(&filled));
                prop_assert!(!errors.is_empty() && errors.iter().all(|e| !e.message.is_empty()));
            }
        }
    }
}

#[test]
fn a_field_that_says_nullable_may_be_null_and_no_other() {
    let schema = json!({"type": "object", "properties": {
        "note": {"type": "string", "nullable": true},
        "name": {"type": "string"},
        "mood": {"$ref": "#/$defs/Mood", "nullable": true},
    }, "$defs": {"Mood": {"type": "string", "enum": ["glad"]}}});
    assert!(errors(schema.clone(), json!({"note": null, "mood": null})).is_empty());
    assert!(errors(schema.clone(), json!({"note": "n", "mood": "glad"})).is_empty());
    assert_eq!(
        errors(schema.clone(), json!({"name": null})),
        ["name: expected a string, got null"]
    );
    assert_eq!(
        errors(schema.clone(), json!({"mood": "sad"})),
        ["mood: \"sad\" is not one of [\"glad\"]"]
    );
    assert_eq!(
        Schema::new(schema.clone()).unwrap().value(),
        &schema,
        "shown as it was given"
    );
}
