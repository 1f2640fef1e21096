//! ID tokens of a CI: which of them open an app, by the rules in the app's entry of the feed.
//!
//! A [`Rule`] names an issuer, an audience, and claims with the values that are allowed. A token fits when one rule of the app
//! names its issuer and everything in that rule is so. The signature is not looked at here: what is checked are the claims of
//! a token whose signature was found right (see `crate::oidc`), or else the order of the two does not matter.
//!
//! Issuers such as GitHub's sign tokens for everybody: a rule that does not pin the project would open the app to the world. So a
//! rule must hold a claim that does, and one that can't be moved to another project: names of repositories can be given away
//! and taken by somebody else, their numbers can't.
//!
//! Values are compared as exact strings, without patterns. A whole number or a boolean, in a rule or in a token, counts as its
//! JSON text (`1234`, `true`), because CI systems write such claims in either form; anything else matches nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::{Host, Url};

/// How far the issuer's clock may be off, in seconds.
pub const LEEWAY: u64 = 60;
/// The most rules that an app may have.
pub const RULES_MAX: usize = 16;
/// The most claims in a rule, and values of a claim.
pub const CLAIMS_MAX: usize = 32;
/// The longest issuer, audience, claim's name or value, in bytes.
pub const TEXT_MAX: usize = 1024;

/// Claims that pin the project at issuers that are not known here.
const PINS: [&str; 5] = ["repository_id", "project_id", "pipeline_id", "oidc.circleci.com/project-id", "sub"];
/// What subjects begin with that are made of names.
const SUBJECTS_OF_NAMES: [&str; 2] = ["repo:", "project_path:"];
/// Claims one of which says from where in the project a job comes.
const PLACES: [&str; 8] = [
    "ref",
    "environment",
    "ref_protected",
    "environment_protected",
    "job_workflow_ref",
    "workflow_ref",
    "ci_config_ref_uri",
    "sub",
];
/// Claims that are checked in any case, in ways of their own.
const OWN: [&str; 5] = ["iss", "aud", "exp", "nbf", "iat"];
/// The event that runs with the rights of the repository on behalf of whoever opens a pull request.
const REFUSED_EVENT: &str = "pull_request_target";

/// Which ID tokens open an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = OidcRule)]
pub struct Rule {
    /// Who signs them: exactly their claim `iss`.
    pub issuer: String,
    /// Whom they are made for: one of their claim `aud`.
    pub audience: String,
    /// Claims, each with the values that are allowed.
    pub claims: BTreeMap<String, Vec<String>>,
}

/// Why a token does not fit. Holds no value of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// No rule of the app names the issuer.
    #[error("no rule of the app names its issuer")]
    Issuer,
    /// Its time is over.
    #[error("it has expired (exp)")]
    Expired,
    /// Its time has not come.
    #[error("{0} lies in the future")]
    Early(&'static str),
    /// A claim that every token needs is not there, or is no number.
    #[error("{0} is missing or no number")]
    NoTime(&'static str),
    /// It was made for somebody else.
    #[error("aud is another audience")]
    Audience,
    /// A pull request from anywhere may have made it.
    #[error("event_name is pull_request_target, which is always refused")]
    Event,
    /// A claim has another value than the rule allows, or is not there.
    #[error("the claim {0} does not have a value that the rule allows")]
    Claim(String),
}

/// Checks an address that keys are asked for at: `https`, or `http` on this machine where that is allowed.
pub fn address(text: &str, http_on_loopback: bool) -> Result<Url, &'static str> {
    const WRONG: &str = "must be an https:// URL";
    let url = Url::parse(text).map_err(|_| WRONG)?;
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err(WRONG),
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback && http_on_loopback => {}
        "http" if loopback => {
            return Err("must be an https:// URL; http on this machine is taken only with egress.allow");
        }
        _ => return Err(WRONG),
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("must be an https:// URL without a user, a password or a #");
    }
    Ok(url)
}

