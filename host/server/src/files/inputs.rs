//! Files of an input: found by the schema, fetched from wherever their URIs lead, and replaced by references.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

use super::links::{self, Own};
use super::{File, Files};
use crate::engine::{InputFile, files};
use crate::http::body::Reserved;
use crate::outbound::{Limits, OutboundError};
use crate::problem::Problem;
use crate::schema::FieldError;

/// Files of one input that are read or fetched at once.
const AT_ONCE: usize = 4;

/// Files of one input that may be named by URL; `data:` URIs are bounded by the body that they came in.
const MAX_URLS: usize = 64;

/// `data:` URIs beyond this are decoded on a blocking thread.
const LARGE_URI: usize = 256 << 10;

/// What the files of one input may have together, and the server's memory that they take meanwhile.
#[derive(Clone, Debug)]
struct Purse(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    left: u64,
    limit: u64,
    memory: Reserved,
}

impl Purse {
    fn pay(&self, bytes: u64) -> Result<(), Problem> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = inner.left.checked_sub(bytes) else {
            let limit = inner.limit;
            let detail = format!("the files of one input may have at most {limit} bytes together");
            return Err(Problem::unprocessable("input-files-too-large", detail));
        };
        inner.memory.grow(bytes)?;
        inner.left = left;
        Ok(())
    }
}

/// Why a file could not be had.
enum Refusal {
    /// The field is wrong, in these words.
    Field(String),
    /// The whole request is refused.
    Whole(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Whole(problem)
    }
}

impl Files {
    /// The file that a URI of an input stands for: a `data:` URI; a URL of a file of this server, which must be the owner's own or
    /// signed; or any other public URL, fetched. `origin` is where the caller reaches the server (see [`crate::http::origin`]).
    ///
    /// # Errors
    /// 422 naming the field; 503 when memory is short.
    #[cfg(test)]
    pub(crate) async fn resolve(
        &self,
        owner: &Arc<str>,
        origin: &str,
        field: &str,
        uri: &str,
    ) -> Result<InputFile, Problem> {
        self.find(owner, origin, uri.to_owned(), &self.purse())
            .await
            .map_err(|refusal| match refusal {
                Refusal::Field(message) => Problem::invalid_input(&[FieldError {
                    field: field.to_owned(),
                    message,
                }]),
                Refusal::Whole(problem) => problem,
            })
    }

    /// Takes the files out of an input: every string whose schema says `format: uri` becomes a reference to the file at that index
    /// of the result. After an error the input is of no use.
    ///
    /// # Errors
    /// 422 naming every field whose file could not be had, or saying that there are too many or too large ones; 503 when memory is
    /// short.
    pub(crate) async fn extract_inputs(
        &self,
        owner: &Arc<str>,
        origin: &str,
        schema: &Value,
        input: &mut Value,
    ) -> Result<Vec<InputFile>, Problem> {
        let found = files::find(schema, input).into_iter().enumerate();
        let places: Vec<_> = found
            .map(|(i, place)| (place.field, std::mem::replace(place.uri, files::reference(i))))
            .collect();
        let urls = places.iter().filter(|(_, uri)| !is_data(uri));
        if urls.count() > MAX_URLS {
            let detail = format!("an input may name at most {MAX_URLS} files by URL");
            return Err(Problem::unprocessable("too-many-files", detail));
        }
        let purse = &self.purse();
        let each = places
            .into_iter()
            .map(async |(field, uri)| match self.find(owner, origin, uri, purse).await {
                Ok(file) => Ok(Ok(file)),
                Err(Refusal::Field(message)) => Ok(Err(FieldError { field, message })),
                Err(Refusal::Whole(problem)) => Err(problem),
            });
        let all: Vec<_> = futures::stream::iter(each).buffered(AT_ONCE).try_collect().await?;
        let (mut good, mut bad) = (Vec::with_capacity(all.len()), Vec::new());
        for one in all {
            match one {
                Ok(file) => good.push(file),
                Err(error) => bad.push(error),
            }
        }
        if bad.is_empty() {
            Ok(good)
        } else {
            Err(Problem::invalid_input(&bad))
        }
    }

    fn purse(&self) -> Purse {
        Purse(Arc::new(Mutex::new(Inner {
            left: self.limits.input,
            limit: self.limits.input,
            memory: self.memory.reserve(),
        })))
    }

    async fn find(&self, owner: &Arc<str>, origin: &str, uri: String, purse: &Purse) -> Result<InputFile, Refusal> {
        if is_data(&uri) {
            let decoded = if uri.len() > LARGE_URI {
                let work = tokio::task::spawn_blocking(move || files::decode(&uri));
                work.await.map_err(Problem::internal)?
            } else {
                files::decode(&uri)
            };
            let file = decoded.map_err(Refusal::Field)?;
            purse.pay(file.bytes.len() as u64)?;
            return Ok(file);
        }
        let origins = [self.limits.public_url.as_deref().unwrap_or_default(), origin];
        let own = url::Url::parse(&uri).ok().and_then(|url| links::own(&url, &origins));
        let Some(own) = own else {
            return self.fetch(owner, &uri, purse).await;
        };
        let file = match own {
            Own::Metadata(id) => self.get(owner, &id).await,
            Own::Signed(link) => self.by_link(&link).await,
            Own::Other => {
                let message =
                    "this is an address of this server, but not that of a file: use what `urls.get` of a file says";
                return Err(Refusal::Field(message.to_owned()));
            }
        };
        match file {
            Ok(file) => self.read(file, purse).await,
            Err(problem) if problem.code() == "not-found" => Err(Refusal::Field(
                "this file was not found: it may have expired, or belong to somebody else".to_owned(),
            )),
            Err(problem) => Err(Refusal::Whole(problem)),
        }
    }

    async fn read(&self, file: File, purse: &Purse) -> Result<InputFile, Refusal> {
        purse.pay(file.sums.size)?;
        let mut bytes = Vec::with_capacity(usize::try_from(file.sums.size).unwrap_or(0));
        let open = self.bytes(&file.id).await?;
        let read = open.take(file.sums.size).read_to_end(&mut bytes).await;
        read.map_err(Problem::internal)?;
        Ok(InputFile {
            media_type: file.content_type,
            bytes: bytes.into(),
        })
    }

    async fn fetch(&self, owner: &Arc<str>, uri: &str, purse: &Purse) -> Result<InputFile, Refusal> {
        let limits = Limits {
            bytes: self.limits.file,
            time: self.limits.fetch,
        };
        let paid = purse.clone();
        let charge = Box::new(move |bytes| paid.pay(bytes));
        match self.outbound.fetch(owner, uri, limits, charge).await {
            Ok(fetched) => Ok(InputFile {
                media_type: super::media_type(&fetched.media_type),
                bytes: fetched.bytes.into(),
            }),
            Err(OutboundError::Charged(problem)) => Err(Refusal::Whole(problem)),
            Err(e) => Err(Refusal::Field(format!("the file could not be fetched: {e}"))),
        }
    }
}

fn is_data(uri: &str) -> bool {
    uri.starts_with("data:")
}
