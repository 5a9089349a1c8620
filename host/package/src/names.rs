//! Which names are allowed, and which allowed name a misspelt one is nearest to.

/// The longest name of a model, owner, weight or asset, in bytes.
pub(crate) const MAX_NAME: usize = 64;

/// The rule of [`check`] in words.
pub(crate) const RULE: &str =
    "a name has 1 to 64 characters of a-z, 0-9, `-`, `_` and `.`, and starts and ends with a letter or digit";

/// Whether `name` may name a model, an owner, a weight or an asset. Such a name is safe as a file name and in a URL.
pub(crate) fn valid(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    bytes.len() <= MAX_NAME
        && plain(first)
        && plain(last)
        && bytes.iter().all(|&b| plain(b) || matches!(b, b'-' | b'_' | b'.'))
        && !name.contains("..")
}

/// A valid name near to `name`, to propose.
pub(crate) fn repaired(name: &str) -> Option<String> {
    let mapped: String = name
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.') {
                c
            } else {
                '-'
            }
        })
        .take(MAX_NAME)
        .collect();
    let trimmed = mapped.trim_matches(['-', '_', '.']).to_owned();
    valid(&trimmed).then_some(trimmed)
}

/// The candidate that `name` most looks like, if it is near enough to be what was meant.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    let (distance, best) = candidates
        .into_iter()
        .map(|c| (edits(&lower, c), c))
        .min_by_key(|(d, _)| *d)?;
    (distance <= 1 + best.chars().count() / 4).then_some(best)
}

/// The number of insertions, deletions, replacements and swaps of neighbours that make `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(200).collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn names_are_short_lower_case_and_safe_in_paths() {
        for good in ["a", "minilm-l6", "model.safetensors", "a_b", "0", &"x".repeat(64)] {
            assert!(valid(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            "-a",
            "a-",
            ".hidden",
            "A",
            "a b",
            "a/b",
            "ä",
            "a\0",
            &"x".repeat(65),
        ] {
            assert!(!valid(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_proposed_name_is_valid() {
        assert_eq!(repaired("My Model!").as_deref(), Some("my-model"));
        assert_eq!(repaired("!!"), None);
    }

    #[test]
    fn the_nearest_key_is_proposed_only_when_it_is_near() {
        let keys = ["weights", "assets", "limits"];
        assert_eq!(nearest("weigths", keys), Some("weights"));
        assert_eq!(nearest("Limit", keys), Some("limits"));
        assert_eq!(nearest("banana", keys), None);
    }
}
