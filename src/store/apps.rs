//! The list of apps: replaced in one step, read whole.
//!
//! Credentials are checked against a copy of it, which is good for as long as Redis says its version: so a request costs no
//! more than that word, and yet sees a list from the moment it was posted, by whichever dispatcher.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::value::{bytes, pairs, text};
use super::{Result, Store, StoreError, StoredApp, scripts};
use crate::model::app::{App, VarRule};
use crate::model::ids::{Action, DeploymentId, Inventory, Word};
use crate::model::oidc::Rule;

/// A copy of the list.
pub(super) struct AppList {
    version: String,
    /// None: there is something that is no app.
    apps: HashMap<String, Option<StoredApp>>,
}

/// An app as it stands in Redis.
#[derive(Serialize, Deserialize)]
struct Entry {
    inventory: Inventory,
    action: Action,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    vars: BTreeMap<Word, VarRule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    oidc: Vec<Rule>,
    /// Hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
}

fn stored_app(deployment_id: &str, json: &[u8]) -> Option<StoredApp> {
    let deployment_id = deployment_id.parse().ok()?;
    let Entry { inventory, action, vars, oidc, hash } = serde_json::from_slice(json).ok()?;
    // What neither a secret nor a token can open was not written here.
    if hash.is_none() && oidc.is_empty() {
        return None;
    }
    let hash = match hash {
        Some(digits) => Some(unhex(&digits)?),
        None => None,
    };
    Some(StoredApp { app: App { deployment_id, inventory, action, vars, oidc }, hash })
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    digits.len().is_multiple_of(2).then_some(())?;
    digits.chunks_exact(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect()
}

fn unreadable(app: &str) -> StoreError {
    StoreError::Unreadable(format!("apps ({app})"))
}

impl Store {
    /// Replaces the list of apps in one step. `Err(count)`: the list would be empty or shrink to less than half of `count` apps
    /// and `force` was not given; nothing was changed.
    pub async fn set_apps(&self, apps: &[StoredApp], force: bool) -> Result<std::result::Result<(), u64>> {
        let mut reply = self
            .run(&scripts::APPS, self.quick(), |call| {
                call.arg(u8::from(force));
                for StoredApp { app, hash } in apps {
                    let entry = Entry {
                        inventory: app.inventory.clone(),
                        action: app.action.clone(),
                        vars: app.vars.clone(),
                        oidc: app.oidc.clone(),
                        hash: hash.as_ref().map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect()),
                    };
                    let json = serde_json::to_string(&entry).expect("names and digits can be written as JSON");
                    call.arg(app.deployment_id.as_str()).arg(json);
                }
            })
            .await?;
        match reply.word.as_str() {
            "OK" => Ok(Ok(())),
            "SHRUNK" => Ok(Err(reply.parse()?)),
            _ => reply.unexpected(),
        }
    }

    /// The apps, ordered by id; None: no list was ever posted (or it is gone).
    pub async fn apps(&self) -> Result<Option<Vec<StoredApp>>> {
        let key = self.keys().apps_version();
        let answers = self.read(self.quick(), &key, |pipe| {
            pipe.cmd("GET").arg(&key);
        });
        let version = answers.await?.next()?;
        let Some(list) = self.list_of(text(&version)).await? else { return Ok(None) };
        let mut apps = Vec::with_capacity(list.apps.len());
        for (id, app) in &list.apps {
            apps.push(app.clone().ok_or_else(|| unreadable(id))?);
        }
        apps.sort_by(|a, b| a.app.deployment_id.cmp(&b.app.deployment_id));
        Ok(Some(apps))
    }

    /// An app of the list that has this version (or of a newer one), and whether there is a list.
    pub(super) async fn app_of(&self, version: Option<&str>, app: &DeploymentId) -> Result<(Option<StoredApp>, bool)> {
        let Some(list) = self.list_of(version).await? else { return Ok((None, false)) };
        match list.apps.get(app.as_str()) {
            Some(Some(app)) => Ok((Some(app.clone()), true)),
            Some(None) => Err(unreadable(app.as_str())),
            None => Ok((None, true)),
        }
    }

    /// The list of this version: the copy, or one that is read now and may be newer. None: it is gone.
    async fn list_of(&self, version: Option<&str>) -> Result<Option<Arc<AppList>>> {
        let Some(version) = version else { return Ok(None) };
        if let Some(list) = self.shared.apps.load_full()
            && list.version == version
        {
            return Ok(Some(list));
        }
        let key = self.keys().apps();
        let answers = self.read(self.outlet(), &key, |pipe| {
            pipe.cmd("HGETALL").arg(&key);
        });
        let mut list = AppList { version: String::new(), apps: HashMap::new() };
        for (id, entry) in pairs(answers.await?.next()?) {
            let id = text(&id).unwrap_or("?").to_owned();
            match (id.as_str(), entry) {
                ("", version) => text(&version).unwrap_or_default().clone_into(&mut list.version),
                (_, entry) => {
                    let app = bytes(entry).and_then(|json| stored_app(&id, &json));
                    list.apps.insert(id, app);
                }
            }
        }
        if list.version.is_empty() {
            return Ok(None);
        }
        let list = Arc::new(list);
        self.shared.apps.store(Some(list.clone()));
        Ok(Some(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_an_app_is_unreadable() {
        let good = br#"{"inventory":"i","action":"app-deploy","hash":"00ff"}"#;
        assert_eq!(stored_app("a", good).expect("an app").hash, Some(vec![0, 255]));
        let open =
            br#"{"inventory":"i","action":"a","oidc":[{"issuer":"https://i","audience":"a","claims":{"sub":["s"]}}]}"#;
        let open = stored_app("a", open).expect("an app");
        assert_eq!((open.hash, open.app.oidc.len()), (None, 1));
        assert_eq!(stored_app("../a", good), None);
        for bad in [
            "",
            "{}",
            r#"{"inventory":"i","action":"a"}"#,
            r#"{"inventory":"i","action":"a","hash":"00","oidc":[{}]}"#,
            r#"{"inventory":"i","action":"a","hash":"0"}"#,
            r#"{"inventory":"../i","action":"a","hash":"00"}"#,
        ] {
            assert_eq!(stored_app("a", bad.as_bytes()), None, "{bad}");
        }
    }
}
