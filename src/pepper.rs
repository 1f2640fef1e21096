//! The pepper: the one secret that is not in Redis, and everything that is made with it.
//!
//! * hashes of deployment secrets and of tokens (HMAC-SHA-256), so that a copy of Redis opens nothing,
//! * the token of a job, which follows from its id and so need not be stored,
//! * the seal (AES-256-GCM, with what it belongs to as additional data) around a job's variables and the values to be masked, and around
//!   the secrets of webhooks.
//!
//! Each use has a key of its own, derived from the pepper, so that a result of one can't be passed off as another's.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock;
use crate::model::app::Secret;
use crate::model::ids::{DeploymentId, JobId, Word};

/// The shortest pepper that is taken, in bytes.
pub const PEPPER_MIN: usize = 16;
/// What a job's token begins with.
const JOB_TOKEN: &str = "lsj_";

/// A job's secrets: what is sealed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobSecrets {
    /// The request's variables.
    pub vars: Map<String, Value>,
    /// Values to be masked in the output, the job's token not among them.
    pub masks: Vec<Secret>,
}

/// Keys derived from the pepper.
pub struct Pepper {
    secrets: hmac::Key,
    tokens: hmac::Key,
    jobs: hmac::Key,
    requests: hmac::Key,
    seal: RandomizedNonceKey,
}

impl Pepper {
    /// Derives the keys.
    pub fn new(pepper: &Secret) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, pepper.expose().as_bytes());
        let derive = |use_of_it: &str| hmac::sign(&root, use_of_it.as_bytes());
        let key = |use_of_it: &str| hmac::Key::new(hmac::HMAC_SHA256, derive(use_of_it).as_ref());
        Self {
            secrets: key("deployment secrets"),
            tokens: key("tokens"),
            jobs: key("job tokens"),
            requests: key("requests"),
            seal: RandomizedNonceKey::new(&AES_256_GCM, derive("seal").as_ref())
                .expect("HMAC-SHA-256 gives the 32 bytes that AES-256 takes"),
        }
    }

    /// The hash of an app's secret, as stored.
    pub fn secret_hash(&self, app: &DeploymentId, secret: &str) -> Vec<u8> {
        self.secret_tag(app, secret).as_ref().to_vec()
    }

    fn secret_tag(&self, app: &DeploymentId, secret: &str) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.secrets);
        for part in [app.as_str(), "\0", secret] {
            context.update(part.as_bytes());
        }
        context.sign()
    }

    /// Whether a secret is the app's. An unknown app (`hash` is none) costs the same as a wrong secret.
    pub fn opens(&self, app: &DeploymentId, secret: &str, hash: Option<&[u8]>) -> bool {
        let given = self.secret_tag(app, secret);
        let nobody = [0; 32];
        let equal = constant_time::verify_slices_are_equal(given.as_ref(), hash.unwrap_or(&nobody)).is_ok();
        equal && hash.is_some()
    }

    /// The hash of an operator's or the feed's token.
    pub fn token_hash(&self, token: &str) -> Vec<u8> {
        hmac::sign(&self.tokens, token.as_bytes()).as_ref().to_vec()
    }

    /// Compares two hashes in constant time.
    pub fn equal(a: &[u8], b: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(a, b).is_ok()
    }

    /// What a request is recognized by when it comes again. It may hold short secrets, which a plain digest would give away.
    pub fn request_digest(&self, request: &str) -> String {
        hmac::sign(&self.requests, request.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The token of a job: good for this job alone, for as long as it lives.
    pub fn job_token(&self, job: JobId) -> Secret {
        let tag = hmac::sign(&self.jobs, job.to_string().as_bytes());
        Secret::new(format!("{JOB_TOKEN}{job}_{}", URL_SAFE_NO_PAD.encode(tag.as_ref())))
    }

    /// The job whose token this is. Whether that job still lives is for the caller to see.
    pub fn job_of_token(&self, token: &str) -> Option<JobId> {
        let (id, _) = token.strip_prefix(JOB_TOKEN)?.split_once('_')?;
        let job: JobId = id.parse().ok()?;
        Self::equal(self.job_token(job).expose().as_bytes(), token.as_bytes()).then_some(job)
    }

    /// Seals a job's secrets.
    pub fn seal(&self, job: JobId, secrets: &JobSecrets) -> Vec<u8> {
        let text = serde_json::to_vec(secrets).expect("strings and JSON values can be written as JSON");
        self.seal_text(job.to_string(), text)
    }

    /// Opens the seal; none when it is another job's, was made with another pepper, or is damaged.
    pub fn open(&self, job: JobId, sealed: &[u8]) -> Option<JobSecrets> {
        serde_json::from_slice(&self.open_text(job.to_string(), sealed)?).ok()
    }

    /// Seals the secret of a webhook.
    pub fn seal_webhook(&self, name: &Word, secret: &Secret) -> Vec<u8> {
        self.seal_text(of_webhook(name), secret.expose().as_bytes().to_vec())
    }

    /// Opens the seal; none when it is another webhook's, was made with another pepper, or is damaged.
    pub fn open_webhook(&self, name: &Word, sealed: &[u8]) -> Option<Secret> {
        String::from_utf8(self.open_text(of_webhook(name), sealed)?).ok().map(Secret::new)
    }

    /// Seals a variable of the vault of a mode.
    pub fn seal_variable(&self, environment: &Word, mode: &Word, name: &Word, value: &Secret) -> Vec<u8> {
        self.seal_text(format!("variable {environment} {mode} {name}"), value.expose().as_bytes().to_vec())
    }

    /// Opens the seal; none when it is another variable's, was made with another pepper, or is damaged.
    pub fn open_variable(&self, environment: &Word, mode: &Word, name: &Word, sealed: &[u8]) -> Option<Secret> {
        let text = self.open_text(format!("variable {environment} {mode} {name}"), sealed)?;
        String::from_utf8(text).ok().map(Secret::new)
    }

    fn seal_text(&self, belongs_to: String, mut text: Vec<u8>) -> Vec<u8> {
        let nonce = self
            .seal
            .seal_in_place_append_tag(Aad::from(belongs_to), &mut text)
            .expect("AES-256-GCM takes a text of this size");
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut text);
        sealed
    }

    fn open_text(&self, belongs_to: String, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = rest.to_vec();
        Some(self.seal.open_in_place(nonce, Aad::from(belongs_to), &mut text).ok()?.to_vec())
    }
}

