//! The observer: what the containers did, held against what clients were told.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::installation::{Installation, exit_code_of};
use super::load::{End, Load, Seen};
use super::releases;
use super::strike::Strikes;
use crate::support::eventually;

/// What a job's containers left behind.
#[derive(Debug, Default)]
pub(super) struct Marks {
    starts: u64,
    pub(super) end: Option<i64>,
    /// The release that the job was told it runs for.
    pub(super) release: Option<String>,
}

/// Who judges.
pub(super) struct Observer {
    here: Arc<Installation>,
    load: Arc<Load>,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    strikes: Strikes,
    asked: u64,
    accepted: usize,
    outcomes: BTreeMap<String, u64>,
    wiped: u64,
    wiped_lost: u64,
    overlaps: Vec<String>,
    forgotten: Vec<String>,
    twice: Vec<String>,
    wrong: Vec<String>,
    output: Vec<String>,
    locks: Vec<String>,
    shared: Vec<String>,
    releases: BTreeMap<String, u64>,
    stuck: Vec<String>,
    release_faults: Vec<String>,
}

impl Observer {
    pub(super) fn new(here: Arc<Installation>, load: Arc<Load>) -> Self {
        Self { here, load }
    }

    /// Waits until all is quiet, and judges.
    pub(super) async fn judge(&self, strikes: Strikes) -> Verdict {
        let mut verdict = Verdict { locks: self.quiet().await, asked: self.load.asked(), ..Verdict::default() };
        let mut marks: BTreeMap<String, Marks> = BTreeMap::new();
        for line in self.here.marks().lines() {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["start", job, _] => marks.entry(job.to_owned()).or_default().starts += 1,
                ["release", job, release] => {
                    marks.entry(job.to_owned()).or_default().release = Some(release.to_owned());
                }
                ["end", job, code] => marks.entry(job.to_owned()).or_default().end = code.parse().ok(),
                _ => verdict.overlaps.push(line.to_owned()),
            }
        }
        let seen = self.load.seen().clone();
        let twice = marks.iter().filter(|(_, it)| it.starts > 1);
        verdict.twice = twice.map(|(job, it)| format!("{job}: {it:?}")).collect();
        let none = Marks::default();
        for (job, seen) in &seen {
            verdict.accepted += 1;
            verdict.add(job, seen, marks.get(job).unwrap_or(&none), &strikes);
        }
        for managed in self.load.managed.lock().expect("no manager died").iter() {
            let wiped = strikes.wiped.iter().any(|at| (managed.made..=managed.seen).contains(at));
            let what = match &managed.last {
                Some(release) => {
                    release["decision"]["verdict"].as_str().or(release["state"].as_str()).unwrap_or("?").to_owned()
                }
                None => "gone with a Redis that was wiped".to_owned(),
            };
            *verdict.releases.entry(what).or_default() += 1;
            if (managed.last.is_none() && !wiped) || (managed.last.is_some() && !managed.settled) {
                verdict.stuck.push(format!("{managed:?}"));
            }
            verdict.release_faults.extend(releases::faults(managed, &marks));
        }
        verdict.shared = self.load.twice.lock().expect("no client died").clone();
        verdict.strikes = strikes;
        verdict
    }

    /// Waits until no job lives; the locks that are held then all the same.
    async fn quiet(&self) -> Vec<String> {
        let since = Instant::now();
        eventually("a list of jobs and locks", async || {
            let locks: Value = serde_json::from_str(&self.here.shown(0, "/api/v1/locks").await?).ok()?;
            let locks = locks["locks"].as_array()?.clone();
            let quiet = locks.is_empty() && self.here.running().is_empty();
            (quiet || since.elapsed() > QUIET_MAX).then(|| locks.iter().map(Value::to_string).collect())
        })
        .await
    }
}

/// How long jobs that nobody follows any more are waited for.
const QUIET_MAX: Duration = Duration::from_secs(40);

