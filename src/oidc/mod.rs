//! ID tokens of a CI, in place of a secret: whether one opens an app.
//!
//! ```text
//!  token: three parts, an algorithm that is taken ──▶ model::oidc: its time ──▶ the app's rules name its issuer
//!                                                                                        │
//!            model::oidc: audience, claims ◀── signature ◀── keys: cached ── fetch: two calls through the egress guard
//! ```
//!
//! Nobody is asked on behalf of a token: only issuers that an app's rules name are, so a stranger cannot make this machine call an
//! address. What cannot be found out, because the issuer is not reached, is said as such.

mod fetch;
mod keys;
mod token;

use std::sync::Arc;

use crate::egress::Egress;
use crate::model::oidc::{self, Mismatch, Rule};

use keys::{Keys, NoKey};
pub use keys::{Pace, RETRY_AFTER};
pub use token::{Token, Unusable, is_token};

/// Checks ID tokens.
pub struct Oidc {
    keys: Arc<Keys>,
    egress: Egress,
}

/// Why a token does not open an app; for the log, not for whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its claims are not what the app's rules ask for.
    #[error(transparent)]
    Claims(#[from] Mismatch),
    /// The issuer does not have the key that it names, or not for its algorithm.
    #[error("its issuer has no key of that id for its algorithm")]
    Key,
    /// It was not signed with that key.
    #[error("its signature is wrong")]
    Signature,
    /// The issuer's keys are not known and cannot be asked for at the moment: nothing can be said about the token.
    #[error("its issuer cannot be asked for its keys")]
    Unknown,
}

impl Oidc {
    /// Issuers are asked through this guard, at this pace.
    pub fn new(egress: Egress, pace: Pace) -> Self {
        Self { keys: Arc::new(Keys::new(fetch::Fetch::new(egress.clone()), pace)), egress }
    }

    /// Whether issuers on this machine may do without TLS.
    pub fn http_on_loopback(&self) -> bool {
        self.egress.allows_loopback()
    }

    /// Whether a token opens an app with these rules; its time is checked elsewhere.
    pub async fn check(&self, token: &Token, rules: &[Rule]) -> Result<(), Refusal> {
        let issuer = token.issuer().ok_or(Mismatch::Issuer)?;
        if !oidc::names(rules, issuer) {
            return Err(self.pretend(token, issuer).await);
        }
        let key = self.keys.find(issuer, token.wanted()).await.map_err(|error| match error {
            NoKey::Unknown => Refusal::Key,
            NoKey::Unavailable => Refusal::Unknown,
        })?;
        if !token.signed_by(&key) {
            return Err(Refusal::Signature);
        }
        oidc::fits(rules, token.claims()).map_err(Refusal::from)
    }

    /// Does what would be done if the rules named the issuer, so that neither time nor answer tells whether there is an app with rules.
    /// Nobody is asked whom no app's rules have named before.
    async fn pretend(&self, token: &Token, issuer: &str) -> Refusal {
        if self.keys.knows(issuer) {
            match self.keys.find(issuer, token.wanted()).await {
                Ok(key) => drop(std::hint::black_box(token.signed_by(&key))),
                Err(NoKey::Unavailable) => return Refusal::Unknown,
                Err(NoKey::Unknown) => {}
            }
        }
        Mismatch::Issuer.into()
    }
}
