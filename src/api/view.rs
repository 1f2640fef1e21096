//! From what is stored to what is shown.

use crate::model::app::App;
use crate::model::job::{Record, State};
use crate::model::webhook;
use crate::store::{
    AuditLine, DeadLetter, Freeze, JobView, LockState, StoredApp, StoredPipeline, StoredToken, StoredWebhook,
};
use crate::wire;
pub(super) use crate::wire::time;

/// Where a job is, without how it ended.
pub(super) fn state(state: State) -> wire::JobState {
    match state {
        State::Queued => wire::JobState::Queued,
        State::Starting => wire::JobState::Starting,
        State::Running => wire::JobState::Running,
        State::Canceling => wire::JobState::Canceling,
        State::Ended(_) => wire::JobState::Finished,
    }
}

/// The word for it in headers.
pub(super) fn state_word(state: wire::JobState) -> &'static str {
    match state {
        wire::JobState::Queued => "queued",
        wire::JobState::Starting => "starting",
        wire::JobState::Running => "running",
        wire::JobState::Canceling => "canceling",
        wire::JobState::Finished => "finished",
    }
}

fn record(record: Record) -> wire::Job {
    wire::Job {
        job_id: record.id.to_string(),
        deployment_id: record.deployment_id.into(),
        inventory: record.inventory.into(),
        action: record.action.into(),
        state: state(record.state),
        outcome: record.state.outcome(),
        exit_code: record.exit_code,
        reason: record.reason,
        created_at: time(record.created_ms),
        started_at: record.started_ms.map(time),
        ended_at: record.ended_ms.map(time),
        fence: record.fence.map(|fence| fence.0),
        image_digest: record.image_digest,
        queue_position: None,
        superseded_by: record.superseded_by.map(|job| job.to_string()),
        output_bytes: 0,
        progress: None,
    }
}

/// A job.
pub(super) fn job(view: JobView) -> wire::Job {
    wire::Job {
        output_bytes: view.output_bytes,
        queue_position: view.queue_position,
        // What was stored has been checked; a report of a later version that cannot be read is not worth an error.
        progress: view.progress.and_then(|report| serde_json::from_value(report.into()).ok()),
        ..record(view.record)
    }
}

/// An app, without its secret.
pub(super) fn app(stored: StoredApp) -> wire::AppView {
    let App { deployment_id, inventory, action, vars, oidc } = stored.app;
    wire::AppView {
        deployment_id: deployment_id.into(),
        inventory: inventory.into(),
        action: action.into(),
        vars: vars.into_iter().map(|(name, rule)| (name.into(), rule)).collect(),
        oidc,
    }
}

/// A token, without what opens.
pub(super) fn token(token: StoredToken) -> wire::TokenView {
    wire::TokenView {
        name: token.grant.name.into(),
        role: token.grant.role,
        groups: token.grant.groups.into_iter().map(Into::into).collect(),
        issued_at: time(token.issued_ms),
        by: token.by,
        expires_at: token.expires_ms.map(time),
    }
}

/// A line of the audit log.
pub(super) fn audit(line: AuditLine) -> wire::AuditView {
    let AuditLine { at, by, what, about, reason } = line;
    wire::AuditView { id: at.to_string(), time: time(at.ms()), by, what, about, reason }
}

/// A webhook, without its secret.
pub(super) fn webhook(stored: StoredWebhook) -> wire::WebhookView {
    let StoredWebhook { webhook: hook, by, after, streak, error, delivered_ms, dead, sealed: _ } = stored;
    let failing = (streak.failures > 0).then_some(streak);
    wire::WebhookView {
        name: hook.name.into(),
        url: webhook::shown(&hook.url),
        deployment_id: hook.deployment_id.map(Into::into),
        types: hook.types,
        recipient: hook.recipient.map(Into::into),
        by,
        after: after.to_string(),
        delivered_at: delivered_ms.map(time),
        failures: streak.failures,
        failing_since: failing.map(|streak| time(streak.since_ms)),
        next_try: failing.map(|streak| time(streak.next_ms)),
        error,
        dead_letters: dead,
    }
}

/// One version of a pipeline.
pub(super) fn pipeline(stored: StoredPipeline) -> wire::PipelineView {
    let StoredPipeline { pipeline, version, file, by, made_ms } = stored;
    wire::PipelineView {
        name: pipeline.name.to_string(),
        version,
        product: pipeline.product.into(),
        stages: pipeline.stages.into_iter().map(|stage| stage.name.into()).collect(),
        by,
        made_at: time(made_ms),
        file,
    }
}

/// An event that was given up.
pub(super) fn dead_letter(letter: DeadLetter) -> wire::DeadLetterView {
    let DeadLetter { event, given_up_ms, error } = letter;
    wire::DeadLetterView { event: event.to_string(), given_up_at: time(given_up_ms), error }
}

/// A freeze.
pub(super) fn freeze(freeze: Freeze) -> wire::FreezeView {
    wire::FreezeView { reason: freeze.reason, by: freeze.by, until: freeze.until_ms.map(time) }
}

/// A lock, its queue and its freeze, at a moment by Redis' clock.
pub(super) fn lock(lock: LockState, now_ms: u64) -> wire::LockView {
    let since_ms = lock.record.as_ref().and_then(|record| record.locked_ms);
    let reason = lock.holder.map(|_| why_held(lock.record.as_ref()));
    wire::LockView {
        inventory: lock.inventory.into(),
        job_id: lock.holder.map(|job| job.to_string()),
        state: lock.record.as_ref().map(|record| state(record.state)),
        fence: lock.record.as_ref().and_then(|record| record.fence).map(|fence| fence.0),
        deployment_id: lock.record.map(|record| record.deployment_id.into()),
        since: since_ms.map(time),
        age_seconds: since_ms.map(|since| now_ms.saturating_sub(since) / 1000),
        reason,
        reserved_for: lock.reserved_for.map(|release| release.to_string()),
        waiting: lock.waiting.iter().map(ToString::to_string).collect(),
        freeze: lock.freeze.map(freeze),
    }
}

/// Why a lock is held: what its holder's record says.
fn why_held(record: Option<&Record>) -> String {
    let Some(record) = record else { return "the holder's record cannot be read; the reconciler makes it anew".into() };
    match record.state {
        State::Canceling => {
            let why = record.reason.as_deref().unwrap_or("somebody has asked for it");
            format!("its container is being ended: {why}")
        }
        _ if record.exit_code.is_some() => "its container has ended; the outcome is being set".into(),
        State::Starting | State::Running if record.reason.is_some() => record.reason.clone().unwrap_or_default(),
        State::Running => "its container runs".into(),
        State::Queued | State::Starting => "its container is being created".into(),
        State::Ended(_) => "its job has ended; the lock goes on with the next pass".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_683_035_963_007), "2023-05-02T13:59:23.007Z");
        assert!(time(u64::MAX).starts_with("9999-12-"));
    }
}
