//! What a version brings along beside its code, as `load` sees it.

use serde::de::DeserializeOwned;

use crate::bindings::maquette::model::{assets, weights as host};
use crate::error::from_host;
use crate::weights::Weights;
use crate::{Context as _, Error, Result};

/// The assets and weights of a version, by their names in `maquette.toml`.
pub struct Package(());

impl Package {
    pub(crate) fn new() -> Self {
        Self(())
    }

    /// The bytes of an asset.
    ///
    /// # Errors
    /// If there is no such asset; the message names those there are.
    pub fn asset(&self, name: &str) -> Result<Vec<u8>> {
        assets::read(name).map_err(from_host)
    }

    /// The text of an asset.
    ///
    /// # Errors
    /// If there is no such asset, or it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<String> {
        String::from_utf8(self.asset(name)?).context(format!("asset `{name}`"))
    }

    /// An asset that is JSON.
    ///
    /// # Errors
    /// If there is no such asset, or it does not fit the type.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_slice(&self.asset(name)?).context(format!("asset `{name}`"))
    }

    /// A weight file.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn weights(&self, file: &str) -> Result<Weights> {
        let files = host::files();
        if files.iter().any(|name| name == file) {
            return Ok(Weights::new(file));
        }
        let names = if files.is_empty() {
            "none".to_owned()
        } else {
            files.join(", ")
        };
        Err(Error::unsupported(format!(
            "there is no weight file `{file}` in [weights] of maquette.toml; there are: {names}"
        )))
    }

    /// A tokenizer from an asset in the format of `tokenizer.json`.
    ///
    /// # Errors
    /// If there is no such asset, or it is a tokenizer of another kind.
    #[cfg(feature = "text")]
    pub fn tokenizer(&self, name: &str) -> Result<crate::text::Tokenizer> {
        crate::text::Tokenizer::from_json(&self.asset(name)?).context(format!("asset `{name}`"))
    }

    /// The tokenizer inside a GGUF file.
    ///
    /// # Errors
    /// If there is no such file, or its tokenizer is of another kind; the message says which key.
    #[cfg(feature = "text")]
    pub fn gguf_tokenizer(&self, file: &str) -> Result<crate::text::Tokenizer> {
        let weights = self.weights(file)?;
        let text = |key: &str| weights.metadata(&format!("tokenizer.ggml.{key}"));
        fn list<T: DeserializeOwned>(text: Option<String>, key: &str) -> Result<Option<T>> {
            let parse = |text: String| serde_json::from_str(&text).context(format!("tokenizer.ggml.{key}"));
            text.map(parse).transpose()
        }
        let id = |key: &str| -> Result<Option<u32>> { Ok(text(key)?.and_then(|id| id.parse().ok())) };
        let flag = |key: &str| -> Result<Option<bool>> { Ok(text(key)?.map(|flag| flag == "true")) };
        crate::text::Tokenizer::from_gguf(crate::text::GgufVocab {
            model: text("model")?.unwrap_or_default(),
            pre: text("pre")?.unwrap_or_default(),
            tokens: list(text("tokens")?, "tokens")?.unwrap_or_default(),
            token_types: list(text("token_type")?, "token_type")?.unwrap_or_default(),
            scores: list(text("scores")?, "scores")?,
            merges: list(text("merges")?, "merges")?.unwrap_or_default(),
            bos: id("bos_token_id")?,
            eos: id("eos_token_id")?,
            unk: id("unknown_token_id")?,
            add_bos: flag("add_bos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
        })
        .context(format!("weight file `{file}`"))
    }
}
