//! The special tokens of Whisper, which its sizes of vocabulary tell apart.

use maquette::{Error, Result, Value};

/// Languages by their tokens' order, as OpenAI's `tokenizer.py` lists them.
pub(crate) const LANGUAGES: [&str; 100] = [
    "en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv", "it", "id", "hi", "fi",
    "vi", "he", "uk", "el", "ms", "cs", "ro", "da", "hu", "ta", "no", "th", "ur", "hr", "bg", "lt", "la", "mi", "ml",
    "cy", "sk", "te", "fa", "lv", "bn", "sr", "az", "sl", "kn", "et", "mk", "br", "eu", "is", "hy", "ne", "mn", "bs",
    "kk", "sq", "sw", "gl", "mr", "pa", "si", "km", "sn", "yo", "so", "af", "oc", "ka", "be", "tg", "sd", "gu", "am",
    "yi", "lo", "uz", "fo", "ht", "ps", "tk", "nn", "mt", "sa", "lb", "my", "bo", "tl", "mg", "as", "tt", "haw", "ln",
    "ha", "ba", "jw", "su", "yue",
];

/// Tokens that are not text.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    pub(crate) end: u32,
    pub(crate) start: u32,
    /// How many languages it knows; 0 if English alone, which has no token then.
    pub(crate) languages: usize,
    pub(crate) translate: u32,
    pub(crate) transcribe: u32,
    pub(crate) no_speech: u32,
    pub(crate) no_timestamps: u32,
    /// `<|0.00|>`; each after it is 20 ms later.
    pub(crate) time: u32,
    /// Never chosen.
    pub(crate) suppressed: Vec<u32>,
    /// Never chosen first.
    pub(crate) suppressed_first: Vec<u32>,
}

impl Vocabulary {
    /// Of a model with so many tokens; `config` says which are never chosen, as CTranslate2 and transformers have it.
    pub(crate) fn new(size: usize, config: &Value) -> Result<Self> {
        // The text, and what follows it: end, start, languages, six marks, and 1,501 times.
        let (text, languages) = match size {
            51_864 => (50_256, 0),
            51_865 => (50_257, 99),
            51_866 => (50_257, 100),
            _ => {
                return Err(Error::unsupported(format!(
                    "no Whisper has a vocabulary of {size} tokens"
                )));
            }
        };
        // English models have a token for each language too, which they never use.
        let marks = text + 2 + if languages == 0 { 99 } else { languages as u32 };
        let list = |names: [&str; 2]| -> Vec<u32> {
            let found = names.iter().find_map(|name| config[*name].as_array());
            let ids = found.into_iter().flatten().filter_map(Value::as_u64);
            ids.filter_map(|id| u32::try_from(id).ok()).collect()
        };
        Ok(Self {
            end: text,
            start: text + 1,
            languages,
            translate: marks,
            transcribe: marks + 1,
            no_speech: marks + 4,
            no_timestamps: marks + 5,
            time: marks + 6,
            suppressed: list(["suppress_ids", "suppress_tokens"]),
            suppressed_first: list(["suppress_ids_begin", "begin_suppress_tokens"]),
        })
    }

    /// The token of a language.
    pub(crate) fn language(&self, code: &str) -> Option<u32> {
        let at = LANGUAGES.iter().position(|known| *known == code)?;
        (at < self.languages).then(|| self.start + 1 + at as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_where_openai_has_them() -> Result<()> {
        let english = Vocabulary::new(51_864, &Value::Null)?;
        assert_eq!(
            (english.end, english.start, english.no_timestamps, english.time),
            (50_256, 50_257, 50_362, 50_363)
        );
        let many = Vocabulary::new(51_865, &Value::Null)?;
        assert_eq!(
            (
                many.end,
                many.start,
                many.translate,
                many.transcribe,
                many.no_speech,
                many.no_timestamps,
                many.time
            ),
            (50_257, 50_258, 50_358, 50_359, 50_362, 50_363, 50_364)
        );
        assert_eq!(
            (many.language("en"), many.language("fr"), english.language("en")),
            (Some(50_259), Some(50_265), None)
        );
        let large = Vocabulary::new(51_866, &Value::Null)?;
        assert_eq!((large.time, large.language("yue")), (50_365, Some(50_358)));
        assert!(Vocabulary::new(1000, &Value::Null).is_err());
        Ok(())
    }
}
