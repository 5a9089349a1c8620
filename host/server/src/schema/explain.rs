//! Turns a validator's errors into fields and sentences that a caller understands.

use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::{JsonType, ValidationError};
use serde_json::Value;

use super::FieldError;

/// How much of a value or a list of choices is quoted.
const MAX_QUOTED: usize = 120;

/// What the errors are about.
pub(super) struct About<'a> {
    pub(super) schema: &'a Value,
    pub(super) input: &'a Value,
    /// JSON pointers of what must not be quoted.
    pub(super) secrets: &'a [String],
}

impl About<'_> {
    /// A value at a place of the input, to stand in a message. What is secret, or has something secret in it, does not.
    fn quoted(&self, at: &str, value: &Value) -> String {
        let within = |outer: &str, inner: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if self
            .secrets
            .iter()
            .any(|secret| within(secret, at) || within(at, secret))
        {
            "this secret value".to_owned()
        } else {
            quoted(value)
        }
    }
}

/// Adds what an error says to `found`.
pub(super) fn explain(about: &About<'_>, error: &ValidationError<'_>, found: &mut Vec<FieldError>) {
    let at = error.instance_path().as_str();
    let field = field(about.input, at);
    let within = |name: &str| {
        if field.is_empty() {
            name.to_owned()
        } else {
            format!("{field}.{name}")
        }
    };
    let value = error.instance();
    let message = match error.kind() {
        Kind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            found.push(FieldError {
                field: within(name),
                message: "is required".to_owned(),
            });
            return;
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            for name in unexpected {
                let message = match nearest(about.schema, &field, name) {
                    Some(near) => format!("is not a field of this model; did you mean `{near}`?"),
                    None => "is not a field of this model".to_owned(),
                };
                let name: String = name.chars().take(MAX_QUOTED).collect();
                found.push(FieldError {
                    field: within(&name),
                    message,
                });
            }
            return;
        }
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => match likely_branch(error, context) {
            Some(branch) => {
                for inner in branch {
                    explain(about, inner, found);
                }
                return;
            }
            None => one_of_several(context, value),
        },
        Kind::Type { kind } => format!("expected {}, got {}", expected(kind), a(value)),
        Kind::Enum { options } => format!("{} is not one of {}", about.quoted(at, value), quoted(options)),
        Kind::Constant { expected_value } => format!("must be {}", quoted(expected_value)),
        Kind::Minimum { limit } => format!("{} is less than the minimum of {limit}", about.quoted(at, value)),
        Kind::Maximum { limit } => format!("{} is greater than the maximum of {limit}", about.quoted(at, value)),
        Kind::ExclusiveMinimum { limit } => format!("{} must be greater than {limit}", about.quoted(at, value)),
        Kind::ExclusiveMaximum { limit } => format!("{} must be less than {limit}", about.quoted(at, value)),
        Kind::MinLength { limit } => format!("has {} characters, fewer than the {limit} it needs", characters(value)),
        Kind::MaxLength { limit } => format!("has {} characters, more than the {limit} allowed", characters(value)),
        Kind::MinItems { limit } => format!("has {} items, fewer than the {limit} it needs", items(value)),
        Kind::MaxItems { limit } => format!("has {} items, more than the {limit} allowed", items(value)),
        Kind::Pattern { pattern } => format!("does not match the pattern `{}`", cut(pattern)),
        Kind::UniqueItems => "has items that are not unique".to_owned(),
        _ => cut(&error.masked().to_string()).into_owned(),
    };
    found.push(FieldError { field, message });
}

/// The branch that the caller most likely meant: the one whose type fits, with the fewest errors.
fn likely_branch<'a, 'b>(
    error: &ValidationError<'_>,
    branches: &'a [Vec<ValidationError<'b>>],
) -> Option<&'a [ValidationError<'b>]> {
    let misfit = |e: &ValidationError<'_>| {
        matches!(e.kind(), Kind::Type { .. } | Kind::Constant { .. }) && e.instance_path() == error.instance_path()
    };
    let fitting = branches
        .iter()
        .filter(|errors| !errors.is_empty() && !errors.iter().any(misfit));
    fitting.min_by_key(|errors| errors.len()).map(Vec::as_slice)
}

/// No branch's type fits: says which types there are.
fn one_of_several(branches: &[Vec<ValidationError<'_>>], value: &Value) -> String {
    let mut types = Vec::new();
    for error in branches.iter().flatten() {
        if let Kind::Type { kind } = error.kind() {
            let text = expected(kind);
            if !types.contains(&text) {
                types.push(text);
            }
        }
    }
    if types.is_empty() {
        return "fits none of the allowed forms".to_owned();
    }
    format!("expected {}, got {}", types.join(" or "), a(value))
}

/// A JSON pointer in the words of callers: `texts[3]`, `options.size`.
fn field(input: &Value, pointer: &str) -> String {
    let mut text = String::new();
    let mut at = Some(input);
    for segment in pointer.split('/').skip(1) {
        let name = segment.replace("~1", "/").replace("~0", "~");
        if let Some(Value::Array(items)) = at {
            text.push('[');
            text.push_str(&name);
            text.push(']');
            at = name.parse::<usize>().ok().and_then(|i| items.get(i));
        } else {
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(name.chars().take(MAX_QUOTED));
            at = at.and_then(|value| value.get(&name));
        }
    }
    text
}

/// The known field that a misspelt one of the top level is nearest to.
fn nearest<'a>(schema: &'a Value, at: &str, name: &str) -> Option<&'a str> {
    if !at.is_empty() || name.len() > 64 {
        return None;
    }
    let known = schema.get("properties")?.as_object()?.keys().take(256);
    let near = known
        .filter(|key| key.len() <= 64)
        .map(|key| (distance(key, name), key));
    near.filter(|(far, key)| *far <= 1 + key.len() / 4)
        .min()
        .map(|(_, key)| key.as_str())
}

/// How many characters have to be inserted, removed or replaced.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn expected(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(one) => article(*one).to_owned(),
        TypeKind::Multiple(several) => several.iter().map(article).collect::<Vec<_>>().join(" or "),
    }
}

fn article(of: JsonType) -> &'static str {
    match of {
        JsonType::Array => "an array",
        JsonType::Boolean => "a boolean",
        JsonType::Integer => "an integer",
        JsonType::Null => "null",
        JsonType::Number => "a number",
        JsonType::Object => "an object",
        JsonType::String => "a string",
    }
}

fn a(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a fractional number",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn characters(value: &Value) -> usize {
    value.as_str().map_or(0, |text| text.chars().count())
}

fn items(value: &Value) -> usize {
    value.as_array().map_or(0, Vec::len)
}

/// A value as JSON, cut if it is long; what is long is not formatted whole.
fn quoted(value: &Value) -> String {
    match value {
        Value::String(text) if text.len() > MAX_QUOTED => format!("\"{}\"", cut(text)),
        Value::Array(items) if items.len() > 64 => format!("an array of {} items", items.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(quoted).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

fn cut(text: &str) -> std::borrow::Cow<'_, str> {
    let end = text.floor_char_boundary(MAX_QUOTED);
    if end == text.len() {
        text.into()
    } else {
        format!("{}…", &text[..end]).into()
    }
}