/// Checks the rules of an app's entry. `http_on_loopback`: an issuer on this machine may do without TLS. What is taken although it
/// should be thought over is added to `warnings`.
///
/// # Errors
/// What is wrong, beginning with the place; never a value.
pub fn check_rules(value: &Value, http_on_loopback: bool, warnings: &mut Vec<String>) -> Result<Vec<Rule>, String> {
    let list = value.as_array().ok_or("oidc must be a list of {\"issuer\", \"audience\", \"claims\"}")?;
    if list.is_empty() || list.len() > RULES_MAX {
        return Err(format!("oidc must have 1 to {RULES_MAX} rules; leave it out if no ID token is to open the app"));
    }
    let check = |(index, rule)| {
        let place = format!("oidc rule {}", index + 1);
        let mut notes = Vec::new();
        let rule = Rule::check(rule, http_on_loopback, &mut notes).map_err(|what| format!("{place}: {what}"))?;
        warnings.extend(notes.into_iter().map(|note| format!("{place}: {note}")));
        Ok(rule)
    };
    list.iter().enumerate().map(check).collect()
}

impl Rule {
    fn check(value: &Value, http_on_loopback: bool, notes: &mut Vec<&'static str>) -> Result<Self, String> {
        let object = value.as_object().ok_or("is not a JSON object")?;
        // Not passed over with a warning: a misspelt condition would be none.
        if object.keys().any(|field| !matches!(field.as_str(), "issuer" | "audience" | "claims")) {
            return Err("has a field that is not known; it may have issuer, audience and claims".into());
        }
        let word = |field: &str| match object.get(field) {
            Some(Value::String(text)) if is_text(text) => Ok(text.clone()),
            Some(_) => Err(format!("{field} must be a string of 1 to {TEXT_MAX} bytes without control characters")),
            None => Err(format!("{field} is missing")),
        };
        let issuer = word("issuer")?;
        let url = address(&issuer, http_on_loopback).map_err(|what| format!("issuer {what}"))?;
        if url.query().is_some() {
            return Err("issuer must not have a ?".into());
        }
        let audience = word("audience")?;
        let claims = match object.get("claims") {
            Some(Value::Object(claims)) if claims.len() <= CLAIMS_MAX => claims,
            Some(_) => {
                return Err(format!(
                    "claims must be an object of at most {CLAIMS_MAX} claims with their allowed values"
                ));
            }
            None => return Err("claims is missing: without it, every project of this issuer could deploy".into()),
        };
        let claims = claims.iter().map(|(name, value)| Ok((name.clone(), allowed(name, value)?)));
        let rule = Self { issuer, audience, claims: claims.collect::<Result<_, String>>()? };
        rule.pins(&url)?;
        if !PLACES.iter().any(|claim| rule.claims.contains_key(*claim)) {
            notes.push("every branch of the project may deploy; add ref, environment or ref_protected to its claims");
        }
        if rule.audience.starts_with("https://github.com/") && is_github(&url) {
            notes.push(
                "audience is the one that GitHub's tokens have by default; use one that is this installation's own",
            );
        }
        Ok(rule)
    }

    /// Refuses a rule that would open the app to other projects.
    fn pins(&self, issuer: &Url) -> Result<(), String> {
        let has = |claim: &str| self.claims.contains_key(claim);
        let named = if has("repository") || has("project_path") {
            " (a name is not enough: who renames or deletes a project leaves its name to others)"
        } else {
            ""
        };
        if is_github(issuer) {
            return if has("repository_id") {
                Ok(())
            } else {
                Err(format!(
                    "claims lacks repository_id{named}; GitHub signs for every repository. Its number: gh api repos/OWNER/NAME --jq .id"
                ))
            };
        }
        if issuer.host_str() == Some("gitlab.com") {
            return if has("project_id") {
                Ok(())
            } else {
                Err(format!(
                    "claims lacks project_id{named}; GitLab signs for every project. Its number stands on the project's page"
                ))
            };
        }
        let of_names = |values: &Vec<String>| {
            values.iter().any(|value| SUBJECTS_OF_NAMES.iter().any(|begin| value.starts_with(begin)))
        };
        let pinned = PINS.iter().filter_map(|claim| Some((*claim, self.claims.get(*claim)?)));
        if pinned.into_iter().any(|(claim, values)| claim != "sub" || !of_names(values)) {
            return Ok(());
        }
        Err(format!(
            "claims lacks what pins the project{named}: project_id (GitLab), repository_id (GitHub), or another of {}",
            PINS.join(", ")
        ))
    }

