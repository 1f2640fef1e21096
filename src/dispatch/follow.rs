//! Following a container: its output into Redis, deadlines, signals, exit code.
//!
//! ```text
//!  engine's log ──▶ pending ──▶ Intake (mask, UTF-8) ──▶ one write in flight ──▶ Redis
//! ```
//!
//! A write is sent as soon as there is something to write and none is in flight; what arrives meanwhile goes into the next.
//! So a single line is readable after one round trip, and a flood is written in large pieces, without a timer. When Redis is
//! slower than the container, reading stops at [`BATCH`] pending bytes, and the engine keeps the rest.
//!
//! The log is always read from its first byte, and what is recorded as final is skipped. That the log ended says nothing about
//! the container: only its exit code, seen after the log was read to its end, is the end. Trouble in reading never decides it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;

use super::Dispatcher;
use super::launch::{SEALED, SEALED_MAX};
use super::supervise::Trouble;
use crate::engine::{EngineError, Found, Signal, ended_name, unproven_name};
use crate::model::job::{Intent, Record, State};
use crate::model::lock::Held;
use crate::model::mask::Masker;
use crate::model::output::{Intake, Position, UNREAD, WITHHELD, lay_out};
use crate::model::settle::{Evidence, Phase};
use crate::store::{News, StoreError};

/// Bytes that may wait for a write in flight before reading stops: each write costs Redis an fsync, so a flood comes in few.
const BATCH: usize = 1024 * 1024;
/// How long the end of a container may lag behind the end of its log before the log is followed again.
const END_LAG: Duration = Duration::from_secs(2);
/// How often SIGKILL is repeated to a container that does not end.
const KILL_AGAIN: Duration = Duration::from_secs(5);
/// The largest secret file of a mount, in bytes.
const SECRET_FILE_MAX: u64 = 64 * 1024;
/// An idle deadline that has come is looked at once more after so long: this process may have been stopped, and what was printed
/// meanwhile not been read yet.
const SECOND_LOOK: Duration = Duration::from_secs(1);

type Writing<'a> = Pin<Box<dyn Future<Output = Result<Position, StoreError>> + Send + 'a>>;

impl Dispatcher {
    /// Follows the job's container until its exit code is recorded, or until there is a reason to look again. False: it has ended, and
    /// the exit code that is shown is not to be believed. `over`: it does not run any more, so that the engine may have died at its
    /// end; whoever follows it from when it ran, to the end of its log, knows that it has not.
    pub(super) async fn follow(&self, held: &Held, record: &Record, over: bool) -> Result<bool, Trouble> {
        let Some(container) = record.container.as_deref() else { return Ok(true) };
        let mut watch = Watch::new(self, held, container, record).await?;
        if record.state == State::Starting {
            self.parts.store.started(held).await?;
        }
        watch.catch_up().await?;
        let masker = watch.during(self.masker(held, container)).await??;
        let mut intake = masker.map(|masker| Intake::new(masker, record.output.raw));
        let mut at = record.output;
        if intake.is_none() && at.text == 0 {
            tracing::error!(job.id = %held.job(), "the secrets to be masked cannot be read; the output is withheld");
            at = self.write(held, at, 0, WITHHELD.to_owned()).await?;
        }

        let mut log = watch.during(self.parts.engine.follow(container)).await??;
        let mut skip = at.raw;
        let mut pending = Vec::new();
        let mut writing: Option<Writing<'_>> = None;
        let mut log_ended = false;
        loop {
            if pending.len() >= BATCH {
                // It is Redis that holds up the reading, not the container that is silent.
                watch.heard();
            }
            if writing.is_none()
                && !pending.is_empty()
                && let Some(intake) = &mut intake
            {
                let mut text = String::with_capacity(pending.len());
                intake.push(&std::mem::take(&mut pending), &mut text);
                if !text.is_empty() {
                    writing = Some(Box::pin(self.write(held, at, intake.raw(), text)));
                }
            }
            if log_ended && writing.is_none() {
                break;
            }
            tokio::select! {
                written = async { writing.as_mut().expect("guarded").await }, if writing.is_some() => {
                    at = written?;
                    writing = None;
                }
                chunk = log.next(), if !log_ended && pending.len() < BATCH => match chunk {
                    None => log_ended = true,
                    Some(chunk) => {
                        let chunk = chunk?;
                        watch.heard();
                        let skipped = skip.min(chunk.len() as u64);
                        skip -= skipped;
                        if intake.is_some() {
                            pending.extend_from_slice(&chunk[usize::try_from(skipped).unwrap_or(chunk.len())..]);
                        }
                    }
                },
                event = watch.next() => watch.act(event).await?,
            }
        }
        drop(writing);
        self.record_end(held, record, container, at, intake, over).await
    }

