//! What is said at the end of a job, and tables.

use std::fmt::Write as _;
use std::time::Duration;

use super::escape::{lines, plain};
use super::screen::Tone;
use crate::wire::{Failure, HostRecap, Job, JobState, Outcome};

/// The most lines of a failure's message that are shown; the output has the rest.
const MESSAGE_LINES: usize = 20;

/// A table whose columns are as wide as their longest cell; columns but the first `left` are set to the right.
pub(super) fn table(rows: &[Vec<String>], left: usize) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let _ =
                if column < left { write!(line, "{gap}{cell:<width$}") } else { write!(line, "{gap}{cell:>width$}") };
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A time for people, to two units.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

/// How long a job ran, by the dispatcher's times.
fn took(job: &Job) -> Option<Duration> {
    let from: jiff::Timestamp = job.started_at.as_deref()?.parse().ok()?;
    let to: jiff::Timestamp = job.ended_at.as_deref()?.parse().ok()?;
    Duration::try_from(to.duration_since(from)).ok()
}

/// The end of a job: recap per host, failures, outcome.
pub(super) fn end(job: &Job, colour: bool) -> Vec<String> {
    let mut said = Vec::new();
    let progress = job.progress.clone().unwrap_or_default();
    if let Some(hosts) = progress.recap.filter(|hosts| !hosts.is_empty()) {
        let mut rows = vec![
            ["host", "ok", "changed", "unreachable", "failed", "skipped", "rescued", "ignored"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let mut tones = vec![Tone::Quiet];
        for (host, recap) in &hosts {
            let HostRecap { ok, changed, unreachable, failed, skipped, rescued, ignored } = *recap;
            let counts = [ok, changed, unreachable, failed, skipped, rescued, ignored].map(|count| count.to_string());
            rows.push(std::iter::once(plain(host)).chain(counts).collect());
            tones.push(if unreachable + failed > 0 { Tone::Bad } else { Tone::Plain });
        }
        said.push(String::new());
        said.extend(table(&rows, 1).iter().zip(tones).map(|(line, tone)| tone.paint(colour, line)));
    }
    for Failure { host, task, message } in progress.failures.unwrap_or_default() {
        said.push(String::new());
        let head = format!("failed on {}, task \"{}\":", plain(&host), plain(&task));
        said.push(Tone::Bad.paint(colour, &head));
        let message = lines(&message);
        said.extend(message.iter().take(MESSAGE_LINES).map(|line| format!("  | {line}")));
        if message.len() > MESSAGE_LINES {
            said.push(format!("  | … and {} more lines", message.len() - MESSAGE_LINES));
        }
    }
    said.push(String::new());
    let tone = if job.outcome == Some(Outcome::Succeeded) { Tone::Good } else { Tone::Bad };
    said.push(tone.paint(colour, &outcome(job)));
    said
}

/// The outcome in one line.
pub(super) fn outcome(job: &Job) -> String {
    let word = job.outcome.map_or("not over", Outcome::word);
    let mut line = format!("{word}: {} on {}", plain(&job.deployment_id), plain(&job.inventory));
    if let Some(code) = job.exit_code {
        let _ = write!(line, ", exit code {code}");
    }
    if let Some(took) = took(job) {
        let _ = write!(line, ", {}", span(took));
    }
    let _ = write!(line, " (job {})", plain(&job.job_id));
    if let Some(reason) = &job.reason {
        let _ = write!(line, ": {}", plain(reason));
    }
    if let Some(by) = &job.superseded_by {
        let _ = write!(line, "; job {} took its place", plain(by));
    }
    if job.outcome == Some(Outcome::Lost) {
        line.push_str(
            "; its container is gone and nobody saw its exit code: look at the hosts before you deploy again",
        );
    }
    line
}

/// The word for a state.
pub(super) fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "queued",
        JobState::Starting => "starting",
        JobState::Running => "running",
        JobState::Canceling => "canceling",
        JobState::Finished => "finished",
    }
}

/// Where a job is, in a few words.
pub(super) fn standing(job: &Job) -> String {
    let mut text = match job.outcome {
        Some(outcome) => outcome.word().to_owned(),
        None => state_word(job.state).to_owned(),
    };
    if let Some(position) = job.queue_position {
        let _ = write!(text, ", number {position} in line");
    }
    text
}