    /// Whether a token with these claims fits this rule, but for its time.
    fn fits(&self, claims: &Map<String, Value>) -> Result<(), Mismatch> {
        let made_for = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(&self.audience)),
            Some(one) => one.as_str() == Some(&self.audience),
            None => false,
        };
        if !made_for {
            return Err(Mismatch::Audience);
        }
        for (name, allowed) in &self.claims {
            let given = claims.get(name).and_then(text);
            if !given.is_some_and(|given| allowed.iter().any(|value| *value == given)) {
                return Err(Mismatch::Claim(name.clone()));
            }
        }
        Ok(())
    }
}

/// The values that a rule allows a claim.
fn allowed(name: &str, value: &Value) -> Result<Vec<String>, String> {
    if !is_text(name) {
        return Err(format!("the name of a claim must have 1 to {TEXT_MAX} bytes without control characters"));
    }
    if OWN.contains(&name) {
        return Err(format!(
            "claims.{name} is checked in any case; leave it out (issuer and audience stand beside claims)"
        ));
    }
    let values = match value {
        Value::Array(values) => values.as_slice(),
        one => std::slice::from_ref(one),
    };
    if values.is_empty() || values.len() > CLAIMS_MAX {
        return Err(format!("claims.{name} must have 1 to {CLAIMS_MAX} values"));
    }
    let read = |value: &Value| match text(value) {
        Some(text) if text.contains('*') => {
            Err(format!("claims.{name} has a *; values are compared exactly, and there are no patterns"))
        }
        Some(text) if name == "event_name" && text == REFUSED_EVENT => Err(format!(
            "claims.event_name allows {REFUSED_EVENT}, which is always refused: anybody's pull request would deploy"
        )),
        Some(text) if is_text(&text) => Ok(text.into_owned()),
        Some(_) | None => Err(format!("claims.{name} must be a string, a whole number, a boolean, or a list of them")),
    };
    values.iter().map(read).collect()
}