    /// After the log's end: the rest of the text and the exit code, if the container has ended. False: it is not to be believed.
    async fn record_end(
        &self,
        held: &Held,
        record: &Record,
        container: &str,
        at: Position,
        intake: Option<Intake>,
        over: bool,
    ) -> Result<bool, Trouble> {
        let waited = self.parts.engine.wait(container, END_LAG).await;
        let Some(found) = self.parts.engine.inspect(container).await? else { return Ok(true) };
        let exit_code = match found.phase {
            Phase::Ended { exit_code } => Some(exit_code),
            Phase::Unseen => None,
            Phase::Created | Phase::Running | Phase::Dying => {
                if let Err(error) = waited {
                    tracing::info!(job.id = %held.job(), %error, "the log ended before the container; it is followed again");
                }
                return Ok(true);
            }
        };
        if let Some(mut intake) = intake {
            let mut text = String::new();
            intake.finish(&mut text);
            if !text.is_empty() {
                self.write(held, at, intake.raw(), text).await?;
            }
        }
        if over && exit_code == Some(0) && !self.believable(held, &found).await? {
            return Ok(false);
        }
        if let Some(exit_code) = exit_code {
            let reason = found.out_of_memory.then_some("the container was killed for want of memory (runner.memory)");
            self.read_report(record, container).await?;
            self.parts.store.exited(held, exit_code, reason).await?;
        }
        Ok(true)
    }

    /// Whether the exit code 0 of an ended container is to be believed. That was settled, if the container was moved aside.
    async fn believable(&self, held: &Held, found: &Found) -> Result<bool, Trouble> {
        let (instance, inventory, job) = (&self.parts.instance, held.inventory(), held.job());
        if found.name == ended_name(instance, inventory, job) {
            return Ok(true);
        }
        Ok(found.name != unproven_name(instance, inventory, job) && self.parts.engine.vouches(&found.container).await?)
    }

    /// The container does not run any more and its log stays unreadable: what is missing is announced, and the exit code, if there is
    /// one, is the outcome.
    pub(super) async fn give_up_reading(&self, held: &Held, error: &EngineError) -> Result<bool, Trouble> {
        let record = self.own_record(held).await?;
        let Evidence::Own { container, phase } = self.look(&record).await? else { return Ok(true) };
        if !matches!(phase, Phase::Ended { .. } | Phase::Unseen) {
            return Ok(true);
        }
        tracing::error!(job.id = %held.job(), container, %error, "the log of an ended container cannot be read; its output stays incomplete");
        self.write(held, record.output, record.output.raw, UNREAD.to_owned()).await?;
        if let Phase::Ended { exit_code } = phase {
            let Some(found) = self.parts.engine.inspect(&container).await? else { return Ok(true) };
            if exit_code == 0 && !self.believable(held, &found).await? {
                return Ok(false);
            }
            self.read_report(&record, &container).await?;
            self.parts.store.exited(held, exit_code, None).await?;
        }
        Ok(true)
    }

    /// One write of output, and where things stand after it.
    async fn write(&self, held: &Held, at: Position, raw: u64, text: String) -> Result<Position, StoreError> {
        let mut write = lay_out(at, self.parts.job.output_limit, &text);
        write.after.raw = raw;
        self.parts.store.append(held, at, &write).await?;
        Ok(write.after)
    }

    /// A masker for everything secret that the job was given; none when that cannot be read anywhere.
    async fn masker(&self, held: &Held, container: &str) -> Result<Option<Masker>, Trouble> {
        let job = held.job();
        let open = |sealed: Vec<u8>| self.parts.pepper.open(job, &sealed);
        let secrets = match self.parts.store.sealed(job).await?.and_then(open) {
            Some(secrets) => Some(secrets),
            None => self.parts.engine.read_file(container, SEALED, SEALED_MAX).await?.and_then(open),
        };
        let Some(secrets) = secrets else { return Ok(None) };
        let mut masks = secrets.masks;
        masks.push(self.parts.pepper.job_token(job));
        for mount in self.parts.runner.mounts.iter().filter(|mount| mount.secret) {
            let content = self.parts.engine.read_file(container, &mount.target, SECRET_FILE_MAX).await?;
            let whole = content.filter(|content| (content.len() as u64) < SECRET_FILE_MAX);
            let Some(text) = whole.and_then(|content| String::from_utf8(content).ok()) else {
                tracing::error!(job.id = %job, mount = mount.target, "a mount that is declared secret is no text file of less than 64 KiB, so it cannot be masked");
                return Ok(None);
            };
            masks.push(crate::model::app::Secret::new(text.trim().to_owned()));
        }
        Ok(Some(Masker::new(masks.iter().map(crate::model::app::Secret::expose))))
    }
}

/// What may end a job before its container does.
struct Watch<'a> {
    dispatcher: &'a Dispatcher,
    held: &'a Held,
    container: &'a str,
    news: News,
    run_ends: Instant,
    last_heard: Instant,
    /// The idle deadline has come once since then.
    silent: bool,
    stopping: Option<Stopping>,
}

