//! Files of an output: kept where callers find them, those of an item as it comes, so that whoever watches has an item's files with it.

use std::cell::RefCell;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Fuse};
use serde_json::Value;

use super::live::Live;
use super::record::Prediction;
use crate::app::App;
use crate::engine::{OutputFile, files};

/// An output with its files where callers find them.
pub(super) struct Placed {
    /// JSON.
    pub(super) json: String,
    /// The items of an iterator's.
    pub(super) items: Option<Vec<Arc<str>>>,
}

/// Keeps the files of one prediction's output, each once.
pub(super) struct Placer {
    owner: Arc<str>,
    id: Arc<str>,
    origin: String,
    /// In the order in which they were made.
    made: Vec<OutputFile>,
    /// The URL of each that is kept.
    urls: Vec<Option<String>>,
    /// Why one could not be kept, which ends the prediction.
    pub(super) failed: Option<String>,
}

impl Placer {
    /// Of a prediction that has made nothing yet.
    pub(super) fn new(row: &Prediction) -> Self {
        Self {
            owner: Arc::clone(&row.owner),
            id: Arc::clone(&row.id),
            origin: row.origin.clone(),
            made: Vec::new(),
            urls: Vec::new(),
            failed: None,
        }
    }

    /// The whole output, once it is there. All its files are kept, referred to or not.
    ///
    /// # Errors
    /// Why a file could not be kept.
    pub(super) async fn whole(
        mut self,
        app: &App,
        json: &str,
        made: &[OutputFile],
        iterator: bool,
    ) -> Result<Placed, String> {
        if let Some(why) = self.failed {
            return Err(why);
        }
        if made.is_empty() && !iterator {
            let json = json.to_owned();
            return Ok(Placed { json, items: None });
        }
        let mut value: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
        self.take(made.get(self.made.len()..).unwrap_or_default());
        self.keep(app, (0..self.made.len()).collect()).await?;
        self.name(&mut value);
        let items = match &value {
            Value::Array(list) if iterator => Some(list.iter().map(|item| item.to_string().into()).collect()),
            _ => None,
        };
        let json = value.to_string();
        Ok(Placed { json, items })
    }

    /// Keeps the files that items refer to, then shows the items.
    async fn items(mut self, app: Arc<App>, live: Arc<Live>, made: Vec<OutputFile>, items: Vec<String>) -> Self {
        self.take(&made);
        if self.failed.is_some() {
            return self;
        }
        // A guest's item was JSON when it came.
        let mut items: Vec<Value> = items
            .iter()
            .filter_map(|item| serde_json::from_str(item).ok())
            .collect();
        let wanted = RefCell::new(Vec::new());
        for item in &mut items {
            files::replace(item, &|index| {
                wanted.borrow_mut().push(index);
                None
            });
        }
        if let Err(why) = self.keep(&app, wanted.into_inner()).await {
            self.failed = Some(why);
            return self;
        }
        items.iter_mut().for_each(|item| self.name(item));
        live.show(items.iter().map(|item| item.to_string().into()).collect());
        self
    }

    fn take(&mut self, made: &[OutputFile]) {
        self.made.extend_from_slice(made);
        self.urls.resize(self.made.len(), None);
    }

    /// Keeps those of these files that are there and are not kept yet: all or none.
    async fn keep(&mut self, app: &App, mut wanted: Vec<usize>) -> Result<(), String> {
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|index| self.urls.get(*index).is_some_and(Option::is_none));
        let named = wanted
            .iter()
            .map(|index| (format!("output-{index}"), self.made[*index].clone()));
        let kept = app
            .files
            .keep_outputs(&self.owner, &self.id, named.collect(), &self.origin)
            .await;
        let kept = kept.map_err(|problem| problem.detail().to_owned())?;
        for (index, url) in wanted.into_iter().zip(kept) {
            self.urls[index] = Some(url);
        }
        Ok(())
    }

    /// Puts the URLs of files where a value refers to them. A reference to a file that is not there stays.
    fn name(&self, value: &mut Value) {
        files::replace(value, &|index| self.urls.get(index).cloned().flatten());
    }
}

/// A placer beside a run: at work, or waiting for items to come.
pub(super) struct Placing {
    idle: Option<Placer>,
    work: Fuse<BoxFuture<'static, Placer>>,
}

impl Placing {
    pub(super) fn new(row: &Prediction) -> Self {
        Self {
            idle: Some(Placer::new(row)),
            work: Fuse::terminated(),
        }
    }

    /// Goes to work if items wait and it does not work already.
    pub(super) fn begin(&mut self, app: &Arc<App>, live: &Arc<Live>) {
        if self.idle.is_some()
            && let Some((made, items)) = live.take_held()
            && let Some(placer) = self.idle.take()
        {
            let work = placer.items(Arc::clone(app), Arc::clone(live), made, items);
            self.work = work.boxed().fuse();
        }
    }

    /// Waits until it has done its work; for ever, if it has none.
    pub(super) async fn done(&mut self) {
        self.idle = Some((&mut self.work).await);
    }

    /// Whether a file could not be kept, so that what the run goes on to make is in vain.
    pub(super) fn has_failed(&self) -> bool {
        self.idle.as_ref().is_some_and(|placer| placer.failed.is_some())
    }

    /// Does what is left to do when the run is over.
    pub(super) async fn end(mut self, app: &Arc<App>, live: &Arc<Live>) -> Placer {
        loop {
            self.begin(app, live);
            if let Some(placer) = self.idle.take() {
                return placer;
            }
            self.done().await;
        }
    }
}
