//! The connections that may be open at once. When there are no more places, whoever has waited longest without sending a request makes
//! room, so that idle clients, and those that send a head a byte a minute, keep nobody out.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// How long a connection has to be idle before it makes room: its last reply is with its client by then.
const IDLE: Duration = Duration::from_secs(1);

/// How often somebody who is idle is looked for while somebody waits for a place.
const LOOK: Duration = Duration::from_millis(20);

/// See the module.
pub(crate) struct Connections {
    most: usize,
    places: Arc<Semaphore>,
    /// Those that serve no request, the one that is idle longest first.
    idle: Mutex<BTreeMap<u64, (Instant, Arc<Notify>)>>,
    next: AtomicU64,
}

impl Connections {
    /// Places for so many.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            places: Arc::new(Semaphore::new(most)),
            idle: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.most.saturating_sub(self.places.available_permits())
    }

    /// A place for a connection that has just come, once there is one.
    pub(crate) async fn place(self: &Arc<Self>) -> Option<Arc<Place>> {
        if self.places.available_permits() == 0 {
            self.make_room();
        }
        let mut waiting = std::pin::pin!(Arc::clone(&self.places).acquire_owned());
        let permit = loop {
            match tokio::time::timeout(LOOK, &mut waiting).await {
                Ok(permit) => break permit.ok()?,
                Err(_) => self.make_room(),
            }
        };
        let place = Arc::new(Place {
            of: Arc::clone(self),
            number: AtomicU64::new(0),
            leave: Arc::default(),
            _permit: permit,
        });
        place.is_idle();
        Some(place)
    }

    /// Sends away whoever is idle longest.
    fn make_room(&self) {
        let mut idle = self.lock();
        if let Some(oldest) = idle.first_entry()
            && oldest.get().0.elapsed() >= IDLE
        {
            let (_, leave) = oldest.remove();
            leave.notify_one();
        }
    }

    /// The map is whole whenever the lock is free.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (Instant, Arc<Notify>)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place, given back when dropped.
pub(crate) struct Place {
    of: Arc<Connections>,
    /// Its number among the idle ones, since it was idle last.
    number: AtomicU64,
    leave: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// It has sent a request.
    pub(crate) fn is_busy(&self) {
        self.of.lock().remove(&self.number.load(Ordering::Relaxed));
    }

    /// It has its reply, or has just come.
    fn is_idle(&self) {
        let number = self.of.next.fetch_add(1, Ordering::Relaxed);
        self.number.store(number, Ordering::Relaxed);
        let entry = (Instant::now(), Arc::clone(&self.leave));
        self.of.lock().insert(number, entry);
    }

    /// Waits until it has to make room.
    pub(crate) async fn leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.is_busy();
    }
}

/// A reply's body: when it has been sent, or given up, its connection is idle again.
pub(crate) struct Sent {
    body: Body,
    place: Arc<Place>,
    /// Ends the connection of a reply that is not read in time.
    late: Option<AbortHandle>,
}

impl Sent {
    /// The body of a reply to a request that made its connection busy, to be read within a time if one is given.
    pub(crate) fn new(body: Body, place: Arc<Place>, time: Option<Duration>) -> Self {
        let late = time.map(|time| {
            let leave = Arc::clone(&place.leave);
            let late = tokio::spawn(async move {
                tokio::time::sleep(time).await;
                leave.notify_one();
            });
            late.abort_handle()
        });
        Self { body, place, late }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(late) = &self.late {
            late.abort();
        }
        self.place.is_idle();
    }
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
