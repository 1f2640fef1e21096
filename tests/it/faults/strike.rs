//! Faults, one after the other, at moments that the seed decides; each is undone, and the time until everybody is in charge again is
//! taken from the moment the part is back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Chance;
use super::installation::Installation;
use super::load::Load;
use crate::support::eventually;
use crate::support::proxy::Mode;

/// What strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    DispatcherKilled,
    DispatcherStopped,
    DispatcherRestarted,
    RedisKilled,
    RedisStopped,
    RedisWiped,
    RedisCutOff,
    RedisReset,
    RedisRepliesLost,
    RedisSlow,
    EngineKilledLiveRestore,
    EngineKilled,
    ContainerKilled,
    AllKilled,
}

use Fault as F;

impl Fault {
    const ALL: [Self; 14] = [
        F::DispatcherKilled,
        F::DispatcherStopped,
        F::DispatcherRestarted,
        F::RedisKilled,
        F::RedisStopped,
        F::RedisWiped,
        F::RedisCutOff,
        F::RedisReset,
        F::RedisRepliesLost,
        F::RedisSlow,
        F::EngineKilledLiveRestore,
        F::EngineKilled,
        F::ContainerKilled,
        F::AllKilled,
    ];

    /// Whether it kills the engine.
    fn kills_engine(self) -> bool {
        matches!(self, F::EngineKilled | F::EngineKilledLiveRestore | F::AllKilled)
    }

    /// Its line in the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            F::DispatcherKilled => "dispatcher killed (-9) and started",
            F::DispatcherStopped => "dispatcher stopped (SIGSTOP), another takes over, continued",
            F::DispatcherRestarted => "dispatcher restarted in good order",
            F::RedisKilled => "Redis killed (-9) and started on its file",
            F::RedisStopped => "Redis stopped (SIGSTOP) and continued",
            F::RedisWiped => "Redis wiped (FLUSHALL)",
            F::RedisCutOff => "connection to Redis silent, then cut",
            F::RedisReset => "connections to Redis reset",
            F::RedisRepliesLost => "replies of Redis lost",
            F::RedisSlow => "connection to Redis slow",
            F::EngineKilledLiveRestore => "engine killed (-9), containers go on (live-restore)",
            F::EngineKilled => "engine killed (-9), its next process ends the containers",
            F::ContainerKilled => "runner container killed (-9)",
            F::AllKilled => "dispatchers, Redis and engine killed (-9) together",
        }
    }
}

/// What has struck.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    /// By fault: how often, how often while a container ran, and the longest recovery.
    pub(super) counts: BTreeMap<Fault, Count>,
    /// Moments at which Redis lost its memory.
    pub(super) wiped: Vec<Instant>,
    /// Processes that an operator had to end, because Docker could not say whether they ran.
    pub(super) operated: u64,
    /// Jobs whose containers were ended by a fault.
    pub(super) struck: BTreeSet<String>,
    /// Times in which the engine was being killed and started: what was created or started then may be known to nobody.
    pub(super) engine_away: Vec<(Instant, Instant)>,
}

impl Strikes {
    /// Whether the engine was killed and started in this time.
    pub(super) fn engine_was_away_from(&self, begin: Instant, end: Instant) -> bool {
        self.engine_away.iter().any(|(from, to)| *from <= end && begin <= *to)
    }
}

/// Strikes of one kind.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) all: u64,
    pub(super) mid_job: u64,
    pub(super) longest: Duration,
}

/// Who strikes.
pub(super) struct Striker {
    here: Arc<Installation>,
    load: Arc<Load>,
    chance: Chance,
    strikes: Strikes,
}

impl Striker {
    pub(super) fn new(here: Arc<Installation>, load: Arc<Load>, chance: Chance) -> Self {
        Self { here, load, chance, strikes: Strikes::default() }
    }

    /// Strikes on and on, every kind in turn in an order of chance, until it was done so often, all deployments have been asked for
    /// and every kind has struck. The short run (`least` is 0) leaves the engine alive: what Docker 20.10 does when it is killed is not always
    /// what it says; see `docs/faults.md`.
    /// `only`: a word that must stand in the fault's name.
    pub(super) async fn strike(&mut self, least: u64, only: &str) -> Strikes {
        let mut kinds = Fault::ALL.to_vec();
        kinds.retain(|fault| fault.name().contains(only) && (least > 0 || !fault.kills_engine()));
        let mut strikes = 0;
        loop {
            let mut turn = kinds.clone();
            while !turn.is_empty() {
                let at = usize::try_from(self.chance.below(turn.len() as u64)).expect("small");
                self.strike_once(turn.swap_remove(at)).await;
                strikes += 1;
                let enough = strikes >= least && self.strikes.counts.len() == kinds.len();
                if self.load.has_asked_for_all() && enough {
                    self.load.enough();
                    return std::mem::take(&mut self.strikes);
                }
            }
        }
    }

