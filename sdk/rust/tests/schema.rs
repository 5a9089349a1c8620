//! The schema that callers see is what the types say, and values are what the JSON says.
#![allow(clippy::unwrap_used, missing_docs)]

use maquette::prelude::*;
use maquette::{Field as _, private::json};

/// How to sort.
#[derive(Input, Debug, PartialEq)]
enum Order {
    Best,
    NewestFirst,
    #[input(name = "a-z")]
    Name,
}

/// What to look for.
#[derive(Input, Debug, PartialEq)]
struct Query {
    /// The text.
    #[input(min_length = 1, max_length = 50, regex = "^[a-z]+$")]
    text: String,
    /// How many.
    #[input(default = 3, ge = 1, le = 10)]
    top_k: u32,
    #[input(default = "best")]
    order: Order,
    threshold: Option<f32>,
    #[input(max_items = 2)]
    images: Vec<File>,
    #[input(default = "", secret)]
    key: String,
}

#[test]
fn the_schema_is_in_the_dialect_of_cog() {
    assert_eq!(
        <Query as Input>::schema(),
        json!({
            "type": "object", "title": "Query", "description": "What to look for.",
            "required": ["text", "images"],
            "properties": {
                "text": {"type": "string", "title": "Text", "description": "The text.", "minLength": 1, "maxLength": 50,
                    "pattern": "^[a-z]+$", "x-order": 0},
                "top_k": {"type": "integer", "title": "Top K", "description": "How many.", "minimum": 1, "maximum": 10,
                    "default": 3, "x-order": 1},
                "order": {"type": "string", "enum": ["best", "newest_first", "a-z"], "title": "Order",
                    "description": "How to sort.", "default": "best", "x-order": 2},
                "threshold": {"type": "number", "nullable": true, "title": "Threshold", "x-order": 3},
                "images": {"type": "array", "items": {"type": "string", "format": "uri"}, "maxItems": 2,
                    "title": "Images", "x-order": 4},
                "key": {"type": "string", "default": "", "format": "password", "x-cog-secret": true, "title": "Key",
                    "x-order": 5}
            }
        })
    );
}

#[test]
fn values_come_from_json_with_defaults_filled_in() {
    let query = Query::from_json(&json!({"text": "a", "images": [], "order": "a-z", "threshold": 0.5})).unwrap();
    let expected = Query {
        text: "a".into(),
        top_k: 3,
        order: Order::Name,
        threshold: Some(0.5),
        images: vec![],
        key: String::new(),
    };
    assert_eq!(query, expected);
}

#[test]
fn what_does_not_fit_names_its_field() {
    let refusal = |value| Query::from_json(&value).unwrap_err();
    assert_eq!(refusal(json!({"images": []})), "text: this field is required");
    assert_eq!(
        refusal(json!({"text": 1, "images": []})),
        "text: expected a string, not 1"
    );
    assert_eq!(
        refusal(json!({"text": "a", "images": ["x", 1]})),
        "images[1]: expected a string, not 1"
    );
    assert_eq!(
        refusal(json!({"text": "a", "images": [], "top_k": -1})),
        "top_k: expected an integer that fits u32, not -1"
    );
    let order = refusal(json!({"text": "a", "images": [], "order": "x"}));
    assert_eq!(order, "order: expected one of \"best\", \"newest_first\", \"a-z\"");
    assert_eq!(refusal(json!([])), "expected an object, not a list");
}

#[derive(Output)]
enum Verdict {
    VeryGood,
}

#[derive(Output)]
struct Answer {
    /// In words.
    verdict: Verdict,
    scores: Vec<f32>,
    note: Option<String>,
}

#[test]
fn outputs_become_the_shortest_json() {
    let answer = Answer {
        verdict: Verdict::VeryGood,
        scores: vec![0.1, f32::NAN, 1e-7],
        note: Some("\"\n".into()),
    };
    let mut json = String::new();
    answer.write_json(&mut json);
    assert_eq!(
        json,
        r#"{"verdict":"very_good","scores":[0.1,null,1e-7],"note":"\"\n"}"#
    );
    assert_eq!(
        <Answer as Output>::schema()["properties"]["verdict"]["enum"],
        json!(["very_good"])
    );
}
