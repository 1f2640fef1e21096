//! Calls to the dispatcher: one connection pool, one credential, one way to read errors.
//!
//! HTTP/1.1 is spoken on purpose: a connection that has gone dead is dropped with the call that noticed, where a multiplexed
//! one would be used again. Redirects are not followed, because they would carry the credential elsewhere.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::Options;
use super::credential::Credential;
use super::escape::plain;
use super::exit::{Exit, Fault};
use super::patience::Patience;
use crate::wire::Problem;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// The dispatcher, as one user reaches it.
#[derive(Debug)]
pub struct Http {
    client: reqwest::Client,
    base: Url,
    authorization: HeaderValue,
    /// A file that may hold a newer credential.
    renewed_in: Option<PathBuf>,
    /// Whose credential it is, for messages.
    who: String,
    /// What to do when it is refused.
    advice: &'static str,
    /// The app whose secret it is.
    app: Option<String>,
    /// How long to wait for what.
    pub patience: Patience,
}

/// An answer of status 2xx.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why a call gave no answer of status 2xx.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection, or it broke off.
    #[error("{cause}")]
    NotReached {
        /// Why.
        cause: String,
        /// The request may have arrived all the same.
        sent: bool,
    },
    /// The certificate is not one that is trusted.
    #[error("{0}")]
    Untrusted(String),
    /// The dispatcher said no, or not now.
    #[error("{}: {}", plain(&.0.title), plain(&.0.detail))]
    Problem(Box<Problem>, Option<Duration>),
    /// Something else than the dispatcher answered: a proxy before it, or another server.
    #[error("the answer (HTTP {0}) did not come from Lockstep")]
    Foreign(StatusCode),
    /// A redirect.
    #[error("the answer is a redirect to {0}")]
    Redirect(String),
    /// The answer contradicts itself, or is not of the right form.
    #[error("the answer makes no sense: {0}")]
    Garbled(String),
}

impl CallError {
    /// Whether the same question may well be answered a moment later.
    pub fn passes(&self) -> bool {
        match self {
            Self::NotReached { .. } | Self::Garbled(_) => true,
            Self::Problem(problem, _) => matches!(problem.status, 408 | 429 | 500 | 502 | 503 | 504),
            Self::Foreign(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Untrusted(_) | Self::Redirect(_) => false,
        }
    }

    /// Whether a request that got this in place of a good answer may have had its effect.
    pub(super) fn may_be_done(&self) -> bool {
        match self {
            Self::NotReached { sent, .. } => *sent,
            Self::Garbled(_) => true,
            Self::Foreign(status) => status.is_server_error(),
            Self::Problem(problem, _) => problem.status >= 500,
            Self::Untrusted(_) | Self::Redirect(_) => false,
        }
    }

    /// How long the dispatcher wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(_, after) => *after,
            Self::NotReached { .. } | Self::Untrusted(_) | Self::Foreign(_) | Self::Redirect(_) | Self::Garbled(_) => {
                None
            }
        }
    }

    /// The status of a problem, and the word of its type.
    pub(super) fn problem(&self) -> Option<(u16, &str)> {
        match self {
            Self::Problem(problem, _) => {
                Some((problem.status, problem.kind.strip_prefix(Problem::PREFIX).unwrap_or_default()))
            }
            Self::NotReached { .. } | Self::Untrusted(_) | Self::Foreign(_) | Self::Redirect(_) | Self::Garbled(_) => {
                None
            }
        }
    }
}