    async fn strike_once(&mut self, fault: Fault) {
        let (short, long) = (Duration::from_millis(100), Duration::from_millis(1500));
        tokio::time::sleep(self.chance.between(short, long)).await;
        // In mid-job, unless all is quiet.
        let running = self.here.running();
        let which = usize::from(self.chance.below(2) == 1);
        let while_away = self.chance.between(Duration::from_millis(50), Duration::from_secs(3));
        let back = self.inflict(fault, which, while_away, &running).await;
        self.here.recovered().await;
        let took = back.elapsed();
        if fault.kills_engine() {
            self.operate().await;
        }
        let count = self.strikes.counts.entry(fault).or_default();
        count.all += 1;
        count.mid_job += u64::from(!running.is_empty());
        count.longest = count.longest.max(took);
        println!(
            "{:3} asked for, {} running: {}; in charge again after {} ms",
            self.load.asked(),
            running.len(),
            fault.name(),
            took.as_millis()
        );
    }

    /// Does what the dispatcher asks an operator for: a process that was made and never set going, of which Docker knows nothing, is ended
    /// on the engine's host. One that is still there after so long as a start takes is such a one.
    async fn operate(&mut self) {
        let before = self.here.engine.parked();
        if before.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        for container in self.here.engine.parked() {
            if before.contains(&container) {
                self.here.engine.end_parked(&container);
                self.strikes.operated += 1;
            }
        }
    }

    /// Strikes and makes good again. Returns when the part was back.
    async fn inflict(&mut self, fault: Fault, which: usize, away: Duration, running: &[(String, String)]) -> Instant {
        let here = self.here.clone();
        match fault {
            F::DispatcherKilled | F::DispatcherRestarted => {
                here.signal(which, if fault == F::DispatcherKilled { "-KILL" } else { "-TERM" });
                here.run(which);
            }
            F::DispatcherStopped => {
                here.signal(which, "-STOP");
                let stopped = Instant::now();
                let other = 1 - which;
                eventually("the other one takes over", async || here.in_charge(&[other]).await.then_some(())).await;
                let took = stopped.elapsed();
                let count = self.strikes.counts.entry(fault).or_default();
                count.longest = count.longest.max(took);
                here.signal(which, "-CONT");
            }
            F::RedisKilled => {
                let mut redis = here.redis.lock().await;
                redis.kill();
                tokio::time::sleep(away).await;
                redis.restart().await;
            }
            F::RedisStopped => {
                let redis = here.redis.lock().await;
                redis.pause();
                tokio::time::sleep(away * 3).await;
                redis.resume();
            }
            F::RedisWiped => {
                let redis = here.redis.lock().await;
                let mut connection = redis.connect().await;
                let wiped: Result<(), _> = redis::cmd("FLUSHALL").query_async(&mut connection).await;
                wiped.expect("Redis answers");
                self.strikes.wiped.push(Instant::now());
            }
            F::RedisCutOff | F::RedisReset | F::RedisRepliesLost | F::RedisSlow => {
                here.proxy.set(match fault {
                    F::RedisCutOff => Mode::Silent,
                    F::RedisRepliesLost => Mode::LoseReplies,
                    F::RedisSlow => Mode::Slow,
                    _ => Mode::Broken,
                });
                tokio::time::sleep(away).await;
                // What was swallowed is not made good: those connections are of no use any more.
                here.proxy.cut().await;
            }
            F::EngineKilled | F::EngineKilledLiveRestore => {
                let began = Instant::now();
                here.engine.kill().await;
                tokio::time::sleep(away / 2).await;
                here.engine.run(fault == F::EngineKilledLiveRestore).await;
                self.note_engine(began, fault == F::EngineKilled, running);
            }
            F::ContainerKilled => {
                if let Some((container, job)) = running.first() {
                    self.strikes.struck.insert(job.clone());
                    here.engine.docker(&["kill", container]);
                }
            }
            F::AllKilled => {
                let began = Instant::now();
                let mut redis = here.redis.lock().await;
                here.signal(0, "-KILL");
                redis.kill();
                here.engine.kill().await;
                here.signal(1, "-KILL");
                redis.restart().await;
                here.engine.run(false).await;
                self.note_engine(began, true, running);
                here.run(0);
                here.run(1);
            }
        }
        Instant::now()
    }

    /// The engine was away since then; its containers were ended, or not.
    fn note_engine(&mut self, began: Instant, ended: bool, running: &[(String, String)]) {
        self.strikes.engine_away.push((began, Instant::now()));
        if ended {
            self.strikes.struck.extend(running.iter().map(|(_, job)| job.clone()));
        }
    }
}