/// What a job is doing, in a few words.
pub(super) fn doing(job: &Job) -> Option<String> {
    let progress = job.progress.as_ref()?;
    let task = progress.task.as_deref().or(progress.play.as_deref()).map(plain)?;
    Some(match progress.tasks_done {
        Some(count) => format!("task {count}: {task}"),
        None => task,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::wire::Progress;

    pub(in super::super) fn job(outcome: Outcome) -> Job {
        Job {
            job_id: "01GZEC5GJHFKWMK4Z5A1NM9DPF".into(),
            deployment_id: "app-one".into(),
            inventory: "app-one.epfl.ch".into(),
            action: "app-deploy".into(),
            state: JobState::Finished,
            outcome: Some(outcome),
            exit_code: None,
            reason: None,
            created_at: "2023-05-02T13:37:00.000Z".into(),
            started_at: None,
            ended_at: Some("2023-05-02T13:38:42.500Z".into()),
            fence: None,
            image_digest: None,
            queue_position: None,
            superseded_by: None,
            output_bytes: 0,
            progress: None,
        }
    }

    fn host(ok: u64, failed: u64) -> HostRecap {
        HostRecap { ok, changed: 3, failed, skipped: 11, ..HostRecap::default() }
    }

    #[test]
    fn success() {
        let recap = BTreeMap::from([("app-one.epfl.ch".to_owned(), host(8, 0))]);
        let job = Job {
            exit_code: Some(0),
            started_at: Some("2023-05-02T13:37:00.500Z".into()),
            progress: Some(Progress { recap: Some(recap), ..Progress::default() }),
            ..job(Outcome::Succeeded)
        };
        insta::assert_snapshot!(end(&job, false).join("\n"), @r"

        host             ok  changed  unreachable  failed  skipped  rescued  ignored
        app-one.epfl.ch   8        3            0       0       11        0        0

        succeeded: app-one on app-one.epfl.ch, exit code 0, 1 min 42 s (job 01GZEC5GJHFKWMK4Z5A1NM9DPF)
        ");
    }

    #[test]
    fn failure() {
        let recap = BTreeMap::from([("a".to_owned(), host(8, 0)), ("b\x1b[2J".to_owned(), host(120, 1))]);
        let failures = vec![Failure {
            host: "b".into(),
            task: "release : unpack".into(),
            message: "no space left\n\x1b]0;title\x07::error::on device".into(),
        }];
        let progress = Progress { recap: Some(recap), failures: Some(failures), ..Progress::default() };
        let job = Job { exit_code: Some(2), progress: Some(progress), ..job(Outcome::Failed) };
        insta::assert_snapshot!(end(&job, false).join("\n"), @r#"

        host   ok  changed  unreachable  failed  skipped  rescued  ignored
        a       8        3            0       0       11        0        0
        b     120        3            0       1       11        0        0

        failed on b, task "release : unpack":
          | no space left
          | ::error::on device

        failed: app-one on app-one.epfl.ch, exit code 2 (job 01GZEC5GJHFKWMK4Z5A1NM9DPF)
        "#);
        assert!(end(&job, true).join("\n").contains("\x1b[1;31mb     120"));
    }

    #[test]
    fn other_ends() {
        let by = Some("01GZEC5GJHFKWMK4Z5A1NM9DPG".to_owned());
        insta::assert_snapshot!(outcome(&Job { superseded_by: by, ..job(Outcome::Superseded) }),
            @"superseded: app-one on app-one.epfl.ch (job 01GZEC5GJHFKWMK4Z5A1NM9DPF); job 01GZEC5GJHFKWMK4Z5A1NM9DPG took its place");
        insta::assert_snapshot!(outcome(&Job { reason: Some("run_timeout".into()), ..job(Outcome::TimedOut) }),
            @"timed_out: app-one on app-one.epfl.ch (job 01GZEC5GJHFKWMK4Z5A1NM9DPF): run_timeout");
        insta::assert_snapshot!(outcome(&job(Outcome::Lost)),
            @"lost: app-one on app-one.epfl.ch (job 01GZEC5GJHFKWMK4Z5A1NM9DPF); its container is gone and nobody saw its exit code: look at the hosts before you deploy again");
    }

    #[test]
    fn spans() {
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3_725, "1 h 2 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
