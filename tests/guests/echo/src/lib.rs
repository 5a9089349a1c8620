//! Gives back what it was told, one field of each kind, so that a test sees what arrives.

use maquette::prelude::*;

/// One field of each kind.
#[derive(Input)]
struct Told {
    /// A text; the only field that has to be there.
    #[input(max_length = 100000)]
    text: String,
    /// A whole number.
    #[input(default = 3, ge = 0, le = 10)]
    count: i64,
    /// A number.
    #[input(default = 0.5)]
    ratio: f64,
    /// Yes or no.
    #[input(default = false)]
    loud: bool,
    /// One of three.
    #[input(default = "calm")]
    mood: Mood,
    /// A list.
    #[input(default = [], max_items = 8)]
    tags: Vec<String>,
    /// A text that may be missing.
    note: Option<String>,
    /// A secret, of which only the length comes back.
    #[input(secret)]
    key: Option<String>,
}

#[derive(Input, Output)]
enum Mood {
    Calm,
    Glad,
    Sad,
}

#[derive(Output)]
struct Heard {
    /// The text, in capitals if it was to be loud.
    text: String,
    count: i64,
    ratio: f64,
    loud: bool,
    mood: Mood,
    tags: Vec<String>,
    note: Option<String>,
    key_length: Option<usize>,
}

struct Echo;

impl Model for Echo {
    type Input = Told;
    type Output = Heard;

    fn load(_package: &Package) -> Result<Self> {
        Ok(Echo)
    }

    fn predict(&self, told: Told) -> Result<Heard> {
        Ok(Heard {
            text: if told.loud { told.text.to_uppercase() } else { told.text },
            count: told.count,
            ratio: told.ratio,
            loud: told.loud,
            mood: told.mood,
            tags: told.tags,
            note: told.note,
            key_length: told.key.map(|key| key.chars().count()),
        })
    }
}

maquette::export!(Echo);
