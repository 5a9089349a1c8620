//! Files of an output: kept for a while, and named by signed URLs.

use std::sync::Arc;

use maquette_sandbox::OutputFile;

use super::{Files, Kind, New, disk_problem, media_type, records};
use crate::problem::Problem;
use crate::store::StoreError;

impl Files {
    /// Keeps files of a prediction's output, each under a name without its extension; returns the absolute, signed URL of each.
    ///
    /// # Errors
    /// 507 if the owner's quota or the disk is full; then none of them is kept.
    pub(crate) async fn keep_outputs(
        &self,
        owner: &Arc<str>,
        prediction_id: &str,
        made: Vec<(String, OutputFile)>,
        origin: &str,
    ) -> Result<Vec<String>, Problem> {
        if made.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = made
            .iter()
            .map(|(_, file)| file.bytes.len() as u64 + records::OVERHEAD)
            .sum();
        self.check_room(owner, bytes).await?;
        let (disk, owner, prediction) = (self.disk.clone(), Arc::clone(owner), prediction_id.to_owned());
        let work = tokio::task::spawn_blocking(move || {
            let write = |(name, file): (String, OutputFile)| {
                let mut incoming = disk.incoming()?;
                incoming.write(&file.bytes)?;
                let content_type = media_type(&file.media_type);
                let new = New {
                    owner: Arc::clone(&owner),
                    kind: Kind::Output,
                    prediction_id: Some(prediction.clone()),
                    name: format!("{name}{}", extension(&content_type)),
                    content_type,
                    metadata: "{}".to_owned(),
                };
                Ok((new, incoming))
            };
            made.into_iter().map(write).collect::<std::io::Result<Vec<_>>>()
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
