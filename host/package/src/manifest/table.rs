//! A table of a TOML document that knows its lines: every error names file, line and key.

use std::fmt::Display;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{Error, Note, Result, names};

/// The text of the document and its name.
pub(super) struct Document<'a> {
    text: &'a str,
    file: &'a str,
}

/// One table, and its name as `[a.b]` writes it.
pub(super) struct Table<'a> {
    document: &'a Document<'a>,
    path: String,
    table: &'a DeTable<'a>,
    line: usize,
}

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str, file: &'a str) -> Self {
        Self { text, file }
    }

    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'a>>> {
        DeTable::parse(self.text).map_err(|e| {
            let line = e.span().map_or(1, |s| self.line_of(s.start));
            self.error(
                line,
                format!("this is not TOML: {}", e.message()),
                "see https://toml.io for how to write it",
            )
        })
    }

    pub(super) fn root(&'a self, parsed: &'a Spanned<DeTable<'a>>) -> Table<'a> {
        Table {
            document: self,
            path: String::new(),
            table: parsed.get_ref(),
            line: 1,
        }
    }

    pub(super) fn error(&self, line: usize, what: impl Display, help: impl Display) -> Error {
        Error::Manifest(Note::new(format!("{}:{line}", self.file), what, help))
    }

    fn line_of(&self, byte: usize) -> usize {
        1 + self.text.bytes().take(byte).filter(|b| *b == b'\n').count()
    }
}

impl<'a> Table<'a> {
    /// Refuses every key that is not in `known`.
    pub(super) fn only(&self, known: &[&str]) -> Result<()> {
        let unknown = self
            .table
            .keys()
            .filter(|k| !known.contains(&k.get_ref().as_ref()))
            .min_by_key(|k| k.span().start);
        let Some(key) = unknown else { return Ok(()) };
        let name = key.get_ref();
        let inside = if self.path.is_empty() {
            String::new()
        } else {
            format!(" in [{}]", self.path)
        };
        let help = match names::nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the keys there are: {}", known.join(", ")),
        };
        Err(self.document.error(
            self.document.line_of(key.span().start),
            format!("unknown key `{name}`{inside}"),
            help,
        ))
    }

    /// The keys, in their order in the file.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = self
            .table
            .keys()
            .map(|k| (k.span().start, k.get_ref().to_string()))
            .collect();
        keys.sort();
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// The line where the table starts.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// An error about the value of `key`.
    pub(super) fn at(&self, key: &str, what: impl Display, help: impl Display) -> Error {
        let line = self.find(key).map_or(self.line, |(line, _)| line);
        self.document.error(line, what, help)
    }

    pub(super) fn table(&self, key: &str) -> Result<Option<Table<'a>>> {
        let Some((line, value)) = self.find(key) else {
            return Ok(None);
        };
        match value {
            DeValue::Table(table) => {
                let path = if self.path.is_empty() {
                    key.to_owned()
                } else {
                    format!("{}.{key}", self.path)
                };
                Ok(Some(Table {
                    document: self.document,
                    path,
                    table,
                    line,
                }))
            }
            other => Err(self.kind(key, "a table", other)),
        }
    }

    /// A member that is true or false, if it is there.
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.find(key) {
            None => Ok(None),
            Some((_, DeValue::Boolean(value))) => Ok(Some(*value)),
            Some((_, other)) => Err(self.kind(key, "true or false", other)),
        }
    }

    /// A list of tables, whether as `[[…]]` or as `[{ … }, …]`.
    pub(super) fn tables(&self, key: &str) -> Result<Option<Vec<Table<'a>>>> {
        let items = match self.find(key) {
            None => return Ok(None),
            Some((_, DeValue::Array(items))) => items,
            Some((_, other)) => return Err(self.kind(key, "a list of tables", other)),
        };
        let tables = items.iter().map(|item| match item.get_ref() {
            DeValue::Table(table) => Ok(Table {
                document: self.document,
                path: format!("{}.{key}", self.path),
                table,
                line: self.document.line_of(item.span().start),
            }),
            other => Err(self.kind(key, "a list of tables", other)),
        });
        tables.collect::<Result<_>>().map(Some)
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<String>> {
        match self.find(key) {
            None => Ok(None),
            Some((_, DeValue::String(text))) => Ok(Some(text.to_string())),
            Some((_, other)) => Err(self.kind(key, "a text in quotes", other)),
        }
    }

    pub(super) fn required(&self, key: &str, help: &str) -> Result<String> {
        self.string(key)?.ok_or_else(|| {
            self.document
                .error(self.line, format!("`{key}` is missing in [{}]", self.path), help)
        })
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number(&self, key: &str, least: u64, most: u64) -> Result<Option<u64>> {
        match self.find(key) {
            None => Ok(None),
            Some((_, DeValue::Integer(digits))) => {
                let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
                match number
                    .and_then(|n| u64::try_from(n).ok())
                    .filter(|n| (least..=most).contains(n))
                {
                    Some(number) => Ok(Some(number)),
                    None => {
                        let what = format!("`{key}` is {digits}, which is not between {least} and {most}");
                        Err(self.at(key, what, "write a whole number in that range"))
                    }
                }
            }
            Some((_, other)) => Err(self.kind(key, "a whole number", other)),
        }
    }

    fn kind(&self, key: &str, wanted: &str, found: &DeValue<'_>) -> Error {
        let inside = if self.path.is_empty() {
            String::new()
        } else {
            format!(" in [{}]", self.path)
        };
        self.at(
            key,
            format!("`{key}`{inside} must be {wanted}, not {}", article(found.type_str())),
            "",
        )
    }

    fn find(&self, key: &str) -> Option<(usize, &'a DeValue<'a>)> {
        let (name, value) = self.table.iter().find(|(k, _)| k.get_ref().as_ref() == key)?;
        Some((self.document.line_of(name.span().start), value.get_ref()))
    }
}

fn article(noun: &str) -> String {
    let an = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if an { "an" } else { "a" })
}
