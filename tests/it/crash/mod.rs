//! Every crash point, with no hook in the product: proxies before Redis and before the engine's socket count the calls of a
//! deployment, and the dispatcher is struck at each of them.
//!
//! ```text
//!                       ┌─▶ proxy ─▶ Redis, one for all runs, each of which has an instance of its own
//!  client ──▶ dispatcher┤              containers ──marks, what they print──▶ judgement
//!                       └─▶ proxy ─▶ the machine's engine
//! ```
//!
//! * A *point* is a call: a script that changes a job's state, or a request about one container; the how-manieth of its kind.
//!   Runs of each scenario that nothing strikes tell the points. What runs by the clock is not counted: signs of life, reads, lists.
//! * A *strike* is a point and a mode: killed before the call, killed after it, its reply lost, stopped before it. Of whoever is killed,
//!   another begins at once; whoever is stopped finds, once it wakes, its call carried out when another has long brought all to its end.
//!   Its sign of life is taken out of Redis when it is struck, so that nobody waits for it to run out.
//! * A client whose request was not answered asks again under the same `Idempotency-Key`.
//! * The *judgement* holds what the API says and what stands in Redis against the marks that the containers left in a folder of the
//!   host and what they printed by their own account: each job started at most once, in the order of the queue, none beside another,
//!   fences that grow, one outcome, which is the exit code's, output to the byte, no lock, no queue, no container left, and no job
//!   beside those that were accepted.
//!
//! The plain scenario is struck at every point in every mode; the others at every point in one mode, another at the next.
//! `CRASH_ALL=1` strikes everywhere in every mode.

mod calls;
mod judge;
mod proxy;
mod run;
mod story;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;

use proxy::{Mode, Point};
use run::Stage;
use story::{Played, Scenario, play};

/// Runs at a time: they mostly wait.
const AT_A_TIME: usize = 8;
/// Runs of each scenario that nothing strikes: points are the calls that come in each of them.
const CALM: usize = 2;
/// Of a hundred strikes, so many may find that the run took another course and their call did not come.
const MISSES_MAX: usize = 10;

#[expect(clippy::disallowed_methods, reason = "a setting of the test, not of the product")]
fn everything() -> bool {
    std::env::var("CRASH_ALL").is_ok_and(|text| text == "1")
}

type Strike = (Scenario, Option<(Point, Mode)>);

/// The strikes at the points of a scenario.
fn strikes(scenario: Scenario, points: &[Point], everywhere: bool) -> Vec<Strike> {
    let modes = Mode::ALL.len();
    let all = points.iter().enumerate().flat_map(|(nth, point)| {
        let chosen = move |at: &usize| everywhere || *at == (nth + scenario as usize) % modes;
        (0..modes).filter(chosen).map(move |at| (scenario, Some((point.clone(), Mode::ALL[at]))))
    });
    all.collect()
}

/// Plays these, several at a time.
async fn play_all(stage: &Arc<Stage>, strikes: Vec<Strike>) -> Vec<(Strike, Played)> {
    let runs = strikes.into_iter().map(|strike| {
        let (stage, (scenario, at)) = (stage.clone(), strike.clone());
        async move {
            let played = tokio::spawn(play(stage, scenario, at)).await;
            let died = |error| Played { met: vec![], struck: true, broken: vec![format!("the run died: {error}")] };
            (strike, played.unwrap_or_else(died))
        }
    });
    futures::stream::iter(runs).buffer_unordered(AT_A_TIME).collect().await
}

#[derive(Default)]
struct Row {
    points: usize,
    runs: usize,
    missed: usize,
    broken: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_hold_at_every_crash_point() {
    let stage = Arc::new(Stage::set().await);
    let mut broken = Vec::new();
    let mut missed = Vec::new();
    let mut rows: BTreeMap<Scenario, Row> = BTreeMap::new();
    let mut courses: BTreeMap<Scenario, Vec<Point>> = BTreeMap::new();
    let calm = Scenario::ALL.iter().cycle().take(Scenario::ALL.len() * CALM).map(|scenario| (*scenario, None));
    for ((scenario, _), played) in play_all(&stage, calm.collect()).await {
        broken.extend(played.broken.iter().map(|what| format!("{scenario:?}, not struck: {what}")));
        courses.entry(scenario).or_insert_with(|| played.met.clone()).retain(|point| played.met.contains(point));
    }
    let mut planned = Vec::new();
    for (scenario, points) in courses {
        println!("{scenario:?}: {}", points.iter().map(Point::to_string).collect::<Vec<_>>().join(", "));
        planned.extend(strikes(scenario, &points, scenario == Scenario::Plain || everything()));
        rows.entry(scenario).or_default().points = points.len();
    }
    let count = planned.len();
    for ((scenario, at), played) in play_all(&stage, planned).await {
        let row = rows.entry(scenario).or_default();
        let (point, mode) = at.expect("a strike");
        let what = format!("{scenario:?}, {} {point}", mode.name());
        row.runs += 1;
        if !played.struck {
            row.missed += 1;
            missed.push(what.clone());
        }
        row.broken += usize::from(!played.broken.is_empty());
        broken.extend(played.broken.iter().map(|broken| format!("{what}: {broken}")));
    }
    println!("\n| scenario | points | strikes | call did not come | broken |\n|---|---:|---:|---:|---:|");
    for (scenario, Row { points, runs, missed, broken }) in &rows {
        println!("| {scenario:?} | {points} | {runs} | {missed} | {broken} |");
    }
    println!("\nthe call did not come: {}", missed.join("; "));
    assert!(broken.is_empty(), "promises were broken:\n{}", broken.join("\n"));
    assert!(
        missed.len() * 100 <= count * MISSES_MAX,
        "{} of {count} strikes missed: the points are not stable",
        missed.len()
    );
}
