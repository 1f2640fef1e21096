//! Credentials as a request brings them, and the tokens that the configuration gives.

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::Auth;
use crate::model::app::Secret;
use crate::model::ids::{DeploymentId, JobId, Word};
use crate::model::token::{Grant, Role};
use crate::pepper::Pepper;

/// Hashes of the tokens that the configuration gives.
pub(super) struct Tokens {
    feed: Option<Vec<u8>>,
    operators: Vec<(Word, Vec<u8>)>,
}

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    Person(Grant),
    Feed,
    Job(JobId),
}

impl Tokens {
    pub(super) fn new(auth: &Auth, pepper: &Pepper) -> Self {
        let hash = |token: &Secret| pepper.token_hash(token.expose());
        Self {
            feed: auth.feed_token.as_ref().map(hash),
            operators: auth.operators.iter().map(|operator| (operator.name.clone(), hash(&operator.token))).collect(),
        }
    }

    /// Whether a name is that of an operator whom the configuration names.
    pub(super) fn names(&self, name: &Word) -> bool {
        self.operators.iter().any(|(operator, _)| operator == name)
    }

    /// Compares with every token, whichever it is. `given`: the token's hash.
    pub(super) fn holder(&self, token: &str, given: &[u8], pepper: &Pepper) -> Option<Holder> {
        let mut holder = pepper.job_of_token(token).map(Holder::Job);
        if self.feed.as_ref().is_some_and(|hash| Pepper::equal(hash, given)) {
            holder = Some(Holder::Feed);
        }
        for (name, hash) in &self.operators {
            if Pepper::equal(hash, given) {
                holder = Some(Holder::Person(Grant { name: name.clone(), role: Role::Operator, groups: vec![] }));
            }
        }
        holder
    }
}

/// What a request brings, not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Given {
    Nothing,
    /// The id is none where the text cannot be one.
    Basic(Option<DeploymentId>, Secret),
    Bearer(Secret),
    Unreadable,
}

pub(super) fn given(headers: &HeaderMap) -> Given {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Given::Nothing };
    if values.next().is_some() {
        return Given::Unreadable;
    }
    let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return Given::Unreadable;
    };
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Given::Bearer(Secret::new(rest.to_owned()));
    }
    if scheme.eq_ignore_ascii_case("basic")
        && let Some(text) = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok())
        && let Some((id, secret)) = text.split_once(':')
    {
        return Given::Basic(id.parse().ok(), Secret::new(secret.to_owned()));
    }
    Given::Unreadable
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::config;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
        }
        headers
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn credentials_are_read_as_they_are_written() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let app: Option<DeploymentId> = Some("app-one".parse().expect("a name"));
        for (values, expected) in [
            (vec![], Given::Nothing),
            (vec![basic("app-one:secret123")], Given::Basic(app.clone(), secret("secret123"))),
            (vec![basic("app-one:with:colons:")], Given::Basic(app.clone(), secret("with:colons:"))),
            (vec![basic("app-one:")], Given::Basic(app, secret(""))),
            (vec![basic("../x:secret123")], Given::Basic(None, secret("secret123"))),
            (vec!["bearer  token ".to_owned()], Given::Bearer(secret("token"))),
            (vec![basic("no colon")], Given::Unreadable),
            (vec!["Basic ???".to_owned()], Given::Unreadable),
            (vec!["Basic".to_owned()], Given::Unreadable),
            (vec!["Digest x".to_owned()], Given::Unreadable),
            (vec!["Bearer a".to_owned(), "Bearer b".to_owned()], Given::Unreadable),
        ] {
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            assert_eq!(given(&headers(&values)), expected, "{values:?}");
        }
    }

    #[test]
    fn a_token_has_one_holder() {
        let pepper = Pepper::new(&secret("0123456789abcdef"));
        let operator =
            |name: &str, token: &str| config::Operator { name: name.parse().expect("a name"), token: secret(token) };
        let tokens = Tokens::new(
            &Auth {
                feed_token: Some(secret("the-feed's-token")),
                operators: vec![operator("ada", "ada's-long-token"), operator("bob", "bob's-long-token")],
                pepper: secret("0123456789abcdef"),
                feed_networks: vec![],
            },
            &pepper,
        );
        let job = JobId::new(1, 1);
        let bob = Grant { name: "bob".parse().expect("a name"), role: Role::Operator, groups: vec![] };
        assert!(tokens.names(&bob.name) && !tokens.names(&"eve".parse().expect("a name")));
        for (token, holder) in [
            ("the-feed's-token", Some(Holder::Feed)),
            ("bob's-long-token", Some(Holder::Person(bob))),
            (pepper.job_token(job).expose(), Some(Holder::Job(job))),
            ("", None),
            ("bob's-long-toke", None),
            (&format!("{}x", pepper.job_token(job).expose()), None),
        ] {
            assert_eq!(tokens.holder(token, &pepper.token_hash(token), &pepper), holder, "{token}");
        }
    }
}