/// What no job's id can be.
fn of_webhook(name: &Word) -> String {
    format!("webhook {name}")
}

/// A token that nobody can guess, for an operator or a viewer.
pub fn draw_token() -> Secret {
    Secret::new(format!("lso_{}", URL_SAFE_NO_PAD.encode(clock::random::<32>())))
}

/// The key of a webhook in the form of Standard Webhooks.
pub fn draw_webhook_secret() -> Secret {
    Secret::new(format!("whsec_{}", STANDARD.encode(clock::random::<32>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pepper() -> Pepper {
        Pepper::new(&Secret::new("0123456789abcdef".into()))
    }

    #[test]
    fn a_secret_opens_its_own_app_only() {
        let pepper = pepper();
        let app: DeploymentId = "app-one".parse().expect("a name");
        let other: DeploymentId = "app-two".parse().expect("a name");
        let hash = pepper.secret_hash(&app, "secret123");
        assert!(pepper.opens(&app, "secret123", Some(&hash)));
        assert!(!pepper.opens(&app, "secret124", Some(&hash)));
        assert!(!pepper.opens(&other, "secret123", Some(&hash)));
        assert!(!pepper.opens(&app, "secret123", None));
    }

    #[test]
    fn a_token_names_its_job_and_cannot_be_bent_to_another() {
        let pepper = pepper();
        let (job, other) = (JobId::new(1, 1), JobId::new(1, 2));
        let token = pepper.job_token(job);
        assert_eq!(pepper.job_of_token(token.expose()), Some(job));
        let bent = token.expose().replace(&job.to_string(), &other.to_string());
        assert_eq!(pepper.job_of_token(&bent), None);
        assert_eq!(pepper.job_of_token("lsj_"), None);
        assert_eq!(pepper.job_of_token(""), None);
    }

    #[test]
    fn a_seal_opens_for_its_job_with_its_pepper() {
        let pepper = pepper();
        let job = JobId::new(1, 1);
        let secrets = JobSecrets { vars: Map::new(), masks: vec![Secret::new("hush-hush".into())] };
        let sealed = pepper.seal(job, &secrets);
        assert!(!sealed.windows(4).any(|w| w == b"hush"));
        assert_eq!(pepper.open(job, &sealed), Some(secrets));
        assert_eq!(pepper.open(JobId::new(1, 2), &sealed), None);
        assert_eq!(Pepper::new(&Secret::new("another pepper!!".into())).open(job, &sealed), None);
        assert_eq!(pepper.open(job, &sealed[..10]), None);
    }

    #[test]
    fn a_webhooks_secret_is_its_own() {
        let pepper = pepper();
        let (name, other): (Word, Word) = ("a".parse().expect("a name"), "b".parse().expect("a name"));
        let secret = draw_webhook_secret();
        let sealed = pepper.seal_webhook(&name, &secret);
        assert_eq!(pepper.open_webhook(&name, &sealed), Some(secret.clone()));
        assert_eq!(pepper.open_webhook(&other, &sealed), None);
        assert_ne!(draw_webhook_secret(), secret);
        assert_ne!(draw_token(), draw_token());
    }
}
