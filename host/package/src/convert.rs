//! Weights in another container than safetensors, rewritten as that. The same bytes in give the same bytes out, always.

mod ctranslate2;
mod safetensors;
mod tensors;

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::{Error, Note, Result};

/// How a source is converted: `convert = "…"` in `maquette.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Convert {
    /// From CTranslate2's `model.bin` to safetensors.
    ///
    /// Names, shapes and types stay; settings of one integer become tensors of rank 0. What CTranslate2 calls an alias is in the
    /// metadata, `alias.NAME` = the name of the tensor that it stands for, next to `ctranslate2.spec` and
    /// `ctranslate2.revision`. Quantized weights are refused.
    Ctranslate2,
}

impl Convert {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::Ctranslate2];

    /// What `maquette.toml` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ctranslate2 => "ctranslate2",
        }
    }

    /// What results are remembered under; another number for another result from the same bytes.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Ctranslate2 => "ctranslate2-1",
        }
    }

    /// Converts the file at `path`, which errors call `shown`, and tells `moved` how many bytes of tensors are done. Memory is
    /// bounded whatever the file says. Failures to write are [`Error::Io`] of `place`.
    pub(crate) fn run(
        self,
        path: &Path,
        shown: &str,
        place: &Path,
        out: &mut dyn Write,
        moved: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let size = file.metadata().map_err(Error::io("read", path))?.len();
        let index = match self {
            Self::Ctranslate2 => ctranslate2::read(&mut file, size),
        };
        let index = index.map_err(|what| {
            let help = "name a file of that kind in `source`, or leave out `convert`";
            Error::Source(Note::new(shown, format!("it cannot be converted: {what}"), help))
        })?;
        safetensors::write(&index, &mut file, path, place, out, moved)
    }
}

impl fmt::Display for Convert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Convert {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|c| c.name() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|c| format!("\"{c}\"")).collect();
            format!("`convert` is \"{text}\"; there is {}", known.join(", "))
        })
    }
}

impl Serialize for Convert {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
