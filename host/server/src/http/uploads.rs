//! The uploads that may be on their way at once, files of callers and blobs of publishers: so many of each owner, and so many in all.
//! Each may hold a few pieces of a body in memory, and a file that is not whole yet.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::keyed::Keyed;
use crate::problem::Problem;

/// In all.
const ALL: usize = 32;

/// Of one owner.
const EACH: usize = 8;

/// See the module.
pub(crate) struct Uploads {
    all: Arc<Semaphore>,
    each: Keyed,
}

/// An upload's place, given back when dropped.
pub(super) struct Place {
    _of_owner: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Uploads {
    pub(crate) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ALL)),
            each: Keyed::new(EACH),
        }
    }

    pub(super) fn place(&self, owner: &str) -> Result<Place, Problem> {
        let of_owner = self.each.try_acquire(owner).ok_or_else(|| {
            let detail = "your other uploads are still on their way; wait for some to end";
            let title = "Too many requests";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, title, "too-many-uploads", detail).retry_after(1)
        })?;
        let of_all = Arc::clone(&self.all).try_acquire_owned();
        let of_all = of_all.map_err(|_| Problem::busy("other uploads are on their way; try again in a moment", 2))?;
        Ok(Place {
            _of_owner: of_owner,
            _of_all: of_all,
        })
    }
}
