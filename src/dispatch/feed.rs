//! The feed, run by the dispatcher itself: once at start, and whenever no app is known.
//!
//! It is a job like any other, under an app and an inventory of its own, with the action `announce-apps`. Its container
//! posts the list of apps with the job's token.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Dispatcher, Refusal, Request};
use crate::model::app::{App, FEED_ACTION};
use crate::model::ids::Action;
use crate::model::job::{Outcome, State, WhenBusy};

/// The app, and the inventory, of the dispatcher's own feed.
const FEED_APP: &str = "lockstep.feed";
/// Pause after a feed that did not succeed: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// How often it is checked that an app list is there.
const CHECK: Duration = Duration::from_secs(30);

impl Dispatcher {
    /// Runs the feed at start and whenever there is no app list, until the stop.
    pub(super) async fn keep_feeding(self: Arc<Self>) {
        let action = Action::try_from(FEED_ACTION.to_owned()).ok();
        let known = action.filter(|action| self.parts.runner.actions.contains_key(action));
        let Some(action) = known.filter(|_| self.parts.feed_at_start) else {
            self.stop.cancelled().await;
            return;
        };
        let feeding = async {
            let mut pause = PAUSE.0;
            let mut fed = false;
            loop {
                let due = !fed || matches!(self.parts.store.apps().await, Ok(None));
                if due && self.check_open().is_ok() {
                    match self.feed(&action).await {
                        Ok(true) => (fed, pause) = (true, PAUSE.0),
                        Ok(false) => {
                            tracing::warn!(
                                retry_s = pause.as_secs(),
                                "the feed did not succeed; see the output of its job"
                            );
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(PAUSE.1);
                        }
                        Err(error) => {
                            tracing::warn!(%error, "the feed could not be run");
                            tokio::time::sleep(PAUSE.0).await;
                        }
                    }
                } else if due {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                } else {
                    tokio::time::sleep(CHECK).await;
                }
            }
        };
        self.stop.run_until_cancelled(feeding).await;
    }

    /// Runs the feed once; whether it succeeded.
    async fn feed(self: &Arc<Self>, action: &Action) -> Result<bool, Refusal> {
        let app = App {
            deployment_id: FEED_APP.parse().expect("a constant that is a name"),
            inventory: FEED_APP.parse().expect("a constant that is a name"),
            action: action.clone(),
            vars: BTreeMap::new(),
            oidc: Vec::new(),
        };
        let request = Request {
            app,
            secret: None,
            by: "this dispatcher".into(),
            vars: serde_json::Map::new(),
            when_busy: WhenBusy::Reject,
            idempotency_key: None,
        };
        let job = match self.submit(request).await {
            Ok(accepted) => accepted.job,
            // One that was begun before, perhaps by another dispatcher, is as good.
            Err(Refusal::Busy { holder }) => holder,
            Err(refusal) => return Err(refusal),
        };
        let mut news = self.parts.store.news(job);
        loop {
            news.state.mark_unchanged();
            match self.parts.store.record(job).await?.map(|record| record.state) {
                None => return Ok(false),
                Some(State::Ended(outcome)) => return Ok(outcome == Outcome::Succeeded),
                Some(State::Queued | State::Starting | State::Running | State::Canceling) => {}
            }
            if news.state.changed().await.is_err() {
                return Err(Refusal::NotReady("shutting down"));
            }
        }
    }
}
