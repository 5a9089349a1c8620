//! What is known of models beside their versions: cards, deployments, collections, and how well each fits a search.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::names::VersionId;

/// What a model's owner says of it. Absent is what nobody said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Card {
    /// In place of the newest version's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// Markdown, in place of the version's model card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) readme: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) github_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) paper_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) weights_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) license_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cover_image_url: Option<String>,
}

/// A named pointer to a version, as its last release says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deployment {
    pub(crate) owner: Arc<str>,
    pub(crate) name: String,
    /// Counts releases from 1.
    pub(crate) number: u32,
    /// `owner/name`.
    pub(crate) model: String,
    pub(crate) version: VersionId,
    pub(crate) hardware: String,
    pub(crate) min_instances: u32,
    pub(crate) max_instances: u32,
    /// Unix milliseconds, of this release.
    pub(crate) created_at: i64,
    /// Whose token made this release.
    pub(crate) created_by: String,
}

/// Models that an operator shows together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Collection {
    #[serde(default)]
    pub(crate) slug: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) full_description: Option<String>,
    /// `owner/name` of each.
    #[serde(default)]
    pub(crate) models: Vec<String>,
}

/// How well a text fits a search, from 0 (not at all) to 1. Every word of the search has to occur; names count more than
/// descriptions, whole words more than parts.
pub(crate) fn score(query: &str, name: &str, description: &str) -> f64 {
    let (query, name, description) = (query.to_lowercase(), name.to_lowercase(), description.to_lowercase());
    let words: Vec<&str> = query
        .split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .collect();
    if words.is_empty() {
        return 0.0;
    }
    let fit = |text: &str, word: &str| {
        if text.split(|c: char| !c.is_alphanumeric()).any(|part| part == word) {
            1.0
        } else if text.contains(word) {
            0.6
        } else {
            0.0
        }
    };
    let mut sum = 0.0;
    for word in &words {
        let best = f64::max(fit(&name, word), 0.5 * fit(&description, word));
        if best == 0.0 {
            return 0.0;
        }
        sum += best;
    }
    sum / words.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_more_than_descriptions_and_words_more_than_parts() {
        let all = [
            score("whisper", "openai/whisper", ""),
            score("whisp", "openai/whisper", ""),
            score("speech", "openai/whisper", "Speech to text"),
            score("spee", "openai/whisper", "Speech to text"),
            score("image", "openai/whisper", "Speech to text"),
        ];
        assert_eq!(all, [1.0, 0.6, 0.5, 0.3, 0.0]);
        assert_eq!(score("whisper speech", "openai/whisper", "Speech to text"), 0.75);
        assert_eq!(
            score("whisper image", "openai/whisper", ""),
            0.0,
            "every word has to occur"
        );
        assert_eq!(score(" -- ", "a/b", ""), 0.0);
    }
}