impl Verdict {
    fn add(&mut self, job: &str, seen: &Seen, marks: &Marks, strikes: &Strikes) {
        let settled = seen.settled();
        let wiped = strikes.wiped.iter().any(|at| (seen.asked..=settled).contains(at));
        let engine_away = strikes.engine_was_away_from(seen.asked, settled);
        let struck = strikes.struck.contains(job);
        if let Some(what) = &seen.output {
            self.output.push(format!("{job}: {what}"));
        }
        let (outcome, exit_code) = match &seen.end {
            // Only Redis knew of it, and Redis was wiped.
            End::Unknown if wiped && marks.starts == 0 => {
                self.wiped += 1;
                return;
            }
            End::Unknown | End::None => {
                self.forgotten.push(format!("{job}: {seen:?}, {marks:?}"));
                return;
            }
            End::Outcome(outcome, exit_code) => (outcome.as_str(), *exit_code),
        };
        *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
        let due = exit_code_of(job);
        let right = match outcome {
            "succeeded" => marks.end == Some(0) && due == 0,
            // Docker tells 255 of a container whose end it slept through.
            "failed" if marks.end.is_some() => {
                exit_code == Some(due) && due != 0 || struck || engine_away && exit_code == Some(255)
            }
            // It was ended in the middle: by a fault, and the engine saw it.
            "failed" => marks.starts == 1 && exit_code == Some(137) && struck || engine_away,
            "superseded" => marks.starts == 0,
            "lost" if marks.starts == 0 => {
                self.wiped_lost += u64::from(wiped);
                wiped || engine_away
            }
            "lost" => engine_away,
            _ => false,
        };
        if !right {
            let reasons = format!("wiped {wiped}, engine away {engine_away}, struck {struck}");
            self.wrong.push(format!("{job}: {outcome} ({exit_code:?}), {marks:?}, {reasons}"));
        }
    }

    fn columns(&self) -> [(&'static str, &[String]); 9] {
        [
            ("overlaps: two containers at work on one inventory", &self.overlaps),
            ("forgotten: accepted, and no outcome", &self.forgotten),
            ("run twice", &self.twice),
            ("wrong outcomes", &self.wrong),
            ("jobs with output missing or repeated, by the engine's log", &self.output),
            ("locks left behind", &self.locks),
            ("requests answered with another's job", &self.shared),
            ("releases forgotten, or not brought to an end", &self.stuck),
            ("steps of releases done twice, unseen, or left half-deployed unsaid", &self.release_faults),
        ]
    }

    /// Whether every column that must be zero is.
    pub(super) fn holds(&self) -> bool {
        self.columns().iter().all(|(_, rows)| rows.is_empty())
    }

    /// What was broken, case by case.
    pub(super) fn broken(&self) -> String {
        let mut text = String::new();
        for (name, rows) in self.columns() {
            for row in rows {
                let _ = writeln!(text, "{name}: {row}");
            }
        }
        text
    }

    /// The table, as it stands in `docs/faults.md`.
    pub(super) fn table(&self, seed: u64) -> String {
        let mut text =
            format!("\nseed {seed}\n\n| fault | struck | in mid-job | longest recovery |\n|---|---:|---:|---:|\n");
        let (mut all, mut mid_job) = (0, 0);
        for (fault, count) in &self.strikes.counts {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {:.1} s |",
                fault.name(),
                count.all,
                count.mid_job,
                count.longest.as_secs_f64()
            );
            all += count.all;
            mid_job += count.mid_job;
        }
        let longest = self.strikes.counts.values().map(|count| count.longest).max().unwrap_or_default();
        let _ = writeln!(text, "| **all** | **{all}** | **{mid_job}** | **{:.1} s** |\n", longest.as_secs_f64());
        let outcomes: Vec<_> = self.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let _ = writeln!(text, "| what | count |\n|---|---:|");
        let _ = writeln!(text, "| deployments asked for | {} |", self.asked);
        let _ = writeln!(text, "| accepted: the client was told a job id | {} |", self.accepted);
        let _ = writeln!(text, "| outcomes | {} |", outcomes.join(", "));
        let wiped = format!("{} unknown afterwards, {} `lost`", self.wiped, self.wiped_lost);
        let _ = writeln!(text, "| known only to a Redis that was wiped, and never started | {wiped} |");
        let releases: Vec<_> = self.releases.iter().map(|(end, count)| format!("{count} {end}")).collect();
        let _ = writeln!(text, "| releases through two stages | {} |", releases.join(", "));
        for (name, rows) in self.columns() {
            let _ = writeln!(text, "| {name} | {} |", rows.len());
        }
        let operated = "locks held until an operator had looked: Docker could not say whether a process runs";
        let _ = writeln!(text, "| {operated} | {} |", self.strikes.operated);
        text
    }
}
