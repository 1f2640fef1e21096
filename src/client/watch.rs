//! Watching a job: what is seen of it goes to the screen, until it ends or the watcher has to leave.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::exit::{Exit, Fault};
use super::follow::{self, Seen, Until, follow};
use super::http::{CallError, Http};
use super::recap;
use super::screen::{Screen, Tone};
use super::signals::Signals;
use crate::model::ids::JobId;
use crate::wire::{Job, JobState};

/// How often the line of status is drawn.
const STATUS: Duration = Duration::from_secs(1);
/// What may wait to be shown; a follower that is ahead of the screen waits.
const AHEAD: usize = 4;

/// What is shown of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// Its output, where it is, what it does.
    All,
    /// Its output alone.
    Output,
    /// Nothing.
    Nothing,
}

/// Why the watching ended.
pub(super) enum Left {
    /// The job has ended.
    Ended(Box<Job>),
    /// The deadline passed; the job goes on.
    Deadline,
    /// A signal of this number came; the job goes on.
    Signal(u8),
    /// Nobody reads standard output any more, and that was all this was for.
    Closed,
    /// There was no more to show.
    Over,
    /// The dispatcher was lost sight of, or refuses.
    Lost(CallError),
}

/// Who watches which job.
pub(super) struct Watch<'a> {
    pub(super) http: &'a Arc<Http>,
    pub(super) job: JobId,
    pub(super) screen: &'a mut Screen,
    pub(super) signals: &'a mut Signals,
    /// Where the job is, as far as was said already.
    pub(super) standing: String,
}

impl Watch<'_> {
    /// Watches.
    pub(super) async fn run(&mut self, show: Show, until: Until, deadline: Option<Instant>) -> Left {
        let patience = self.http.patience;
        let live = self.screen.look().live;
        let (tell, mut seen) = mpsc::channel(AHEAD);
        if show == Show::All {
            // In a log, every change of place in the queue is soon enough.
            let every = if live { patience.look } else { patience.look * 5 };
            tokio::spawn(follow::look(self.http.clone(), self.job, every, tell.clone()));
        }
        let mut following = tokio::spawn(follow(self.http.clone(), self.job, until, tell));
        let mut status = tokio::time::interval(STATUS);
        status.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut shown =
            Shown { show, since: Instant::now(), output: false, standing: self.standing.clone(), latest: None };
        let mut quiet_since = Instant::now();
        loop {
            // The order matters: a job that prints without end must not keep a signal or the deadline from being noticed.
            tokio::select! {
                biased;
                number = self.signals.next() => return Left::Signal(number),
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Left::Deadline;
                }
                Some(next) = seen.recv() => {
                    quiet_since = Instant::now();
                    if let Some(left) = shown.take(next, self.screen) {
                        return left;
                    }
                }
                ended = &mut following => {
                    // What it told last may still be on the way.
                    while let Ok(next) = seen.try_recv() {
                        if let Some(left) = shown.take(next, self.screen) {
                            return left;
                        }
                    }
                    return match ended {
                        Ok(Ok(())) => Left::Over,
                        Ok(Err(error)) => Left::Lost(error),
                        Err(died) => Left::Lost(CallError::Garbled(died.to_string())),
                    };
                }
                _ = status.tick(), if live && show == Show::All => self.screen.status(&shown.status()),
                () = tokio::time::sleep_until(quiet_since + patience.reassure), if !live && show == Show::All => {
                    quiet_since = Instant::now();
                    self.screen.note(&format!("job {}: {}", self.job, shown.status()));
                }
            }
        }
    }

    /// What to say when the watching ends before the job does.
    pub(super) fn leave(&mut self, left: &Left, limit: Option<Duration>) -> Exit {
        let id = self.job.to_string();
        let (exit, why) = match left {
            Left::Signal(number) => (Exit::Signal(*number), "interrupted".to_owned()),
            Left::Deadline => (Exit::TimedOut, format!("not over after {}", recap::span(limit.unwrap_or_default()))),
            Left::Lost(error) => {
                let fault = self.http.fault(error, &format!("job {id}"));
                let exit = match error.problem() {
                    Some((401 | 403, _)) => Exit::Refused,
                    Some((404, _)) => Exit::NotSucceeded,
                    _ => Exit::NotReached,
                };
                self.screen.fault(&Fault { exit, ..fault });
                (exit, "its outcome is not known here".to_owned())
            }
            Left::Ended(_) | Left::Closed | Left::Over => return Exit::Done,
        };
        self.screen.note(&format!("{why}; job {id} goes on without this command"));
        self.screen.note(&format!("to follow it: {}", self.http.command("logs -f", &id)));
        self.screen.note(&format!("to end it:    {}", self.http.command("cancel", &id)));
        exit
    }
}

/// What has been shown so far.
struct Shown {
    show: Show,
    since: Instant,
    output: bool,
    standing: String,
    latest: Option<Box<Job>>,
}

impl Shown {
    fn take(&mut self, seen: Seen, screen: &mut Screen) -> Option<Left> {
        match seen {
            Seen::Output(bytes) => {
                if self.show != Show::Nothing {
                    screen.output(&bytes);
                    self.output = true;
                }
                (self.show == Show::Output && screen.is_closed()).then_some(Left::Closed)
            }
            Seen::Job(job) => {
                let standing = recap::standing(&job);
                // Once there is output, it says by itself that the job runs.
                let news = !self.output || job.state == JobState::Canceling;
                if news && standing != self.standing && screen.between_lines() {
                    screen.say(&Tone::Quiet.paint(screen.look().colour, &format!("lockstep: {standing}")));
                    self.standing = standing;
                }
                self.latest = Some(job);
                None
            }
            Seen::Trouble(what) => {
                screen.note(&format!("no answer from the dispatcher, trying again ({what})"));
                None
            }
            Seen::Back => {
                screen.note("the dispatcher answers again");
                None
            }
            Seen::Ended(job) => Some(Left::Ended(job)),
        }
    }

    fn status(&self) -> String {
        let time = recap::span(self.since.elapsed());
        match &self.latest {
            None => time,
            Some(job) => {
                let doing = recap::doing(job).map(|doing| format!(" | {doing}")).unwrap_or_default();
                format!("{}, {time}{doing}", recap::standing(job))
            }
        }
    }
}
