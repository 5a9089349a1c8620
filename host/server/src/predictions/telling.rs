//! What a prediction's webhook is told while it runs: that it started, and what its output and log have grown to, not too often.

use std::sync::Arc;
use std::time::Instant;

use super::live::{Live, Position};
use super::record::{Events, Prediction, Webhook};
use super::status::Status;
use crate::app::App;
use crate::http::streams::shown;
use crate::webhooks::throttle::{Kind, Throttle};

/// Tells of one prediction.
pub(super) struct Telling {
    /// Nothing, if nobody wants to know before the end.
    hook: Option<Webhook>,
    throttle: Throttle,
    started: bool,
    seen: Position,
}

impl Telling {
    /// Of a prediction that has just been accepted.
    pub(super) fn new(row: &Prediction) -> Self {
        let before_the_end = Events::START | Events::OUTPUT | Events::LOGS;
        Self {
            hook: row.webhook.clone().filter(|hook| hook.events.has(before_the_end)),
            throttle: Throttle::default(),
            started: false,
            seen: Position::default(),
        }
    }

    /// Something changed: tells of it, or remembers to.
    pub(super) fn changed(&mut self, app: &App, live: &Arc<Live>) {
        let Some(hook) = self.hook.clone() else { return };
        if !self.started && live.status() == Status::Processing {
            self.started = true;
            if hook.events.has(Events::START) {
                tell(app, live, &hook, "start");
            }
        }
        let before = self.seen;
        live.news(&mut self.seen);
        let now = Instant::now();
        let grown = [
            (Kind::Output, Events::OUTPUT, before.items < self.seen.items),
            (Kind::Logs, Events::LOGS, before.logs < self.seen.logs),
        ];
        for (kind, event, grew) in grown {
            if grew && hook.events.has(event) && self.throttle.happened(kind, now) {
                tell(app, live, &hook, name(kind));
            }
        }
    }

    /// Waits until something that was remembered is due.
    pub(super) async fn due(&self) {
        match self.throttle.next() {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Tells of what is due.
    pub(super) fn tell(&mut self, app: &App, live: &Arc<Live>) {
        let Some(hook) = self.hook.clone() else { return };
        for kind in self.throttle.due(Instant::now()) {
            tell(app, live, &hook, name(kind));
        }
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Output => "output",
        Kind::Logs => "logs",
    }
}

fn tell(app: &App, live: &Arc<Live>, hook: &Webhook, event: &'static str) {
    let row = live.row();
    let body = shown(app, &row, None);
    app.deliveries.tell(&row.owner, &row.id, &hook.url, event, body);
}
