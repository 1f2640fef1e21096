//! The list of apps: replaced in one step, read whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::value::{bytes, number, pairs, text};
use super::{Result, Store, StoreError, StoredApp, scripts};
use crate::model::app::{App, VarRule};
use crate::model::ids::{Action, DeploymentId, Inventory, Word};

/// An app as it stands in Redis.
#[derive(Serialize, Deserialize)]
struct Entry {
    inventory: Inventory,
    action: Action,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    vars: BTreeMap<Word, VarRule>,
    /// Hexadecimal digits.
    hash: String,
}

/// Reads an app as it stands in Redis.
pub(super) fn stored_app(deployment_id: DeploymentId, json: &[u8]) -> Result<StoredApp> {
    let read = || {
        let Entry { inventory, action, vars, hash } = serde_json::from_slice(json).ok()?;
        let hash = unhex(&hash)?;
        Some(StoredApp { app: App { deployment_id: deployment_id.clone(), inventory, action, vars }, hash })
    };
    read().ok_or_else(|| StoreError::Unreadable(format!("apps ({deployment_id})")))
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    digits.len().is_multiple_of(2).then_some(())?;
    digits.chunks_exact(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect()
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
                        hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
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
        let answers = self.read(self.quick(), "apps", |pipe| {
            pipe.cmd("EXISTS").arg(self.keys().apps_meta());
            pipe.cmd("HGETALL").arg(self.keys().apps());
        });
        let mut answers = answers.await?;
        if number::<u64>(&answers.next()?) != Some(1) {
            return Ok(None);
        }
        let mut apps = Vec::new();
        for (id, entry) in pairs(answers.next()?) {
            let unreadable = || StoreError::Unreadable("apps".to_owned());
            let id = text(&id).and_then(|id| id.parse().ok()).ok_or_else(unreadable)?;
            apps.push(stored_app(id, &bytes(entry).ok_or_else(unreadable)?)?);
        }
        apps.sort_by(|a, b| a.app.deployment_id.cmp(&b.app.deployment_id));
        Ok(Some(apps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_an_app_is_unreadable() {
        let id = || "a".parse::<DeploymentId>().expect("a name");
        let good = br#"{"inventory":"i","action":"app-deploy","hash":"00ff"}"#;
        assert_eq!(stored_app(id(), good).expect("an app").hash, [0, 255]);
        for bad in [
            "",
            "{}",
            r#"{"inventory":"i","action":"a","hash":"0"}"#,
            r#"{"inventory":"../i","action":"a","hash":"00"}"#,
        ] {
            assert!(matches!(stored_app(id(), bad.as_bytes()), Err(StoreError::Unreadable(_))), "{bad}");
        }
    }
}