impl Http {
    /// Checks address, certificates and credential; connects to nothing yet.
    pub fn new(options: &Options, credential: &Credential, patience: Patience) -> Result<Self, Fault> {
        let base = base(&options.url)?;
        let mut builder = reqwest::Client::builder()
            .https_only(true)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .tcp_keepalive(Duration::from_secs(15))
            .user_agent(concat!("lockstep/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        // CI systems hand a variable that has no value over as an empty one.
        if let Some(path) = options.ca_cert.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            let shown = path.display();
            let hint = "It must hold one or more certificates in PEM form (-----BEGIN CERTIFICATE-----).";
            let pem = std::fs::read(path).map_err(|error| {
                Fault::usage(format!("the file of --ca-cert, {shown}, cannot be read: {error}"), hint)
            })?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if certificates.is_empty() {
                return Err(Fault::usage(format!("the file of --ca-cert, {shown}, holds no certificate"), hint));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build().map_err(|error| {
            Fault::usage(
                format!("TLS cannot be set up: {}", chain(&error)),
                "Install the system's certificates (Debian: ca-certificates), or name the dispatcher's by --ca-cert FILE.",
            )
        })?;
        Ok(Self {
            client,
            base,
            authorization: credential.header()?,
            renewed_in: credential.renewed_in().map(Into::into),
            who: credential.describe(),
            advice: credential.advice(),
            app: credential.app().map(ToString::to_string),
            patience,
        })
    }

    /// A command about a job, as the same user would type it.
    pub(super) fn command(&self, verb: &str, job: &str) -> String {
        let app = self.app.as_ref().map(|app| format!(" --app {app}")).unwrap_or_default();
        format!("lockstep {verb} {}{app}", plain(job))
    }

    /// The address of something under `/api/v1`; each part is one segment, whatever is in it.
    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// The credential as it is now. A file that cannot be read at this moment is being written.
    fn authorization(&self) -> HeaderValue {
        let renewed = self.renewed_in.as_deref().and_then(|file| Credential::renewed(file).ok());
        renewed.unwrap_or_else(|| self.authorization.clone())
    }

    pub(super) fn request(&self, method: Method, path: &[&str], query: &[(&str, &str)]) -> reqwest::RequestBuilder {
        self.client
            .request(method, self.url(path, query))
            .header(AUTHORIZATION, self.authorization())
            .header(ACCEPT, "application/json, text/plain, application/problem+json")
            .header(CACHE_CONTROL, "no-store")
            .timeout(self.patience.call)
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, CallError> {
        let mut response = request.send().await.map_err(|error| self.unreached(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreached(&error))? {
            if body.len() + chunk.len() > ANSWER_MAX {
                return Err(CallError::Garbled(format!("it is longer than {ANSWER_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(Answer { headers, body: body.freeze() });
        }
        if status.is_redirection() {
            let to = headers.get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or("nowhere");
            return Err(CallError::Redirect(plain(to)));
        }
        let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let problem = serde_json::from_slice::<Problem>(&body).ok().filter(|it| it.kind.starts_with(Problem::PREFIX));
        match problem {
            Some(problem) => Err(CallError::Problem(
                Box::new(Problem { status: status.as_u16(), ..problem }),
                after.map(Duration::from_secs),
            )),
            None => Err(CallError::Foreign(status)),
        }
    }

    /// Asks for JSON.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, CallError> {
        self.send(self.request(Method::GET, path, &[])).await?.json()
    }

    /// Sends JSON.
    pub(super) async fn send_json(
        &self,
        method: Method,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<Answer, CallError> {
        self.send(self.request(method, path, &[]).json(body)).await
    }

    fn unreached(&self, error: &reqwest::Error) -> CallError {
        let cause = chain(error);
        if certificate_refused(error) {
            CallError::Untrusted(cause)
        } else {
            CallError::NotReached { cause, sent: !error.is_connect() }
        }
    }

    /// What an error comes to for whoever asked. `about` says what was asked for, as "the deployment of app-one".
    pub(super) fn fault(&self, error: &CallError, about: &str) -> Fault {
        let base = &self.base;
        let fault =
            |exit, what: String, hint: &str| Fault { exit, what, hint: (!hint.is_empty()).then(|| hint.to_owned()) };
        match error {
            CallError::NotReached { cause, .. } => fault(
                Exit::NotReached,
                format!("{about}: {base} could not be reached: {cause}"),
                "Check --url (LOCKSTEP_URL), that the dispatcher runs, and that nothing on the way blocks it.",
            ),
            CallError::Untrusted(cause) if cause.contains("CaUsedAsEndEntity") => fault(
                Exit::Usage,
                format!(
                    "{about}: the certificate of {base} was made as that of an authority, and cannot be a server's"
                ),
                "Make it with basicConstraints=critical,CA:FALSE (openssl req -x509: -addext), or with: make generate-selfsigned-cert.",
            ),
            CallError::Untrusted(cause) => fault(
                Exit::Usage,
                format!("{about}: the certificate of {base} is not trusted: {cause}"),
                "Name the certificate to trust by --ca-cert FILE (LOCKSTEP_CA_CERT), and use a host name that it was made for.",
            ),
            CallError::Foreign(status) => {
                let exit = if error.passes() { Exit::NotReached } else { Exit::Usage };
                fault(
                    exit,
                    format!("{about}: {base} answered HTTP {status}, but not as Lockstep does"),
                    "Check --url (LOCKSTEP_URL): another server or a proxy may be behind it.",
                )
            }
            CallError::Redirect(to) => fault(
                Exit::Usage,
                format!("{about}: {base} redirects to {to}, which is not followed"),
                "Give the dispatcher's own address as --url (LOCKSTEP_URL).",
            ),
            CallError::Garbled(_) => fault(
                Exit::NotReached,
                format!("{about}: {base}: {error}"),
                "Check that client and dispatcher are of versions that fit.",
            ),
            CallError::Problem(problem, after) => self.refused(problem, *after, about),
        }
    }

    fn refused(&self, problem: &Problem, after: Option<Duration>, about: &str) -> Fault {
        let detail = plain(&problem.detail);
        let (_, word) = problem.kind.rsplit_once(':').unwrap_or_default();
        let exit = match problem.status {
            401 | 403 | 409 | 429 => Exit::Refused,
            400..=407 | 409..=499 => Exit::Usage,
            _ => Exit::NotReached,
        };
        let job = problem.job_id.as_deref().map(plain);
        let (what, hint) = match (problem.status, word) {
            (401, _) => (format!("{} does not accept {}: {detail}", self.base, self.who), Some(self.advice.to_owned())),
            (403, _) => (format!("{} has no right to this: {detail}", self.who), None),
            (_, "busy" | "reserved") => (
                match &job {
                    Some(job) => format!("{detail} (job {job})"),
                    None => detail,
                },
                Some("Ask again later, or wait in line with --when-busy queue or fifo.".to_owned()),
            ),
            (_, "frozen") => {
                (detail, Some("Ask whoever froze it; an operator lifts it with lockstep unfreeze.".to_owned()))
            }
            (_, "still-running") => {
                let job = job.unwrap_or_default();
                (detail, Some(format!("End it with: lockstep cancel {job}; or kill its container with --force.")))
            }
            (_, "shrunken-list") => (detail, Some("If that is meant: lockstep apps set --force.".to_owned())),
            _ => (format!("{}: {detail}", plain(&problem.title)), None),
        };
        let what = match after {
            Some(after) => format!("{what} (try again in {} s)", after.as_secs()),
            None => what,
        };
        Fault { exit, what: format!("{about}: {what}"), hint }
    }
}

impl Answer {
    /// The body as what it should be.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_slice(&self.body).map_err(|error| CallError::Garbled(plain(&error.to_string())))
    }

    /// A header's text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Checks the dispatcher's address.
fn base(text: &str) -> Result<Url, Fault> {
    let hint = "Give it like https://lockstep.example.org or https://localhost:8443 (--url or LOCKSTEP_URL).";
    let url =
        Url::parse(text).map_err(|error| Fault::usage(format!("the dispatcher's address is no URL: {error}"), hint))?;
    if url.scheme() != "https" {
        return Err(Fault::usage(
            "the dispatcher's address must begin with https://, because credentials are sent to it",
            hint,
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Fault::usage("the dispatcher's address must not hold a user or a password", hint));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Fault::usage("the dispatcher's address must not have a ? or a #", hint));
    }
    Ok(url)
}

/// Whether the address is this machine: then no proxy lies between, whatever the environment says.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a call failed because of the server's certificate.
fn certificate_refused(error: &reqwest::Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        if matches!(cause.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        // An io::Error hides what it carries from `source`.
        next = match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    false
}

/// An error with its causes; what repeats a part before it is left out.
fn chain(error: &reqwest::Error) -> String {
    // The address is said elsewhere in the message.
    let mut text = if error.is_timeout() { "no answer in time".to_owned() } else { String::new() };
    let mut next = error.source();
    while let Some(cause) = next {
        let part = cause.to_string();
        // "client error (Connect)": which layer noticed, is nobody's concern.
        if !part.starts_with("client error") && !text.contains(&part) {
            text = if text.is_empty() { part } else { format!("{text}: {part}") };
        }
        next = cause.source();
    }
    if text.is_empty() { plain(&error.to_string()) } else { plain(&text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["https://localhost:8443", "https://a.example.org/prefix/", "https://[::1]"] {
            assert!(base(good).is_ok(), "{good}");
        }
        for (bad, part) in [
            ("localhost:8443", "https://"),
            ("http://localhost", "https://"),
            ("lockstep", "no URL"),
            ("https://", "no URL"),
            ("https://u:p@host", "a user or a password"),
            ("https://host/?x=1", "?"),
        ] {
            let fault = base(bad).expect_err(bad);
            assert_eq!(fault.exit, Exit::Usage);
            assert!(fault.what.contains(part), "{bad}: {}", fault.what);
        }
        for (url, loopback) in [
            ("https://localhost", true),
            ("https://[::1]:1", true),
            ("https://127.9.9.9", true),
            ("https://a.b", false),
        ] {
            assert_eq!(is_loopback(&base(url).expect("good")), loopback, "{url}");
        }
    }
}
