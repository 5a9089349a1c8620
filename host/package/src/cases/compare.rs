//! Comparing an output with the expected one: where it differs, and by how much.

use std::fmt;

use serde_json::{Number, Value};

/// The most differences that are described.
const DESCRIBED: usize = 5;

/// One place where two values differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Where, such as `$[0].label` (`$` is the whole output).
    pub path: String,
    /// What was expected there; null if nothing was.
    pub expected: Value,
    /// What is there; null if nothing is.
    pub actual: Value,
    /// The difference in words.
    pub why: String,
}

/// How an output differs from the expected one. The fields of the first difference stand here; it displays as a few lines.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct Mismatch {
    /// Where the first difference is.
    pub path: String,
    /// What was expected there.
    pub expected: Value,
    /// What is there.
    pub actual: Value,
    /// The difference in words.
    pub why: String,
    /// A few more.
    pub more: Vec<Difference>,
    /// How many there are in all.
    pub total: usize,
    /// The largest difference between two numbers that are too far apart, as a share of the tolerance; 0 if no number is.
    pub worst: f64,
}

/// Compares an output with the expected one. Two floating-point numbers may differ by `tolerance × max(1, |expected|)`, two whole
/// numbers by `tolerance`; everything else must be equal. The order of an object's keys does not matter.
pub fn compare(expected: &Value, actual: &Value, tolerance: f64) -> Result<(), Box<Mismatch>> {
    let mut walk = Walk {
        tolerance,
        found: Vec::new(),
        total: 0,
        worst: 0.0,
    };
    walk.value("$".to_owned(), Some(expected), Some(actual));
    let Walk {
        found, total, worst, ..
    } = walk;
    let mut found = found.into_iter();
    match found.next() {
        None => Ok(()),
        Some(Difference {
            path,
            expected,
            actual,
            why,
        }) => Err(Box::new(Mismatch {
            path,
            expected,
            actual,
            why,
            more: found.collect(),
            total,
            worst,
        })),
    }
}

struct Walk {
    tolerance: f64,
    found: Vec<Difference>,
    total: usize,
    worst: f64,
}

impl Walk {
    // JSON that serde_json has read is at most 128 levels deep, so the recursion is bounded.
    fn value(&mut self, path: String, expected: Option<&Value>, actual: Option<&Value>) {
        match (expected, actual) {
            (Some(Value::Array(a)), Some(Value::Array(b))) => {
                if a.len() != b.len() {
                    let why = format!("{} expected, {} found", items(a.len()), b.len());
                    self.differ(path.clone(), expected, actual, why);
                }
                for (i, (a, b)) in a.iter().zip(b).enumerate() {
                    self.value(format!("{path}[{i}]"), Some(a), Some(b));
                }
            }
            (Some(Value::Object(a)), Some(Value::Object(b))) => {
                for (key, value) in a {
                    self.value(member(&path, key), Some(value), b.get(key));
                }
                for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                    self.value(member(&path, key), None, Some(value));
                }
            }
            (Some(Value::Number(a)), Some(Value::Number(b))) => self.number(path, a, b),
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) if kind(a) != kind(b) => {
                let why = format!("{} expected, {} found", kind(a), kind(b));
                self.differ(path, expected, actual, why);
            }
            (Some(a), Some(b)) => self.differ(
                path,
                expected,
                actual,
                format!("expected {}, found {}", short(a), short(b)),
            ),
            (Some(a), None) => self.differ(path, expected, actual, format!("missing; expected {}", short(a))),
            (None, Some(b)) => self.differ(path, expected, actual, format!("not expected: {}", short(b))),
            (None, None) => {}
        }
    }

    fn number(&mut self, path: String, expected: &Number, actual: &Number) {
        let whole = |n: &Number| n.as_i64().map(i128::from).or(n.as_u64().map(i128::from));
        let (difference, allowed) = match (whole(expected), whole(actual)) {
            (Some(a), Some(b)) => ((a - b).unsigned_abs() as f64, self.tolerance),
            _ => {
                let (a, b) = (
                    expected.as_f64().unwrap_or(f64::NAN),
                    actual.as_f64().unwrap_or(f64::NAN),
                );
                ((a - b).abs(), self.tolerance * a.abs().max(1.0))
            }
        };
        // Written so that not-a-number, which JSON cannot hold but arithmetic can make, differs.
        if difference <= allowed {
            return;
        }
        self.worst = self.worst.max(difference / allowed.max(f64::MIN_POSITIVE));
        let why = format!("expected {expected}, found {actual}: off by {difference:.3e}, allowed {allowed:.3e}");
        self.differ(
            path,
            Some(&Value::from(expected.clone())),
            Some(&Value::from(actual.clone())),
            why,
        );
    }

    fn differ(&mut self, path: String, expected: Option<&Value>, actual: Option<&Value>, why: String) {
        self.total += 1;
        if self.found.len() < DESCRIBED {
            let [expected, actual] = [expected, actual].map(|v| v.cloned().unwrap_or(Value::Null));
            self.found.push(Difference {
                path,
                expected,
                actual,
                why,
            });
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.why)?;
        for d in &self.more {
            write!(f, "\n{}: {}", d.path, d.why)?;
        }
        let rest = self.total - 1 - self.more.len();
        if rest > 0 {
            write!(f, "\nand {rest} more")?;
        }
        if self.total > 1 && self.worst > 0.0 {
            write!(f, "\nthe worst number is off by {:.3e} times the tolerance", self.worst)?;
        }
        Ok(())
    }
}

