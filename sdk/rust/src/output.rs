//! From a model's output to JSON, and the JSON Schema that callers see.

use serde_json::{Value, json};

/// What a model may return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an output",
    label = "outputs are strings, booleans, numbers, `File`, `Option` and `Vec` of those, and types with `#[derive(Output)]`"
)]
pub trait Output {
    /// The JSON Schema, in the dialect of Replicate and Cog.
    fn schema() -> Value;

    /// Appends the value as JSON.
    fn write_json(&self, out: &mut String);
}

/// Appends a text as a JSON string.
pub fn write_text(text: &str, out: &mut String) {
    // Serializing a string to a string cannot fail.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

impl Output for String {
    fn schema() -> Value {
        json!({"type": "string"})
    }

    fn write_json(&self, out: &mut String) {
        write_text(self, out);
    }
}

impl Output for bool {
    fn schema() -> Value {
        json!({"type": "boolean"})
    }

    fn write_json(&self, out: &mut String) {
        out.push_str(if *self { "true" } else { "false" });
    }
}

macro_rules! numbers {
    ($kind:literal: $($number:ty),*) => {$(
        impl Output for $number {
            fn schema() -> Value {
                json!({"type": $kind})
            }

            /// The shortest text that reads back as the same number; not-a-number and infinities are `null`.
            fn write_json(&self, out: &mut String) {
                out.push_str(&serde_json::to_string(self).unwrap_or_default());
            }
        }
    )*};
}
numbers!("integer": u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);
numbers!("number": f32, f64);

impl<T: Output> Output for Vec<T> {
    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }

    fn write_json(&self, out: &mut String) {
        out.push('[');
        for (i, item) in self.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            item.write_json(out);
        }
        out.push(']');
    }
}

impl<T: Output> Output for Option<T> {
    fn schema() -> Value {
        let mut schema = T::schema();
        if let Value::Object(map) = &mut schema {
            map.insert("nullable".to_owned(), Value::Bool(true));
        }
        schema
    }

    fn write_json(&self, out: &mut String) {
        match self {
            Some(value) => value.write_json(out),
            None => out.push_str("null"),
        }
    }
}

/// Any JSON.
impl Output for Value {
    fn schema() -> Value {
        json!({})
    }

    fn write_json(&self, out: &mut String) {
        out.push_str(&self.to_string());
    }
}
