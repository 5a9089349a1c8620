//! Files in inputs and outputs: images, audio, anything that does not belong into JSON.

use std::cell::RefCell;

use serde_json::{Value, json};

use crate::Result;
use crate::bindings::maquette::model::files::{InputFile, OutputFile};
use crate::error::from_host;
use crate::input::Field;
use crate::output::{Output, write_text};

/// Bytes read or written in one call to the host.
const CHUNK: u64 = 1 << 20;

/// A file: as a field of an input, what the caller sent; as an output, what [`File::create`] and [`FileWriter::finish`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    reference: String,
}

impl File {
    /// All of it.
    ///
    /// # Errors
    /// If it is no file of this call's input.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let file = InputFile::open(&self.reference).map_err(from_host)?;
        let size = file.size();
        let mut bytes = Vec::with_capacity(size as usize);
        while (bytes.len() as u64) < size {
            let part = file.read(bytes.len() as u64, CHUNK).map_err(from_host)?;
            if part.is_empty() {
                break;
            }
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }

    /// What the caller says it is, such as `image/png`. Not to be trusted.
    ///
    /// # Errors
    /// If it is no file of this call's input.
    pub fn media_type(&self) -> Result<String> {
        Ok(InputFile::open(&self.reference).map_err(from_host)?.media_type())
    }

    /// Starts a file of the output.
    ///
    /// # Errors
    /// If there are too many.
    pub fn create(media_type: &str) -> Result<FileWriter> {
        Ok(FileWriter {
            inner: RefCell::new(OutputFile::create(media_type).map_err(from_host)?),
        })
    }

    /// A file of the output, written at once.
    ///
    /// # Errors
    /// If it exceeds the limit of output files.
    pub fn new(media_type: &str, bytes: &[u8]) -> Result<Self> {
        let writer = Self::create(media_type)?;
        writer.write(bytes)?;
        writer.finish()
    }
}

/// A file that is being written.
pub struct FileWriter {
    inner: RefCell<OutputFile>,
}

impl FileWriter {
    /// Appends bytes.
    ///
    /// # Errors
    /// If they exceed the limit of output files.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        bytes
            .chunks(CHUNK as usize)
            .try_for_each(|part| self.inner.borrow().write(part).map_err(from_host))
    }

    /// Ends the file; put the result into the output.
    ///
    /// # Errors
    /// If there are too many.
    pub fn finish(self) -> Result<File> {
        Ok(File {
            reference: OutputFile::finish(self.inner.into_inner()).map_err(from_host)?,
        })
    }
}

impl Field for File {
    fn schema() -> Value {
        json!({"type": "string", "format": "uri"})
    }

    fn from_json(value: &Value) -> Result<Self, String> {
        Ok(Self {
            reference: String::from_json(value)?,
        })
    }
}

impl Output for File {
    fn schema() -> Value {
        json!({"type": "string", "format": "uri"})
    }

    fn write_json(&self, out: &mut String) {
        write_text(&self.reference, out);
    }
}
