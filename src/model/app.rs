//! Apps: the entries of the feed, checked one by one and as a list.
//!
//! A feed is taken whole or not at all: an entry that is wrong names itself by its position, and nothing is changed.
//! Unknown fields are no error, because feeds outlive dispatchers; they are answered with a warning.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ids::{Action, DeploymentId, Inventory, Word};
use super::oidc::{self, Rule};

/// Shortest secret that is taken, in bytes: shorter ones could be guessed, and masking them would blank out half the output.
pub const SECRET_MIN: usize = 8;
/// Longest secret that is taken, in bytes.
pub const SECRET_MAX: usize = 1024;
/// The most apps that one feed may list.
pub const APPS_MAX: usize = 10_000;
/// The action of an app that names none.
pub const DEFAULT_ACTION: &str = "app-deploy";
/// The action that posts the list of apps.
pub const FEED_ACTION: &str = "announce-apps";

/// A text that is never shown: not by `Debug`, not by a log, not in an answer. Wiped when it is dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself: for hashing, masking and handing to the container, nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A variable that requests for an app may set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VarRule {
    /// A regular expression that the whole value must match; none: any value of at most 4,096 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = Regex)]
    pub pattern: Option<String>,
    /// Whether the value is masked in the output and kept encrypted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
}

/// What a deployment id stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Its id.
    pub deployment_id: DeploymentId,
    /// The inventory that it deploys to.
    pub inventory: Inventory,
    /// What its container is asked to do.
    pub action: Action,
    /// The variables that it accepts.
    pub vars: BTreeMap<Word, VarRule>,
    /// Which ID tokens of a CI open it.
    pub oidc: Vec<Rule>,
}

/// One checked entry of a feed: the app and its secret, which goes no further than its hash.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The app.
    pub app: App,
    /// Its secret in plain, as the feed gave it; none: it is opened by ID tokens alone.
    pub secret: Option<Secret>,
}

/// A feed that was taken: its entries, and what was not understood.
#[derive(Debug)]
pub struct Feed {
    /// The entries, in the feed's order.
    pub entries: Vec<Entry>,
    /// A sentence for each thing that was passed over.
    pub warnings: Vec<String>,
}

/// Why a feed was refused. Nothing of it was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// The body is no array.
    #[error("the list of apps must be a JSON array of objects")]
    NotAnArray,
    /// More entries than are taken.
    #[error("the list has {count} apps; at most {APPS_MAX} are taken")]
    TooMany {
        /// Entries given.
        count: usize,
    },
    /// One entry is wrong.
    #[error("app number {number} of the list: {what}")]
    Entry {
        /// Its position, counted from 1.
        number: usize,
        /// What is wrong with it. Never holds a value, which could be a secret in the wrong place.
        what: String,
    },
}

impl Feed {
    /// Checks a feed. `actions` are the configured ones; `http_on_loopback`: issuers on this machine may do without TLS.
    pub fn check(body: &Value, actions: &[Action], http_on_loopback: bool) -> Result<Feed, FeedError> {
        let list = body.as_array().ok_or(FeedError::NotAnArray)?;
        if list.len() > APPS_MAX {
            return Err(FeedError::TooMany { count: list.len() });
        }
        let mut seen = HashSet::new();
        let mut warnings = Vec::new();
        let mut entries = Vec::with_capacity(list.len());
        for (index, value) in list.iter().enumerate() {
            let number = index + 1;
            let mut notes = Vec::new();
            let entry = check_entry(value, actions, http_on_loopback, &mut notes)
                .map_err(|what| FeedError::Entry { number, what })?;
            warnings.extend(notes.into_iter().map(|note| format!("app number {number} of the list: {note}")));
            if !seen.insert(entry.app.deployment_id.clone()) {
                return Err(FeedError::Entry {
                    number,
                    what: format!(
                        "deployment_id \"{}\" stands in the list twice; give each app an id of its own",
                        entry.app.deployment_id
                    ),
                });
            }
            entries.push(entry);
        }
        Ok(Feed { entries, warnings })
    }
}

