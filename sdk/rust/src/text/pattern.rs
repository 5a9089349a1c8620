//! The patterns by which language models cut text into words, as scanners. Each gives what its regular expression gives.

use super::letters::is_letter;

/// A known pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// GPT-2's: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
    Gpt2,
    /// That of Llama 3 and of GPT-4, with up to this many digits in a word:
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`.
    Gpt4 { digits: usize },
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// What is before and after the numerals.
const GPT4: (&str, &str) = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

fn class(c: char) -> Class {
    match c {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' => Class::Number,
        c if c.is_whitespace() => Class::Space,
        c if c.is_ascii() => Class::Other,
        c if is_letter(c) => Class::Letter,
        c if c.is_numeric() => Class::Number,
        _ => Class::Other,
    }
}

fn first(text: &str) -> Option<(char, Class)> {
    text.chars().next().map(|c| (c, class(c)))
}

/// Bytes of the characters of a class that a text starts with.
fn run(text: &str, of: Class) -> usize {
    text.find(|c| class(c) != of).unwrap_or(text.len())
}

fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

impl Pattern {
    /// The pattern that a regular expression is.
    pub(super) fn from_regex(regex: &str) -> Option<Self> {
        if regex == GPT2 {
            return Some(Self::Gpt2);
        }
        let digits = match regex.strip_prefix(GPT4.0)?.strip_suffix(GPT4.1)? {
            "" => 1,
            "{1,3}" => 3,
            "+" => usize::MAX,
            _ => return None,
        };
        Some(Self::Gpt4 { digits })
    }

    /// Bytes of the first word of a text: zero only if there is none.
    pub(super) fn word(self, text: &str) -> usize {
        match self {
            Self::Gpt2 => gpt2(text),
            Self::Gpt4 { digits } => gpt4(text, digits),
        }
    }
}

fn gpt2(text: &str) -> usize {
    if let Some(len) = contraction(text, false) {
        return len;
    }
    let space = usize::from(text.starts_with(' '));
    match first(&text[space..]) {
        Some((_, Class::Space)) | None => spaces(text),
        Some((_, class)) => space + run(&text[space..], class),
    }
}

fn gpt4(text: &str, digits: usize) -> usize {
    if let Some(len) = contraction(text, true) {
        return len;
    }
    let Some((c, class)) = first(text) else {
        return 0;
    };
    if class == Class::Letter {
        return run(text, Class::Letter);
    }
    if class == Class::Number {
        // No further than needed: a long number is many words.
        let mut others = text.char_indices().enumerate();
        let end = others.find(|(n, (_, c))| *n == digits || self::class(*c) != Class::Number);
        return end.map_or(text.len(), |(_, (end, _))| end);
    }
    let rest = &text[c.len_utf8()..];
    // One character of another kind goes with the word it is before.
    if !is_newline(c) && first(rest).is_some_and(|(_, class)| class == Class::Letter) {
        return c.len_utf8() + run(rest, Class::Letter);
    }
    let space = usize::from(c == ' ');
    let others = run(&text[space..], Class::Other);
    if others > 0 {
        let end = space + others;
        let newlines = text[end..].find(|c| !is_newline(c)).unwrap_or(text.len() - end);
        return end + newlines;
    }
    // Spaces up to the last end of a line among them.
    let all = run(text, Class::Space);
    match text[..all].rfind(is_newline) {
        Some(last) => last + 1,
        None => spaces(text),
    }
}

/// `\s+(?!\S)|\s+`: spaces, but for the last one if a word follows.
fn spaces(text: &str) -> usize {
    let all = run(text, Class::Space);
    if all == text.len() {
        return all;
    }
    let but_last = text[..all].char_indices().next_back().map_or(0, |(start, _)| start);
    if but_last > 0 { but_last } else { all }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, in whatever case if so asked.
fn contraction(text: &str, any_case: bool) -> Option<usize> {
    let rest = text.strip_prefix('\'')?;
    let mut letters = rest.chars().map(|c| match c {
        // The long s is an s in another case.
        'ſ' if any_case => 's',
        c if any_case => c.to_ascii_lowercase(),
        c => c,
    });
    let len = match (letters.next()?, letters.next()) {
        ('s' | 't' | 'm' | 'd', _) => rest.chars().next().map_or(0, char::len_utf8),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => 2,
        _ => return None,
    };
    Some(1 + len)
}
