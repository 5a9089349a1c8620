//! `files`: large binary values of a call, beside its JSON.

use maquette_tensor::ops::Error;
use wasmtime::component::Resource;

use super::{stale, too_many};
use crate::bindings::maquette::model::files;
use crate::bindings::{InputHandle, OutputHandle};
use crate::call::{Event, InputFile, OutputFile};
use crate::files::{index, printable, reference};
use crate::state::{Draft, HostError, State};

impl State {
    fn input(&self, handle: &Resource<InputHandle>) -> wasmtime::Result<&InputFile> {
        let at = self.inputs.get(handle.rep()).ok_or_else(|| stale("file"))?;
        self.files.get(*at).ok_or_else(|| stale("file"))
    }
}

impl files::Host for State {}

impl files::HostInputFile for State {
    fn open(&mut self, reference: String) -> Result<Resource<InputHandle>, HostError> {
        self.enter("files.input-file.open")?;
        let at = index(&reference).filter(|at| *at < self.files.len()).ok_or_else(|| {
            Error::invalid_input(
                "this is not a reference to a file of the input: pass what a `format: uri` field holds",
            )
        })?;
        let handle = self.inputs.insert(at).ok_or_else(|| too_many("open files"))?;
        Ok(Resource::new_own(handle))
    }

    fn size(&mut self, this: Resource<InputHandle>) -> wasmtime::Result<u64> {
        self.enter("files.input-file.size")?;
        Ok(self.input(&this)?.bytes.len() as u64)
    }

    fn media_type(&mut self, this: Resource<InputHandle>) -> wasmtime::Result<String> {
        self.enter("files.input-file.media-type")?;
        Ok(self.input(&this)?.media_type.clone())
    }

    fn read(&mut self, this: Resource<InputHandle>, offset: u64, len: u64) -> Result<Vec<u8>, HostError> {
        self.enter("files.input-file.read")?;
        let bytes = &self.input(&this)?.bytes;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start
            .saturating_add(usize::try_from(len).unwrap_or(usize::MAX))
            .min(bytes.len());
        Ok(bytes[start..end].to_vec())
    }

    fn drop(&mut self, this: Resource<InputHandle>) -> wasmtime::Result<()> {
        self.inputs.remove(this.rep()).map(drop).ok_or_else(|| stale("file"))
    }
}

impl files::HostOutputFile for State {
    fn create(&mut self, media_type: String) -> Result<Resource<OutputHandle>, HostError> {
        self.enter("files.output-file.create")?;
        let draft = Draft {
            media_type: printable(&media_type),
            bytes: Vec::new(),
        };
        let handle = self.outputs.insert(draft).ok_or_else(|| too_many("output files"))?;
        Ok(Resource::new_own(handle))
    }

    fn write(&mut self, this: Resource<OutputHandle>, data: Vec<u8>) -> Result<(), HostError> {
        self.enter("files.output-file.write")?;
        let limit = self.package.limits.file_bytes;
        let wanted = self.file_bytes.saturating_add(data.len() as u64);
        if wanted > limit {
            return Err(Error::quota(format!("output files would take {wanted} bytes; the limit is {limit}")).into());
        }
        self.keep(wanted.saturating_add(self.output_bytes))?;
        self.file_bytes = wanted;
        self.outputs
            .get_mut(this.rep())
            .ok_or_else(|| stale("file"))?
            .bytes
            .extend_from_slice(&data);
        Ok(())
    }

    fn finish(&mut self, file: Resource<OutputHandle>) -> Result<String, HostError> {
        self.enter("files.output-file.finish")?;
        if self.finished.len() >= crate::slab::MAX_LIVE as usize {
            return Err(too_many("output files").into());
        }
        let draft = self.outputs.remove(file.rep()).ok_or_else(|| stale("file"))?;
        let file = OutputFile {
            media_type: draft.media_type,
            bytes: draft.bytes.into(),
        };
        if let Some(events) = &mut self.events {
            events(Event::File(file.clone()));
        }
        self.finished.push(file);
        Ok(reference(self.finished.len() - 1))
    }

    fn drop(&mut self, this: Resource<OutputHandle>) -> wasmtime::Result<()> {
        let file = self.outputs.remove(this.rep()).ok_or_else(|| stale("file"))?;
        self.file_bytes -= file.bytes.len() as u64;
        Ok(())
    }
}
