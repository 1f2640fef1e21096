//! The two calls that give an issuer's keys: its configuration, and the keys that this points to.
//!
//! Each is bounded in size and time, verified by TLS, follows no redirect, and goes through the guard of [`crate::egress`].

use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use reqwest::StatusCode;
use serde_json::Value;
use url::Url;

use crate::egress::{Client, Egress, why};
use crate::model::oidc;

/// The longest answer that is read, in bytes.
const ANSWER_MAX: usize = 256 * 1024;
/// The longest address that is called, in bytes.
const ADDRESS_MAX: usize = 2 * oidc::TEXT_MAX;
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most keys of an issuer that are kept.
const KEYS_MAX: usize = 64;

/// Asks issuers.
pub(super) struct Fetch {
    client: Client,
    http_on_loopback: bool,
}

impl Fetch {
    pub(super) fn new(egress: Egress) -> Self {
        let http_on_loopback = egress.allows_loopback();
        let client = Client::new(egress, |builder| builder.timeout(PATIENCE).pool_max_idle_per_host(0));
        Self { client, http_on_loopback }
    }

    /// The keys of an issuer, those that cannot be read left out.
    pub(super) async fn keys(&self, issuer: &str) -> Result<Vec<Jwk>, String> {
        let at = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let configuration = self.json(&at).await?;
        if configuration.get("issuer").and_then(Value::as_str) != Some(issuer) {
            return Err(format!("{at} is about another issuer"));
        }
        let at = configuration.get("jwks_uri").and_then(Value::as_str).ok_or("its configuration has no jwks_uri")?;
        let set = self.json(at).await?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or_else(|| format!("{at} holds no list of keys"))?;
        Ok(keys.iter().filter_map(|key| serde_json::from_value(key.clone()).ok()).take(KEYS_MAX).collect())
    }

    async fn json(&self, at: &str) -> Result<Value, String> {
        // It may be what another answer said.
        if at.len() > ADDRESS_MAX {
            return Err(format!("an address has more than {ADDRESS_MAX} bytes"));
        }
        let url: Url = oidc::address(at, self.http_on_loopback).map_err(|what| format!("{at}: {what}"))?;
        let client = self.client.to(&url).map_err(|error| format!("{at}: {error}"))?;
        let trouble = |error: reqwest::Error| format!("{at}: {}", why(&error));
        let mut response = client.get(url).header("accept", "application/json").send().await.map_err(trouble)?;
        if response.status() != StatusCode::OK {
            return Err(format!("{at} answered {} (redirects are not followed)", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(trouble)? {
            if body.len() + chunk.len() > ANSWER_MAX {
                return Err(format!("{at} answered more than {ANSWER_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|error| format!("{at} did not answer JSON: {error}"))
    }
}
