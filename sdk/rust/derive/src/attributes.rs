//! What stands on a field: its doc comment, its attributes, the name that it has in JSON.

use proc_macro2::Span;
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Fields, Ident, Lit, Meta, Result, Token, Variant};

/// A doc comment as one paragraph of text.
pub(crate) fn documentation(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text), ..
            }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ").trim().to_owned()
}

/// What `#[input(…)]` says of a field.
#[derive(Default)]
pub(crate) struct FieldAttributes {
    pub(crate) default: Option<Expr>,
    /// Keys of JSON Schema with their values.
    pub(crate) constraints: Vec<(&'static str, Expr)>,
    pub(crate) secret: bool,
}

const KNOWN: [(&str, &str); 7] = [
    ("ge", "minimum"),
    ("le", "maximum"),
    ("min_length", "minLength"),
    ("max_length", "maxLength"),
    ("regex", "pattern"),
    ("min_items", "minItems"),
    ("max_items", "maxItems"),
];

impl FieldAttributes {
    pub(crate) fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut parsed = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("input")) {
            for meta in attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)? {
                parsed.take(meta)?;
            }
        }
        Ok(parsed)
    }

    fn take(&mut self, meta: Meta) -> Result<()> {
        let path = meta.path().clone();
        if path.is_ident("secret") {
            self.secret = true;
            return Ok(());
        }
        let known = KNOWN.iter().find(|(name, _)| path.is_ident(name));
        let value = match &meta {
            Meta::NameValue(pair) => Some(pair.value.clone()),
            _ => None,
        };
        match (known, value) {
            (Some((_, key)), Some(value)) => self.constraints.push((key, value)),
            (None, Some(value)) if path.is_ident("default") => self.default = Some(value),
            (Some((name, _)), None) => return Err(syn::Error::new_spanned(meta, format!("write `{name} = …`"))),
            _ => {
                let known: Vec<_> = KNOWN.iter().map(|(name, _)| *name).collect();
                let message = format!("unknown; known are default, {}, secret", known.join(", "));
                return Err(syn::Error::new_spanned(path, message));
            }
        }
        Ok(())
    }
}

/// The name of a field in JSON.
pub(crate) fn json_name(ident: &Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").unwrap_or(&name).to_owned()
}

/// The names of an enum's variants in JSON: `snake_case`, or what `#[input(name = "…")]` says.
pub(crate) fn choices<'a>(variants: impl Iterator<Item = &'a Variant>) -> Result<Vec<(Ident, String)>> {
    variants
        .map(|variant| {
            if !matches!(variant.fields, Fields::Unit) {
                return Err(syn::Error::new_spanned(
                    variant,
                    "choices have no fields: use a struct, or `Option` fields",
                ));
            }
            let mut name = snake_case(&variant.ident.to_string());
            for attribute in &variant.attrs {
                if !attribute.path().is_ident("input") && !attribute.path().is_ident("output") {
                    continue;
                }
                attribute.parse_nested_meta(|meta| {
                    if !meta.path.is_ident("name") {
                        return Err(meta.error("unknown; choices know only `name = \"…\"`"));
                    }
                    let text: syn::LitStr = meta.value()?.parse()?;
                    name = text.value();
                    Ok(())
                })?;
            }
            Ok((variant.ident.clone(), name))
        })
        .collect()
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (i, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && i > 0 {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

/// The error for what cannot be derived.
pub(crate) fn unsupported(span: Span, what: &str) -> syn::Error {
    syn::Error::new(
        span,
        format!("{what} can be derived for structs with named fields and for enums without fields"),
    )
}
