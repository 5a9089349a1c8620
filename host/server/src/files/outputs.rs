//! Files of an output: kept for a while, and named in the output by signed URLs.

use std::sync::Arc;

use maquette_sandbox::OutputFile;
use serde_json::Value;

use super::{Files, Kind, New, disk_problem, media_type, records};
use crate::engine::files;
use crate::problem::Problem;
use crate::store::StoreError;

impl Files {
    /// Keeps the files of a prediction's output and puts the absolute, signed URL of each where the output refers to it.
    ///
    /// # Errors
    /// 507 if the owner's quota or the disk is full; then nothing is kept and the output is as it was.
    pub(crate) async fn keep_outputs(
        &self,
        owner: &Arc<str>,
        prediction_id: &str,
        output: &mut Value,
        made: Vec<OutputFile>,
        origin: &str,
    ) -> Result<(), Problem> {
        let urls = self.keep_output_files(owner, prediction_id, made, origin).await?;
        put_urls(output, &urls);
        Ok(())
    }

    /// Keeps the files of a prediction's output; returns the URL of each, for [`put_urls`].
    ///
    /// # Errors
    /// As [`Files::keep_outputs`].
    pub(crate) async fn keep_output_files(
        &self,
        owner: &Arc<str>,
        prediction_id: &str,
        made: Vec<OutputFile>,
        origin: &str,
    ) -> Result<Vec<String>, Problem> {
        if made.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = made
            .iter()
            .map(|file| file.bytes.len() as u64 + records::OVERHEAD)
            .sum();
        self.check_room(owner, bytes).await?;
        let (disk, owner, prediction) = (self.disk.clone(), Arc::clone(owner), prediction_id.to_owned());
        let work = tokio::task::spawn_blocking(move || {
            let one = made.len() == 1;
            let write = |(i, file): (usize, OutputFile)| {
                let mut incoming = disk.incoming()?;
                incoming.write(&file.bytes)?;
                let content_type = media_type(&file.media_type);
                let number = if one { String::new() } else { format!("-{i}") };
                let new = New {
                    owner: Arc::clone(&owner),
                    kind: Kind::Output,
                    prediction_id: Some(prediction.clone()),
                    name: format!("output{number}{}", extension(&content_type)),
                    content_type,
                    metadata: "{}".to_owned(),
                };
                Ok((new, incoming))
            };
            made.into_iter()
                .enumerate()
                .map(write)
                .collect::<std::io::Result<Vec<_>>>()
        });
        let written = work.await.map_err(Problem::internal)?.map_err(|e| disk_problem(&e))?;
        let kept = self.keep(written).await?;
        Ok(kept.iter().map(|file| self.download_url(origin, file)).collect())
    }

    /// Removes the files of a prediction's output, as when its data is removed.
    pub(crate) async fn delete_outputs(&self, owner: &str, prediction_id: &str) -> Result<(), StoreError> {
        let (owner, prediction) = (owner.to_owned(), prediction_id.to_owned());
        let gone = self
            .store
            .write(move |c| records::delete_outputs(c, &owner, &prediction))
            .await?;
        self.remove_all(gone).await;
        Ok(())
    }
}

/// Puts the URLs of files where an output, or an item of a streamed one, refers to them. A reference to a file that is not there
/// stays.
pub(crate) fn put_urls(output: &mut Value, urls: &[String]) {
    files::replace(output, &|index| urls.get(index).cloned());
}

/// What a file's name ends with, for people's programs.
fn extension(content_type: &str) -> &'static str {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    match essence {
        "image/png" => ".png",
        "image/jpeg" => ".jpg",
        "image/webp" => ".webp",
        "image/gif" => ".gif",
        "image/svg+xml" => ".svg",
        "audio/wav" | "audio/x-wav" => ".wav",
        "audio/mpeg" => ".mp3",
        "audio/flac" => ".flac",
        "audio/ogg" => ".ogg",
        "video/mp4" => ".mp4",
        "text/plain" => ".txt",
        "text/csv" => ".csv",
        "text/html" => ".html",
        "text/markdown" => ".md",
        "application/json" => ".json",
        "application/pdf" => ".pdf",
        "application/zip" => ".zip",
        _ => "",
    }
}
