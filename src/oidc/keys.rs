//! The issuers' keys: kept for a while, asked for anew when a token names one that is not among them.
//!
//! * Keys are good for [`Pace::fresh`]. After that they are asked for again, and a key that the issuer has taken back is gone.
//! * A key id that is not among good keys causes one new call, and at most one per issuer every [`Pace::unknown`]: so a new key works
//!   at once, and tokens with made-up key ids cost the issuer nothing.
//! * While the issuer is not reached, its last keys stay good for [`Pace::stale`]; it is asked again every [`Pace::failed`].
//! * Requests that come at one time share a call. It is made by a task of its own: who hangs up spoils it for nobody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use tokio::time::Instant;

use super::fetch::Fetch;
use super::token::Wanted;

/// Seconds after which a token whose issuer was not reached is worth another try.
pub const RETRY_AFTER: u64 = 5;

/// How long keys are good, and how often they are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Keys are asked for again after so long.
    pub fresh: Duration,
    /// Keys that cannot be asked for again are used for so long.
    pub stale: Duration,
    /// From one call because of an unknown key id to the next.
    pub unknown: Duration,
    /// From a call that failed to the next.
    pub failed: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            fresh: Duration::from_secs(10 * 60),
            stale: Duration::from_secs(24 * 60 * 60),
            unknown: Duration::from_secs(30),
            failed: Duration::from_secs(RETRY_AFTER),
        }
    }
}

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The issuer does not have it.
    Unknown,
    /// The issuer was not reached.
    Unavailable,
}

/// The keys of all issuers that were asked for.
pub(super) struct Keys {
    fetch: Fetch,
    pace: Pace,
    issuers: Mutex<HashMap<String, Arc<Issuer>>>,
}

struct Issuer {
    name: String,
    held: Mutex<Option<Held>>,
    /// Held during a call.
    asked: tokio::sync::Mutex<Asked>,
    /// Whether the last call failed.
    away: AtomicBool,
    used: Mutex<Instant>,
}

/// Keys as an issuer gave them.
#[derive(Clone)]
struct Held {
    at: Instant,
    keys: Arc<[Arc<Jwk>]>,
}

/// What became of calls.
#[derive(Default)]
struct Asked {
    /// The last one that was made because of an unknown key id.
    unknown: Option<Instant>,
    /// The last one, if it failed.
    failed: Option<Instant>,
}

impl Held {
    fn find(&self, wanted: &Wanted) -> Option<Arc<Jwk>> {
        self.keys.iter().find(|key| wanted.is(key)).cloned()
    }
}

impl Issuer {
    /// What is held, unless it is older than that.
    fn held(&self, at_most: Duration) -> Option<Held> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone().filter(|held| held.at.elapsed() < at_most)
    }
}

impl Keys {
    pub(super) fn new(fetch: Fetch, pace: Pace) -> Self {
        Self { fetch, pace, issuers: Mutex::default() }
    }

    /// A key of an issuer. Call it only for issuers that an app's rules name.
    pub(super) async fn find(self: &Arc<Self>, issuer: &str, wanted: &Wanted) -> Result<Arc<Jwk>, NoKey> {
        let came = Instant::now();
        let issuer = self.issuer(issuer);
        if let Some(key) = issuer.held(self.pace.fresh).and_then(|held| held.find(wanted)) {
            return Ok(key);
        }
        // An issuer that is away holds nobody up whose key is known.
        let known = issuer.held(self.pace.stale).filter(|_| issuer.away.load(Ordering::Relaxed));
        let known = known.and_then(|held| held.find(wanted));
        let (this, wanted) = (self.clone(), wanted.clone());
        let asking = tokio::spawn(async move { this.ask(&issuer, &wanted, came).await });
        if let Some(key) = known {
            return Ok(key);
        }
        asking.await.unwrap_or(Err(NoKey::Unavailable))
    }

    /// Whether an issuer was asked for, or is one whose keys are there.
    pub(super) fn knows(&self, issuer: &str) -> bool {
        self.issuers.lock().unwrap_or_else(PoisonError::into_inner).contains_key(issuer)
    }

    fn issuer(&self, name: &str) -> Arc<Issuer> {
        let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(issuer) = issuers.get(name) {
            *issuer.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            return issuer.clone();
        }
        // Those that no app names any more are forgotten.
        issuers.retain(|_, it| it.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < self.pace.stale);
        let issuer = Arc::new(Issuer {
            name: name.to_owned(),
            held: Mutex::default(),
            asked: tokio::sync::Mutex::default(),
            away: AtomicBool::new(false),
            used: Mutex::new(Instant::now()),
        });
        issuers.insert(name.to_owned(), issuer.clone());
        issuer
    }

    /// Asks for the keys if that is due, for a request that came at that moment.
    async fn ask(&self, issuer: &Issuer, wanted: &Wanted, came: Instant) -> Result<Arc<Jwk>, NoKey> {
        let mut asked = issuer.asked.lock().await;
        let fresh = issuer.held(self.pace.fresh);
        // Another request may have asked while this one waited.
        if let Some(key) = fresh.as_ref().and_then(|held| held.find(wanted)) {
            return Ok(key);
        }
        let due = |last: Option<Instant>, every: Duration| last.is_none_or(|last| last.elapsed() >= every);
        let now = match &fresh {
            Some(held) => held.at < came && due(asked.unknown, self.pace.unknown),
            None => due(asked.failed, self.pace.failed),
        };
        if now {
            if fresh.is_some() {
                asked.unknown = Some(Instant::now());
            }
            match self.fetch.keys(&issuer.name).await {
                Ok(keys) => {
                    let held = Held { at: Instant::now(), keys: keys.into_iter().map(Arc::new).collect() };
                    *issuer.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
                    asked.failed = None;
                    issuer.away.store(false, Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::warn!(issuer = issuer.name, error, "an issuer of ID tokens was not reached");
                    asked.failed = Some(Instant::now());
                    issuer.away.store(true, Ordering::Relaxed);
                }
            }
        }
        let held = issuer.held(self.pace.stale);
        match held.as_ref().and_then(|held| held.find(wanted)) {
            Some(key) => Ok(key),
            None if held.is_none() || asked.failed.is_some() => Err(NoKey::Unavailable),
            None => Err(NoKey::Unknown),
        }
    }
}