/// How far ending the container has come.
#[derive(Debug, Clone, Copy)]
enum Stopping {
    /// An intent is recorded; SIGTERM is to be sent, and SIGKILL at this moment.
    Intended {
        /// End of `job.stop_grace`.
        kill_at: Instant,
    },
    /// SIGTERM is sent; SIGKILL is due at this moment, and again.
    Termed {
        /// When.
        kill_at: Instant,
    },
}

/// What the watch woke for.
enum Event {
    News,
    Alarm,
}

impl<'a> Watch<'a> {
    async fn new(
        dispatcher: &'a Dispatcher,
        held: &'a Held,
        container: &'a str,
        record: &Record,
    ) -> Result<Self, Trouble> {
        let mut news = dispatcher.parts.store.news(held.job());
        // What happened between reading the record and listening must not be missed.
        news.state.mark_changed();
        let now = Instant::now();
        let run = dispatcher.parts.job.run_timeout.saturating_sub(dispatcher.since(record.started_ms).await?);
        let mut watch = Self {
            dispatcher,
            held,
            container,
            news,
            run_ends: now + run,
            last_heard: now,
            silent: false,
            stopping: None,
        };
        if record.intent.is_some() {
            watch.intended(dispatcher.since(record.intent_ms).await?);
        }
        Ok(watch)
    }

    /// Output arrived.
    fn heard(&mut self) {
        self.last_heard = Instant::now();
        self.silent = false;
    }

    /// Acts on what is due already: a following that fails at once, again and again, must not hold up an end.
    async fn catch_up(&mut self) -> Result<(), Trouble> {
        while self.alarm() <= Instant::now() {
            self.act(Event::Alarm).await?;
        }
        Ok(())
    }

    /// Does something that may take long without letting the job out of sight.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Trouble> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                event = self.next() => self.act(event).await?,
            }
        }
    }

    fn intended(&mut self, ago: Duration) {
        let grace = self.dispatcher.parts.job.stop_grace.saturating_sub(ago);
        self.stopping = Some(Stopping::Intended { kill_at: Instant::now() + grace });
    }

    fn idle_ends(&self) -> Option<Instant> {
        self.dispatcher.parts.job.idle_timeout.map(|idle| self.last_heard + idle)
    }

    fn alarm(&self) -> Instant {
        match self.stopping {
            None => self.idle_ends().map_or(self.run_ends, |idle| idle.min(self.run_ends)),
            Some(Stopping::Intended { .. }) => Instant::now(),
            Some(Stopping::Termed { kill_at }) => kill_at,
        }
    }

    /// Waits for something to act on. May be dropped.
    async fn next(&mut self) -> Event {
        let alarm = tokio::time::sleep_until(self.alarm());
        tokio::select! {
            changed = self.news.state.changed() => match changed {
                Ok(()) => Event::News,
                Err(_) => std::future::pending().await,
            },
            () = alarm => Event::Alarm,
        }
    }

    async fn act(&mut self, event: Event) -> Result<(), Trouble> {
        let now = Instant::now();
        match (event, self.stopping) {
            (Event::News, None) => {
                let record = self.dispatcher.own_record(self.held).await?;
                if record.intent.is_some() {
                    self.intended(self.dispatcher.since(record.intent_ms).await?);
                }
            }
            (Event::News, Some(_)) => {
                self.dispatcher.own_record(self.held).await?;
            }
            (Event::Alarm, None) => {
                let (intent, reason) = if now >= self.run_ends {
                    let limit = self.dispatcher.parts.job.run_timeout.as_secs();
                    (Intent::RunTimeout, format!("it ran longer than {limit} s (job.run_timeout)"))
                } else if self.idle_ends().is_some_and(|ends| now >= ends) {
                    if !std::mem::replace(&mut self.silent, true) {
                        self.last_heard += SECOND_LOOK;
                        return Ok(());
                    }
                    (Intent::IdleTimeout, "it printed nothing for longer than job.idle_timeout".to_owned())
                } else {
                    return Ok(());
                };
                self.dispatcher.parts.store.deadline(self.held, intent, &reason).await?;
                self.intended(Duration::ZERO);
            }
            (Event::Alarm, Some(Stopping::Intended { kill_at })) => {
                self.dispatcher.parts.engine.signal(self.container, Signal::Term).await?;
                self.stopping = Some(Stopping::Termed { kill_at });
            }
            (Event::Alarm, Some(Stopping::Termed { .. })) => {
                self.dispatcher.parts.engine.signal(self.container, Signal::Kill).await?;
                self.stopping = Some(Stopping::Termed { kill_at: now + KILL_AGAIN });
            }
        }
        Ok(())
    }
}