fn check_entry(
    value: &Value,
    actions: &[Action],
    http_on_loopback: bool,
    warnings: &mut Vec<String>,
) -> Result<Entry, String> {
    let object = value.as_object().ok_or("is not a JSON object")?;
    let text = |field: &str| match object.get(field) {
        None | Some(Value::Null) => Err(format!("{field} is missing")),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("{field} must be a string")),
    };
    let deployment_id = DeploymentId::try_from(text("deployment_id")?).map_err(|e| format!("deployment_id {e}"))?;
    let inventory = Inventory::try_from(text("inventory")?).map_err(|e| format!("inventory {e}"))?;
    if inventory.is_of_environment() {
        return Err("inventory must hold no '/': such a one is that of a service of an environment".into());
    }
    let oidc = match object.get("oidc") {
        None | Some(Value::Null) => Vec::new(),
        Some(rules) => oidc::check_rules(rules, http_on_loopback, warnings)?,
    };
    let secret = match object.get("deployment_secret") {
        None | Some(Value::Null) if !oidc.is_empty() => None,
        None | Some(Value::Null) => {
            return Err("deployment_secret is missing; only an app with oidc can do without".into());
        }
        Some(_) => Some(Secret::new(text("deployment_secret")?)),
    };
    if let Some(secret) = &secret {
        if !(SECRET_MIN..=SECRET_MAX).contains(&secret.expose().len()) {
            return Err(format!("deployment_secret must have {SECRET_MIN} to {SECRET_MAX} bytes"));
        }
        if secret.expose().chars().any(char::is_control) {
            return Err("deployment_secret must not hold control characters".into());
        }
    }
    let action = match object.get("action") {
        None | Some(Value::Null) => Action::try_from(DEFAULT_ACTION.to_owned()),
        Some(Value::String(text)) => Action::try_from(text.clone()),
        Some(_) => return Err("action must be a string".into()),
    }
    .map_err(|e| format!("action {e}"))?;
    if !actions.contains(&action) {
        let known: Vec<_> = actions.iter().map(Action::as_str).collect();
        return Err(format!("action is not one of runner.actions ({})", known.join(", ")));
    }
    let vars: BTreeMap<Word, VarRule> = match object.get("vars") {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(vars) => serde_json::from_value(vars.clone())
            // Not the error's own words: they may repeat a value.
            .map_err(|_| "vars must map names to {\"pattern\": …, \"secret\": …}")?,
    };
    for (name, rule) in &vars {
        if !super::vars::is_identifier(name) {
            return Err(format!(
                "vars.{name}: a variable's name is made of letters, digits and _, and does not begin with a digit"
            ));
        }
        if super::vars::is_reserved(name) {
            return Err(format!("vars.{name}: names that begin with ansible_ or lockstep_ cannot be set by requests"));
        }
        if let Some(pattern) = &rule.pattern {
            super::vars::compile(pattern).map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => format!("vars.{name}.pattern is too large a regular expression"),
                _ => format!("vars.{name}.pattern is not a regular expression"),
            })?;
        }
    }
    for field in object.keys() {
        if !matches!(field.as_str(), "deployment_id" | "deployment_secret" | "inventory" | "action" | "vars" | "oidc") {
            let shown: String = field.chars().filter(|c| !c.is_control()).take(64).collect();
            warnings.push(format!("field \"{shown}\" is not known and was passed over"));
        }
    }
    Ok(Entry { app: App { deployment_id, inventory, action, vars, oidc }, secret })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn actions() -> Vec<Action> {
        ["app-deploy", "announce-apps"].map(|a| a.parse().expect("an action")).to_vec()
    }

    #[test]
    fn the_sample_is_taken() {
        let body = serde_json::from_str(include_str!("../../sample_inventory.json")).expect("JSON");
        let feed = Feed::check(&body, &actions(), false).expect("a feed");
        assert_eq!(feed.entries.len(), 2);
        assert!(feed.warnings.is_empty());
        assert_eq!(feed.entries[0].app.inventory.as_str(), "app-one.epfl.ch");
        assert_eq!(feed.entries[0].app.action.as_str(), "app-deploy");
        assert_eq!(format!("{:?}", feed.entries[0].secret), "Some(Secret(…))");
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_is_taken() {
        let good = json!({"deployment_id": "a", "deployment_secret": "12345678", "inventory": "i"});
        let with = |field: &str, value: Value| {
            let mut entry = good.clone();
            entry[field] = value;
            json!([good.clone(), entry])
        };
        for (body, part) in [
            (json!({}), "JSON array"),
            (json!([1]), "app number 1 of the list: is not a JSON object"),
            (with("deployment_id", json!(7)), "number 2 of the list: deployment_id must be a string"),
            (with("deployment_id", json!("a")), "stands in the list twice"),
            (with("inventory", json!("../x")), "inventory must begin with"),
            (with("inventory", json!(null)), "inventory is missing"),
            (with("deployment_secret", json!("short")), "8 to 1024 bytes"),
            (with("deployment_secret", json!(null)), "only an app with oidc"),
            (with("deployment_secret", json!(12345678)), "deployment_secret must be a string"),
            (
                with("oidc", json!([{"issuer": "https://gitlab.com", "audience": "a", "claims": {}}])),
                "oidc rule 1: claims lacks",
            ),
            (with("deployment_secret", json!("12345678\n")), "control characters"),
            (with("action", json!("rm")), "runner.actions (app-deploy, announce-apps)"),
            (with("vars", json!({"ansible_user": {}})), "ansible_"),
            (with("vars", json!({"v": {"pattern": "("}})), "vars.v.pattern is not a regular expression"),
            (with("vars", json!({"v": {"pattern": "\\w{1000}{1000}"}})), "vars.v.pattern is too large"),
            (with("vars", json!({"a.b": {}})), "vars.a.b: a variable's name"),
            (with("vars", json!({"1st": {}})), "vars.1st: a variable's name"),
            (with("vars", json!(["v"])), "vars must map names"),
        ] {
            let error = Feed::check(&body, &actions(), false).expect_err("an error").to_string();
            assert!(error.contains(part), "{error:?} should contain {part:?}");
        }
    }

    #[test]
    fn an_app_with_rules_for_id_tokens_can_do_without_a_secret() {
        let rule = json!({"issuer": "https://gitlab.com", "audience": "a", "claims": {"project_id": 7}});
        let mut body = json!([{"deployment_id": "a", "inventory": "i", "oidc": [rule]}]);
        let feed = Feed::check(&body, &actions(), false).expect("a feed");
        assert!(feed.entries[0].secret.is_none() && feed.entries[0].app.oidc.len() == 1);
        assert!(
            feed.warnings[0].starts_with("app number 1 of the list: oidc rule 1: every branch"),
            "{:?}",
            feed.warnings
        );
        body[0]["deployment_secret"] = json!("12345678");
        assert!(Feed::check(&body, &actions(), false).expect("a feed").entries[0].secret.is_some());
        body[0]["deployment_secret"] = json!("");
        assert!(Feed::check(&body, &actions(), false).is_err());
    }

    #[test]
    fn unknown_fields_are_warned_of() {
        let body = json!([{"deployment_id": "a", "deployment_secret": "12345678", "inventory": "i", "colour": 1}]);
        let feed = Feed::check(&body, &actions(), false).expect("a feed");
        assert_eq!(feed.warnings.len(), 1);
        assert!(feed.warnings[0].contains("colour"));
    }

    proptest! {
        #[test]
        fn no_error_repeats_a_secret(id in "[ -~]{0,12}", secret in "[a-zA-Z0-9]{20}", inventory in "[ -~]{0,12}") {
            let body = json!([{"deployment_id": id, "deployment_secret": secret.clone(), "inventory": inventory}]);
            if let Err(error) = Feed::check(&body, &actions(), false) {
                prop_assert!(!error.to_string().contains(&secret));
            }
        }
    }
}