fn member(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain {
        format!("{path}.{key}")
    } else {
        format!("{path}[{}]", short(&Value::from(key)))
    }
}

fn items(count: usize) -> String {
    format!("{count} {}", if count == 1 { "item" } else { "items" })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        text
    } else {
        text.chars().take(57).chain("...".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn words(expected: Value, actual: Value, tolerance: f64) -> String {
        compare(&expected, &actual, tolerance).unwrap_err().to_string()
    }

    #[test]
    fn numbers_within_the_tolerance_are_equal() {
        for (a, b, tolerance) in [
            (json!(1.0), json!(1.000009), 1e-5),
            (json!(1e6), json!(1_000_009.0), 1e-5),
            (json!(0.0), json!(9e-6), 1e-5),
            (json!(3), json!(3.000001), 1e-5),
            (json!(3), json!(4), 1.0),
            (json!([{"a": [1.0]}]), json!([{"a": [1.0]}]), 0.0),
            (json!(u64::MAX), json!(u64::MAX), 0.0),
        ] {
            compare(&a, &b, tolerance).unwrap();
        }
    }

    #[test]
    fn a_whole_number_that_is_off_by_one_differs_however_large() {
        assert_eq!(
            words(json!(1_000_000), json!(1_000_001), 1e-5),
            "$: expected 1000000, found 1000001: off by 1.000e0, allowed 1.000e-5"
        );
        compare(&json!(i64::MIN), &json!(u64::MAX), 1.0).unwrap_err();
    }

    #[test]
    fn each_kind_of_difference_has_its_words() {
        for (a, b, expected) in [
            (json!([1, 2]), json!([1]), "$: 2 items expected, 1 found"),
            (json!({"a": 1}), json!({}), "$.a: missing; expected 1"),
            (json!({}), json!({"a b": [1]}), "$[\"a b\"]: not expected: [1]"),
            (json!("x"), json!("y"), "$: expected \"x\", found \"y\""),
            (json!("1"), json!(1), "$: a text expected, a number found"),
            (json!(null), json!([]), "$: null expected, a list found"),
            (
                json!([[0.5]]),
                json!([[0.25]]),
                "$[0][0]: expected 0.5, found 0.25: off by 2.500e-1, allowed 1.000e-5",
            ),
            (
                json!("x".repeat(90)),
                json!(true),
                "$: a text expected, true or false found",
            ),
        ] {
            assert_eq!(words(a, b, 1e-5), expected);
        }
    }

    #[test]
    fn the_first_differences_are_shown_and_the_rest_counted() {
        let text = words(Value::from(vec![0.0; 9]), Value::from(vec![1.0; 9]), 0.5);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 7);
        assert!(lines[0].starts_with("$[0]: expected 0.0, found 1.0"));
        assert_eq!(lines[5], "and 4 more");
        assert_eq!(lines[6], "the worst number is off by 2.000e0 times the tolerance");
    }

    proptest! {
        #[test]
        fn every_value_equals_itself_and_a_changed_number_is_found(
            values in prop::collection::vec(-1e6f64..1e6, 1..40), at in 0usize..40, by in 1.0f64..5.0,
        ) {
            let expected = json!({ "data": values });
            compare(&expected, &expected, 0.0).unwrap();
            let at = at % values.len();
            let mut changed = values.clone();
            changed[at] += 1e-3 * by * values[at].abs().max(1.0);
            let mismatch = compare(&expected, &json!({ "data": changed }), 1e-4).unwrap_err();
            prop_assert_eq!(mismatch.path, format!("$.data[{at}]"));
            prop_assert_eq!(mismatch.total, 1);
        }
    }
}
