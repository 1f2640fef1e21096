//! One event to one receiver: signed, bounded in time, through the guard of [`crate::egress`], following no redirect.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;

use crate::egress::{Client, Egress, why};
use crate::model::app::Secret;
use crate::model::webhook::Failure;

/// How long a receiver may take, in all.
const PATIENCE: Duration = Duration::from_secs(15);
/// So much of an answer is read, so that the connection can be used again, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// The key in a secret of Standard Webhooks: `whsec_` and 24 to 64 bytes in base64.
pub fn signing_key(secret: &Secret) -> Option<Vec<u8>> {
    let key = STANDARD.decode(secret.expose().strip_prefix("whsec_")?).ok()?;
    (24..=64).contains(&key.len()).then_some(key)
}

/// The signature of a message, as it stands in `webhook-signature`.
fn signature(key: &[u8], id: &str, timestamp: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(format!("{id}.{timestamp}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign().as_ref()))
}

/// What sends.
pub(super) struct Post(Client);

impl Post {
    pub(super) fn new(egress: Egress) -> Self {
        Self(Client::new(egress, |builder| builder.timeout(PATIENCE).pool_max_idle_per_host(1)))
    }

    /// Sends an event. `timestamp`: seconds since 1970.
    ///
    /// # Errors
    /// How it failed, and what went wrong.
    pub(super) async fn send(
        &self,
        url: &Url,
        id: &str,
        timestamp: u64,
        body: Vec<u8>,
        key: &[u8],
    ) -> Result<(), (Failure, String)> {
        let client = self.0.to(url).map_err(|error| (Failure::Away, error))?;
        let request = client
            .post(url.clone())
            .header("content-type", "application/cloudevents+json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature(key, id, timestamp, &body))
            .body(body);
        let mut answer = request.send().await.map_err(|error| (Failure::Away, why(&error)))?;
        let status = answer.status();
        let mut read = 0;
        while let Ok(Some(chunk)) = answer.chunk().await {
            read += chunk.len();
            if read > ANSWER_MAX {
                break;
            }
        }
        match Failure::of_status(status.as_u16()) {
            None => Ok(()),
            Some(failure) if status.is_redirection() => {
                Err((failure, format!("answered {status}; redirects are not followed")))
            }
            Some(failure) => Err((failure, format!("answered {status}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        // The example of the specification.
        let key = signing_key(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into())).expect("a key");
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_has_a_form() {
        let key = |text: &str| signing_key(&Secret::new(text.to_owned())).map(|key| key.len());
        assert_eq!(key(&format!("whsec_{}", STANDARD.encode([7; 24]))), Some(24));
        for bad in ["", "whsec_", "whsec_???", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert_eq!(key(bad), None, "{bad}");
        }
        assert_eq!(key(&format!("whsec_{}", STANDARD.encode([7; 23]))), None);
        assert_eq!(key(&format!("whsec_{}", STANDARD.encode([7; 65]))), None);
    }
}