fn is_text(text: &str) -> bool {
    (1..=TEXT_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// A claim's value as it is compared.
fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Bool(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
        // A fraction has more than one way to be written.
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(Cow::Owned(number.to_string())),
        Value::Number(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// GitHub's, that of an enterprise there included, and a GitHub server's own.
fn is_github(issuer: &Url) -> bool {
    let host = issuer.host_str().unwrap_or_default();
    host == "token.actions.githubusercontent.com"
        || (host.starts_with("token.actions.") && host.ends_with(".ghe.com"))
        || issuer.path().trim_end_matches('/') == "/_services/token"
}

/// Whether the token is good at this moment, in milliseconds since 1970.
pub fn in_time(claims: &Map<String, Value>, now_ms: u64) -> Result<(), Mismatch> {
    #[expect(clippy::cast_precision_loss, reason = "exact for the next 285,000 years")]
    let (now, leeway) = (now_ms as f64 / 1000.0, LEEWAY as f64);
    let time = |claim: &'static str| match claims.get(claim) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(Mismatch::NoTime(claim)),
    };
    let needed = |claim| time(claim)?.ok_or(Mismatch::NoTime(claim));
    if now >= needed("exp")? + leeway {
        return Err(Mismatch::Expired);
    }
    if needed("iat")? > now + leeway {
        return Err(Mismatch::Early("iat"));
    }
    match time("nbf")? {
        Some(begin) if begin > now + leeway => Err(Mismatch::Early("nbf")),
        Some(_) | None => Ok(()),
    }
}

/// Whether a rule names the issuer: only then may it be asked for its keys.
pub fn names(rules: &[Rule], issuer: &str) -> bool {
    rules.iter().any(|rule| rule.issuer == issuer)
}

/// Whether a token with these claims opens an app with these rules, but for its time and its signature. Otherwise what did not match
/// of the last rule that names the issuer.
pub fn fits(rules: &[Rule], claims: &Map<String, Value>) -> Result<(), Mismatch> {
    let issuer = claims.get("iss").and_then(Value::as_str).ok_or(Mismatch::Issuer)?;
    if claims.get("event_name").and_then(Value::as_str) == Some(REFUSED_EVENT) {
        return Err(Mismatch::Event);
    }
    let mut result = Err(Mismatch::Issuer);
    for rule in rules.iter().filter(|rule| rule.issuer == issuer) {
        result = rule.fits(claims);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Whom a token is about, for records and logs: `oidc`, issuer and subject.
pub fn who(claims: &Map<String, Value>) -> String {
    let word = |claim| {
        let text = claims.get(claim).and_then(Value::as_str).unwrap_or("?");
        text.chars().filter(|c| !c.is_control()).take(255).collect::<String>()
    };
    format!("oidc {} {}", word("iss"), word("sub"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const GITHUB: &str = "https://token.actions.githubusercontent.com";

    fn check(rule: &Value) -> Result<(Rule, Vec<String>), String> {
        let mut warnings = Vec::new();
        let rules = check_rules(&json!([rule]), false, &mut warnings)?;
        Ok((rules[0].clone(), warnings))
    }

    fn rule(issuer: &str, claims: Value) -> Value {
        json!({"issuer": issuer, "audience": "https://lockstep.example.org", "claims": claims})
    }

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(object) = value else { panic!("an object: {value}") };
        object
    }

    #[test]
    fn rules_that_pin_the_project_are_taken() {
        for (issuer, claims, warned) in [
            (GITHUB, json!({"repository_id": 1234, "ref": "refs/heads/main"}), false),
            (GITHUB, json!({"repository_id": "1234", "environment": ["production", "staging"]}), false),
            (GITHUB, json!({"repository_id": "1234"}), true),
            ("https://github.example.org/_services/token", json!({"repository_id": "1", "ref": "r"}), false),
            ("https://gitlab.com", json!({"project_id": "22", "ref_protected": true}), false),
            ("https://gitlab.example.org", json!({"project_id": 22, "ref": "main"}), false),
            ("https://ci.example.org/x/", json!({"sub": "job-7"}), false),
        ] {
            let (taken, warnings) = check(&rule(issuer, claims.clone())).expect("a rule");
            assert_eq!(taken.issuer, issuer);
            assert_eq!(!warnings.is_empty(), warned, "{claims}: {warnings:?}");
        }
        let (taken, _) = check(&rule(GITHUB, json!({"repository_id": 1234, "x": [true, "a"]}))).expect("a rule");
        assert_eq!(taken.claims["repository_id"], ["1234"]);
        assert_eq!(taken.claims["x"], ["true", "a"]);
        let default =
            json!({"issuer": GITHUB, "audience": "https://github.com/o", "claims": {"repository_id": 1, "ref": "r"}});
        assert!(check(&default).expect("a rule").1[0].contains("by default"));
    }

    #[test]
    fn what_is_open_or_wrong_is_refused_with_advice() {
        let plain = |issuer| rule(issuer, json!({"project_id": "1"}));
        for (wrong, part) in [
            (rule(GITHUB, json!({})), "lacks repository_id; GitHub signs"),
            (rule(GITHUB, json!({"repository": "o/r", "ref": "refs/heads/main"})), "a name is not enough"),
            (rule(GITHUB, json!({"sub": "repo:o/r:environment:production"})), "gh api"),
            (rule("https://token.actions.githubusercontent.com/enterprise", json!({"actor": "a"})), "repository_id"),
            (rule("https://token.actions.x.ghe.com", json!({"actor": "a"})), "repository_id"),
            (rule("https://g.example.org/_services/token/", json!({"project_id": "1"})), "repository_id"),
            (rule("https://gitlab.com", json!({"ref": "main"})), "lacks project_id; GitLab"),
            (rule("https://gitlab.com", json!({"project_path": "g/p"})), "a name is not enough"),
            (rule("https://gitlab.example.org", json!({"ref": "main"})), "what pins the project"),
            (
                rule("https://gitlab.example.org", json!({"sub": "project_path:g/p:ref_type:branch:ref:main"})),
                "what pins",
            ),
            (
                rule(GITHUB, json!({"repository_id": "1", "event_name": ["push", "pull_request_target"]})),
                "always refused",
            ),
            (rule(GITHUB, json!({"repository_id": "*"})), "there are no patterns"),
            (rule(GITHUB, json!({"repository_id": []})), "1 to 32 values"),
            (rule(GITHUB, json!({"repository_id": 1.5})), "a whole number"),
            (rule(GITHUB, json!({"repository_id": {"x": 1}})), "a whole number"),
            (rule(GITHUB, json!({"repository_id": ""})), "claims.repository_id must be"),
            (rule(GITHUB, json!({"repository_id": "1", "aud": "x"})), "claims.aud is checked in any case"),
            (rule(GITHUB, json!(["repository_id"])), "claims must be an object"),
            (plain("http://gitlab.example.org"), "issuer must be an https:// URL"),
            (plain("http://localhost:1"), "only with egress.allow"),
            (plain("https://u:p@gitlab.example.org"), "without a user"),
            (plain("https://gitlab.example.org/?x"), "must not have a ?"),
            (plain("https://gitlab.example.org/#x"), "or a #"),
            (plain("gitlab.example.org"), "issuer must be"),
            (plain("file:///etc/passwd"), "issuer must be"),
            (plain("https://a\n.example.org"), "without control characters"),
            (json!({"issuer": GITHUB, "claims": {"repository_id": "1"}}), "audience is missing"),
            (json!({"issuer": GITHUB, "audience": "", "claims": {"repository_id": "1"}}), "audience must be"),
            (json!({"issuer": GITHUB, "audience": "a"}), "every project of this issuer"),
            (json!({"issuer": GITHUB, "audience": "a", "claim": {}}), "is not known"),
            (json!("x"), "is not a JSON object"),
        ] {
            let error = check(&wrong).expect_err("refused");
            assert!(error.starts_with("oidc rule 1: ") && error.contains(part), "{wrong}: {error:?}");
        }
        for wrong in [json!([]), json!({}), json!(vec![plain(GITHUB); RULES_MAX + 1])] {
            assert!(check_rules(&wrong, false, &mut vec![]).expect_err("refused").starts_with("oidc must"));
        }
        assert!(check_rules(&json!([plain("http://127.0.0.1:1")]), true, &mut vec![]).is_ok());
        assert!(check_rules(&json!([plain("http://10.0.0.1")]), true, &mut vec![]).is_err());
    }

    #[test]
    fn a_token_fits_when_everything_in_one_rule_is_so() {
        let rules = json!([
            {"issuer": GITHUB, "audience": "us", "claims": {"repository_id": "1", "ref": ["refs/heads/main", "refs/heads/next"]}},
            {"issuer": GITHUB, "audience": "us", "claims": {"repository_id": 2, "flag": true}},
        ]);
        let rules = check_rules(&rules, false, &mut vec![]).expect("rules");
        let good = json!({"iss": GITHUB, "aud": "us", "repository_id": "1", "ref": "refs/heads/next", "more": [1]});
        let with = |changes: Value| {
            let mut claims = object(good.clone());
            claims.extend(object(changes));
            claims.retain(|_, value| !value.is_null());
            fits(&rules, &claims)
        };
        let claim = |name: &str| Err(Mismatch::Claim(name.to_owned()));
        for (changes, expected) in [
            (json!({}), Ok(())),
            (json!({"aud": ["them", "us"]}), Ok(())),
            (json!({"repository_id": 2, "flag": "true"}), Ok(())),
            (json!({"repository_id": "2", "flag": true}), Ok(())),
            (json!({"repository_id": "2"}), claim("flag")),
            (json!({"repository_id": "01"}), claim("flag")),
            (json!({"repository_id": ["1"]}), claim("flag")),
            (json!({"repository_id": null}), claim("flag")),
            (json!({"ref": "refs/heads/mainly"}), claim("flag")),
            (json!({"aud": "them"}), Err(Mismatch::Audience)),
            (json!({"aud": null}), Err(Mismatch::Audience)),
            (json!({"aud": "us "}), Err(Mismatch::Audience)),
            (json!({"aud": [["us"]]}), Err(Mismatch::Audience)),
            (json!({"iss": "https://token.actions.githubusercontent.com/"}), Err(Mismatch::Issuer)),
            (json!({"iss": null}), Err(Mismatch::Issuer)),
            (json!({"iss": ["x"]}), Err(Mismatch::Issuer)),
            (json!({"event_name": "push"}), Ok(())),
            (json!({"event_name": "pull_request_target"}), Err(Mismatch::Event)),
        ] {
            assert_eq!(with(changes.clone()), expected, "{changes}");
        }
        assert_eq!(fits(&rules[..1], &object(json!({"iss": GITHUB, "aud": "us", "repository_id": "1"}))), claim("ref"));
        assert_eq!(fits(&[], &object(good)), Err(Mismatch::Issuer));
        assert!(names(&rules, GITHUB) && !names(&rules, "https://gitlab.com"));
    }

    #[test]
    fn a_token_is_good_for_its_time_and_the_leeway() {
        let now = 1_000_000;
        let at = |changes: Value| {
            let mut claims = object(json!({"exp": now + 300, "iat": now, "nbf": now}));
            claims.extend(object(changes));
            claims.retain(|_, value| !value.is_null());
            in_time(&claims, now * 1000)
        };
        for (changes, expected) in [
            (json!({}), Ok(())),
            (json!({"nbf": null}), Ok(())),
            (json!({"exp": now - 59, "iat": now - 400}), Ok(())),
            (json!({"exp": now - 60}), Err(Mismatch::Expired)),
            (json!({"iat": now + 60, "nbf": now + 60}), Ok(())),
            (json!({"iat": now + 61}), Err(Mismatch::Early("iat"))),
            (json!({"nbf": now + 61}), Err(Mismatch::Early("nbf"))),
            (json!({"nbf": (now + 61) as f64 + 0.5}), Err(Mismatch::Early("nbf"))),
            (json!({"exp": null}), Err(Mismatch::NoTime("exp"))),
            (json!({"iat": null}), Err(Mismatch::NoTime("iat"))),
            (json!({"exp": "9999999999"}), Err(Mismatch::NoTime("exp"))),
            (json!({"nbf": true}), Err(Mismatch::NoTime("nbf"))),
        ] {
            assert_eq!(at(changes.clone()), expected, "{changes}");
        }
    }

    #[test]
    fn who_is_one_line() {
        assert_eq!(who(&object(json!({"iss": "https://i", "sub": "a\nb"}))), "oidc https://i ab");
        assert_eq!(who(&object(json!({"sub": 7}))), "oidc ? ?");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_and_no_error_repeats_a_value(
            issuer in "[a-z:/.@?#\\[\\]*]{0,24}", name in "[a-z_]{0,8}", value in "[A-Z]{12}", number in any::<f64>(),
        ) {
            for claim in [json!(value), json!([value, 1]), json!(number), json!({"x": value})] {
                let rule = json!({"issuer": issuer, "audience": value, "claims": {name.clone(): claim}});
                if let Err(error) = check(&rule) {
                    prop_assert!(!error.contains(&value), "{error}");
                }
            }
            let claims = object(json!({"iss": issuer, "aud": value, "exp": number, "iat": number, name: value}));
            let _ = (in_time(&claims, 1), fits(&[], &claims), who(&claims));
        }
    }
}
