//! Repositories that orders name, asked before an order is given: over HTTP, through the guard of [`crate::egress`].
//!
//! Only what this process can ask is: a public repository, or one in its network. Runner containers have credentials, files and ways of their
//! own, so what is not answered to this process without a credential is not called wrong but *unchecked*; the first task of an order asks
//! all of them from where they are fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use reqwest::StatusCode;
use url::Url;

use crate::egress::{Client, Egress, why};
use crate::model::ids::Word;
use crate::model::order::refs::{Refs, is_commit};
use crate::model::order::{Repository, Spec};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long all of them together may take; those that are not asked by then are unchecked.
const PATIENCE_WITH_ALL: Duration = Duration::from_secs(20);
/// The most bytes of an answer that are read.
const ANSWER_MAX: usize = 8 * 1024 * 1024;
/// So many are asked beside each other.
const AT_ONCE: usize = 8;

/// What was found out about the repositories of an order.
#[derive(Debug, Default)]
pub struct Seen {
    /// The commit of each service that is known.
    pub commits: BTreeMap<Word, String>,
    /// What is wrong, in words.
    pub problems: Vec<String>,
    /// What could not be looked at from here, in words.
    pub unchecked: Vec<String>,
}

enum Answer {
    Commit(String),
    Wrong(String),
    Unchecked(String),
}

/// Who asks them.
pub struct Repositories(Client);

impl Repositories {
    /// One that goes through this guard.
    pub fn new(egress: Egress) -> Self {
        Self(Client::new(egress, |builder| builder.timeout(PATIENCE).pool_max_idle_per_host(0)))
    }

    /// Asks each repository of an order once.
    pub async fn look(&self, spec: &Spec) -> Seen {
        let mut of: BTreeMap<(String, Option<String>), BTreeSet<Word>> = BTreeMap::new();
        for (id, service) in &spec.services {
            let Repository { url, revision } = service.repository.clone();
            of.entry((url, revision)).or_default().insert(id.clone());
        }
        let until = tokio::time::Instant::now() + PATIENCE_WITH_ALL;
        let asked = futures::stream::iter(of).map(|((url, revision), ids)| async move {
            let answer = tokio::time::timeout_at(until, self.ask(&url, revision.as_deref())).await;
            (url, ids, answer.unwrap_or_else(|_| Answer::Unchecked("was not asked in time".into())))
        });
        let mut answers: Vec<(String, BTreeSet<Word>, Answer)> = asked.buffer_unordered(AT_ONCE).collect().await;
        answers.sort_by(|a, b| a.1.cmp(&b.1));
        let mut seen = Seen::default();
        for (url, ids, answer) in answers {
            let all: Vec<&str> = ids.iter().map(Word::as_str).collect();
            let about = format!("repository of service {} ({url})", all.join(", "));
            match answer {
                Answer::Commit(commit) => seen.commits.extend(ids.into_iter().map(|id| (id, commit.clone()))),
                Answer::Wrong(what) => seen.problems.push(format!("{about} {what}")),
                Answer::Unchecked(what) => seen.unchecked.push(format!("{about}: {what}")),
            }
        }
        seen
    }

    async fn ask(&self, url: &str, revision: Option<&str>) -> Answer {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Answer::Unchecked("is asked by runner containers alone".into());
        }
        let Ok(address) = Url::parse(&format!("{}/info/refs?service=git-upload-pack", url.trim_end_matches('/')))
        else {
            return Answer::Wrong("has no address that can be called".into());
        };
        let client = match self.0.to(&address) {
            Ok(client) => client,
            Err(refused) => return Answer::Unchecked(refused),
        };
        let answer = match client.get(address).send().await {
            Ok(answer) => answer,
            Err(error) => {
                let why = why(&error);
                // The guard refuses names by the address that they have.
                let guarded = why.contains("egress.allow");
                return if guarded {
                    Answer::Unchecked(why)
                } else {
                    Answer::Wrong(format!("cannot be reached: {why}"))
                };
            }
        };
        match answer.status() {
            StatusCode::OK => {}
            // Such as GitHub says of a repository that is private, or is not there.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Answer::Unchecked("wants a credential, which runner containers may have".into());
            }
            status if status.is_redirection() => return Answer::Unchecked(format!("leads elsewhere ({status})")),
            status => return Answer::Wrong(format!("cannot be reached: it answers {status}")),
        }
        let mut body = Vec::new();
        let mut chunks = answer.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) if body.len() + chunk.len() <= ANSWER_MAX => body.extend_from_slice(&chunk),
                Ok(_) => return Answer::Unchecked("says more than is read here".into()),
                Err(error) => return Answer::Wrong(format!("cannot be reached: {}", why(&error))),
            }
        }
        let Some(refs) = Refs::read(&body) else {
            return Answer::Wrong("is none: what answers there does not speak git".into());
        };
        match revision {
            // Whether it has that commit is seen when it is fetched.
            Some(commit) if is_commit(commit) => Answer::Commit(commit.to_owned()),
            _ => match (refs.commit(revision), revision) {
                (Some(commit), _) => Answer::Commit(commit.to_owned()),
                (None, Some(revision)) => Answer::Wrong(format!("has no branch and no tag {revision}")),
                (None, None) => Answer::Unchecked("does not say what it shows first".into()),
            },
        }
    }
}
