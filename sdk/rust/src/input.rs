//! From JSON to a model's input, and the JSON Schema that callers see.

use serde_json::{Map, Value, json};

/// What a whole input has to be: a JSON object. Made by `#[derive(Input)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the input of a model",
    label = "put `#[derive(Input)]` on a struct with named fields"
)]
pub trait Input: Field {
    /// The schema of the object, in the dialect of Replicate and Cog.
    fn schema() -> Value {
        <Self as Field>::schema()
    }
}

/// What a field of an input may be.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field of an input",
    label = "fields are strings, booleans, numbers, `File`, `Option` and `Vec` of those, and types with `#[derive(Input)]`"
)]
pub trait Field: Sized {
    /// Whether a missing value is fine.
    const OPTIONAL: bool = false;

    /// The JSON Schema of the field.
    fn schema() -> Value;

    /// The value, from JSON that is valid under the schema.
    ///
    /// # Errors
    /// What was expected, naming the place, for JSON that is not.
    fn from_json(value: &Value) -> Result<Self, String>;

    /// The value of a field that is not there.
    fn missing() -> Option<Self> {
        None
    }
}

fn expected<T>(what: &str, value: &Value) -> Result<T, String> {
    let given = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    Err(format!("expected {what}, not {given}"))
}

impl Field for String {
    fn schema() -> Value {
        json!({"type": "string"})
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(text.clone()),
            other => expected("a string", other),
        }
    }
}

impl Field for bool {
    fn schema() -> Value {
        json!({"type": "boolean"})
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(b) => Ok(*b),
            other => expected("true or false", other),
        }
    }
}

macro_rules! integers {
    ($($int:ty),*) => {$(
        impl Field for $int {
            fn schema() -> Value {
                json!({"type": "integer"})
            }

            fn from_json(value: &Value) -> Result<Self, String> {
                let whole = |f: f64| (f.fract() == 0.0 && f.abs() < 9.0e15).then_some(f as i64);
                let int = value.as_u64().and_then(|n| <$int>::try_from(n).ok());
                let int = int.or_else(|| value.as_i64().and_then(|n| <$int>::try_from(n).ok()));
                let int = int.or_else(|| value.as_f64().and_then(whole).and_then(|n| <$int>::try_from(n).ok()));
                int.map_or_else(|| expected(concat!("an integer that fits ", stringify!($int)), value), Ok)
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

macro_rules! floats {
    ($($float:ty),*) => {$(
        impl Field for $float {
            fn schema() -> Value {
                json!({"type": "number"})
            }

            fn from_json(value: &Value) -> Result<Self, String> {
                value.as_f64().map_or_else(|| expected("a number", value), |f| Ok(f as $float))
            }
        }
    )*};
}
floats!(f32, f64);

impl<T: Field> Field for Option<T> {
    const OPTIONAL: bool = true;

    fn schema() -> Value {
        let mut schema = T::schema();
        if let Value::Object(map) = &mut schema {
            map.insert("nullable".to_owned(), Value::Bool(true));
        }
        schema
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(None),
            other => T::from_json(other).map(Some),
        }
    }

    fn missing() -> Option<Self> {
        Some(None)
    }
}

impl<T: Field> Field for Vec<T> {
    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        let Value::Array(items) = value else {
            return expected("a list", value);
        };
        let each = items
            .iter()
            .enumerate()
            .map(|(i, item)| T::from_json(item).map_err(|e| format!("[{i}]: {e}")));
        each.collect()
    }
}

/// Any JSON.
impl Field for Value {
    fn schema() -> Value {
        json!({})
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        Ok(value.clone())
    }
}

/// The fields of a JSON object, for derived code.
pub struct Object<'a>(&'a Map<String, Value>);

impl<'a> Object<'a> {
    /// The object in a value.
    ///
    /// # Errors
    /// If it is something else.
    pub fn new(value: &'a Value) -> Result<Self, String> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            other => expected("an object", other),
        }
    }

    /// A field, or its default.
    ///
    /// # Errors
    /// If it is missing and has no default, or is of another type.
    pub fn field<T: Field>(&self, name: &str, default: Option<fn() -> Value>) -> Result<T, String> {
        let value = match (self.0.get(name), default) {
            (Some(value), _) => T::from_json(value),
            (None, Some(default)) => T::from_json(&default()),
            (None, None) => return T::missing().ok_or_else(|| format!("{name}: this field is required")),
        };
        value.map_err(|e| {
            if e.starts_with('[') {
                format!("{name}{e}")
            } else {
                format!("{name}: {e}")
            }
        })
    }
}

/// The schema of an object, for derived code: each field with its name, whether it is required, and its schema.
pub fn schema_of_object(title: &str, description: &str, fields: Vec<(&str, bool, Value)>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (order, (name, is_required, mut schema)) in fields.into_iter().enumerate() {
        if let Value::Object(map) = &mut schema {
            map.entry("title").or_insert_with(|| Value::String(title_case(name)));
            map.insert("x-order".to_owned(), Value::from(order));
        }
        if is_required {
            required.push(Value::from(name));
        }
        properties.insert(name.to_owned(), schema);
    }
    let mut schema = json!({"type": "object", "title": title, "properties": properties});
    if let Value::Object(map) = &mut schema {
        if !description.is_empty() {
            map.insert("description".to_owned(), Value::from(description));
        }
        if !required.is_empty() {
            map.insert("required".to_owned(), Value::Array(required));
        }
    }
    schema
}

/// The schema of a choice between names, for derived code.
pub fn schema_of_choices(description: &str, names: &[&str]) -> Value {
    let mut schema = json!({"type": "string", "enum": names});
    if let (Value::Object(map), false) = (&mut schema, description.is_empty()) {
        map.insert("description".to_owned(), Value::from(description));
    }
    schema
}

/// `top_k` as `Top K`, as Cog titles fields.
fn title_case(name: &str) -> String {
    let words = name.split('_').filter(|word| !word.is_empty()).map(|word| {
        let mut letters = word.chars();
        letters
            .next()
            .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    });
    words.collect::<Vec<_>>().join(" ")
}
