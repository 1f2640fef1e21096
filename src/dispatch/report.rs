//! What a container reports of itself: masked, and kept beside its job.
//!
//! A report comes over the API while the job runs, best effort. What later jobs of a release or an order depend on must not be lost with
//! it: a container that has not been heard leaves its last report in a file of its own layer, which is read before its end is recorded.

use serde_json::{Map, Value};

use super::Dispatcher;
use super::launch::{REPORT, REPORT_MAX};
use super::supervise::Trouble;
use crate::model::app::Secret;
use crate::model::ids::JobId;
use crate::model::job::Record;
use crate::model::mask::Masker;
use crate::store::StoreError;
use crate::wire::Progress;

impl Dispatcher {
    /// Keeps a report, all that is secret in it masked. False: the job has ended, and nothing was kept.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn take_report(&self, job: JobId, report: Progress) -> Result<bool, StoreError> {
        let sealed = self.parts.store.sealed(job).await?;
        let secrets = sealed.and_then(|sealed| self.parts.pepper.open(job, &sealed));
        let Ok(Value::Object(mut report)) = serde_json::to_value(report) else {
            return Err(StoreError::Unreadable(format!("the report of {job}")));
        };
        match secrets {
            Some(secrets) => {
                let token = self.parts.pepper.job_token(job);
                mask(&mut report, &mut Masker::new(secrets.masks.iter().chain([&token]).map(Secret::expose)));
            }
            // What cannot be masked is withheld; counts need no masking.
            None => report.retain(|field, _| field == "tasks_done"),
        }
        self.parts.store.progress(job, &report).await
    }

    /// Takes the report that an ended container of a release or an order has left, if it has left one.
    pub(super) async fn read_report(&self, record: &Record, container: &str) -> Result<(), Trouble> {
        if record.release.is_none() && record.order.is_none() {
            return Ok(());
        }
        let left = self.parts.engine.read_file(container, REPORT, REPORT_MAX).await?;
        let Some(left) = left.filter(|left| !left.is_empty()) else { return Ok(()) };
        match serde_json::from_slice(&left) {
            Ok(report) => {
                self.take_report(record.id, report).await?;
            }
            Err(error) => {
                tracing::warn!(job.id = %record.id, container, %error, "what the container has left as its report cannot be read");
            }
        }
        Ok(())
    }
}

/// Masks every text of a report, names of hosts and outputs included.
fn mask(report: &mut Map<String, Value>, masker: &mut Masker) {
    for (name, mut value) in std::mem::take(report) {
        mask_value(&mut value, masker);
        report.insert(masked(&name, masker), value);
    }
}

fn mask_value(value: &mut Value, masker: &mut Masker) {
    match value {
        Value::String(text) => *text = masked(text, masker),
        Value::Array(items) => items.iter_mut().for_each(|item| mask_value(item, masker)),
        Value::Object(fields) => mask(fields, masker),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn masked(text: &str, masker: &mut Masker) -> String {
    let mut out = Vec::with_capacity(text.len());
    masker.push(text.as_bytes(), &mut out);
    // Each text is a stream of its own.
    masker.finish(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_in_a_report_are_masked_wherever_they_stand() {
        let Value::Object(mut report) = json!({
            "task": "Log in with hush-hush", "tasks_done": 3, "outputs": {"hush-hush": ["a hush-hush b", {"x": "hush-hush"}]},
        }) else {
            panic!("an object")
        };
        mask(&mut report, &mut Masker::new(["hush-hush"]));
        assert_eq!(
            Value::Object(report),
            json!({"task": "Log in with ***", "tasks_done": 3, "outputs": {"***": ["a *** b", {"x": "***"}]}})
        );
    }
}
