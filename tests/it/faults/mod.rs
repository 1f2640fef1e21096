//! Faults at random moments: hundreds of short deployments through the real binary, Redis and engine, while parts of the
//! installation are killed, stopped, wiped and cut off from each other; and an observer who believes none of them.
//!
//! ```text
//!  clients ──HTTPS──▶ two dispatchers ──▶ proxy ──▶ Redis          strike: one fault after the other
//!                            └──▶ a private engine ──▶ containers ──marks──▶ observer ──▶ table
//! ```
//!
//! * The containers leave their marks in a folder of the host: start, end with exit code, and whether somebody else was at work on the
//!   same inventory (a lock of the kernel, which dies with its holder).
//! * Two release managers take releases through two stages meanwhile, on the same inventories (`releases`).
//! * The *observer* compares those marks with what clients were told, and the output with the engine's own log.
//! * The seed is printed: it decides which faults strike, when, and what the jobs do. What is struck in mid-job is chance all the same.
//!
//! The short run is a test like any other, in which every kind of fault strikes once, but for the engine's
//! death. `make faults` sets `FAULTS_DEPLOYMENTS` and `FAULTS_STRIKES`, the least of both, for the long one, whose table stands in
//! `docs/faults.md`; `FAULTS_SEED` repeats one, and `FAULTS_ONLY=engine` strikes with what has that word in its name.

mod installation;
mod load;
mod observer;
mod releases;
mod strike;

use std::sync::Arc;
use std::time::Duration;

use installation::Installation;
use load::Load;
use observer::Observer;
use strike::Striker;

/// Deployments of the short run.
const SHORT: u64 = 60;

/// Numbers that follow from a seed (SplitMix64).
#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = u64::try_from((to - from).as_millis()).expect("short") + 1;
        from + Duration::from_millis(self.below(span))
    }
}

#[expect(clippy::disallowed_methods, reason = "a setting of the test, not of the product")]
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn setting(name: &str) -> Option<u64> {
    let text = text(name)?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_hold_under_faults() {
    let deployments = setting("FAULTS_DEPLOYMENTS").unwrap_or(SHORT);
    let strikes = setting("FAULTS_STRIKES").unwrap_or(0);
    let seed = setting("FAULTS_SEED").unwrap_or_else(lockstep::clock::wall_ms);
    println!("seed {seed}");
    let here = Arc::new(Installation::start().await);
    let load = Arc::new(Load::new(here.clone(), Chance(seed), deployments));
    let clients = load.clone().run();
    let mut striker = Striker::new(here.clone(), load.clone(), Chance(seed ^ 1));
    let strikes = striker.strike(strikes, &text("FAULTS_ONLY").unwrap_or_default()).await;
    clients.await;
    let verdict = Observer::new(here.clone(), load).judge(strikes).await;
    println!("{}", verdict.table(seed));
    assert!(verdict.holds(), "a promise was broken:\n{}", verdict.broken());
}
