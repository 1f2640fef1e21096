//! The rule, played by an executor without Redis, engine and clock. Whatever is played, what must always hold is looked at after each move.

mod brackets;
mod examples;
mod properties;
mod stages;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::command::{Command, Refused, apply};
use super::rule::{Change, Ended, Facts, Launch, Told, advance, asked, begin, due_ms, wanted};
use super::*;
use crate::model::job::Outcome;
use crate::model::pipeline::{Kind as StepKind, file};

const NOW: u64 = 1_700_000_000_000;

fn word(text: &str) -> Word {
    text.parse().expect("a name")
}

fn app(text: &str) -> DeploymentId {
    text.parse().expect("a name")
}

fn release_id(number: u128) -> ReleaseId {
    ReleaseId::new(NOW, number << 64)
}

fn artifact(version: &str) -> Artifact {
    Artifact { version: version.into(), reference: None, digest: None }
}

#[test]
fn an_artifact_is_named_by_what_everybody_sees() {
    for good in ["1", "0.22.3.rc", "v1-é", "registry.example.org/web:1@sha256:00"] {
        assert_eq!(artifact(good).fault(), None, "{good}");
    }
    for bad in ["", "1 2", "1\n", "\u{1b}[2J", "1.0\u{202e}cr", "1\u{200b}", "\u{feff}1"] {
        assert!(artifact(bad).fault().is_some(), "{bad:?}");
        let reference = Artifact { reference: Some(bad.into()), ..artifact("1") };
        assert!(reference.fault().is_some(), "{bad:?}");
    }
}

/// An executor, and all that it knows.
#[derive(Clone)]
struct Play {
    pipeline: Pipeline,
    release: Release,
    facts: Facts,
    /// Events that nobody has looked at yet, and all that there ever were.
    told: Vec<Told>,
    all_told: Vec<Told>,
    /// Jobs that have not ended, and all that there ever were.
    running: BTreeMap<JobId, Launch>,
    launched: Vec<Launch>,
    superseded: BTreeSet<ReleaseId>,
}

impl Play {
    /// A release of these services in version 2 that has gone as far as it can. Each app has an inventory of its own.
    fn new(pipeline: &str, services: &[&str], stage: Option<&str>) -> Self {
        let mut play = Self::made(file::read(pipeline).expect("a pipeline"), services, stage);
        play.go();
        play
    }

    fn made(pipeline: Pipeline, services: &[&str], stage: Option<&str>) -> Self {
        let services: BTreeMap<Word, Artifact> = services.iter().map(|name| (word(name), artifact("2"))).collect();
        let metadata = pipeline.metadata.iter().map(|name| (name.clone(), "said".to_owned())).collect();
        let stage = fault(&pipeline, &services, &metadata, stage.map(word).as_ref()).expect("a release");
        let (id, kind) = (release_id(100), super::Kind::Update);
        let mut release = Release::new(id, &pipeline, 1, kind, services, metadata, word("tim"), stage, NOW);
        let told = begin(&mut release);
        let of_services = pipeline.services.values().flat_map(|service| service.apps.values());
        let of_runs = pipeline.stages.iter().flat_map(|stage| &stage.steps).filter_map(|step| match &step.kind {
            StepKind::Run { app } => Some(app),
            _ => None,
        });
        let apps = of_services.chain(of_runs).map(|app| (app.clone(), format!("on-{app}").parse().expect("a name")));
        let facts = Facts { now_ms: NOW, apps: apps.collect(), ..Facts::default() };
        Self {
            pipeline,
            release,
            facts,
            all_told: told.clone(),
            told,
            running: BTreeMap::new(),
            launched: Vec::new(),
            superseded: BTreeSet::new(),
        }
    }

    /// Takes the release as far as it goes.
    fn go(&mut self) -> &mut Self {
        let mut drawn = self.launched.len() as u128;
        let mut draw = || {
            drawn += 1;
            JobId::new(NOW, drawn << 64)
        };
        let change = advance(&self.pipeline, &mut self.release, &self.facts, &mut draw);
        let again = advance(&self.pipeline, &mut self.release, &self.facts, &mut draw);
        assert_eq!(again, Change::default(), "the second time nothing follows");
        for launch in &change.launches {
            assert!(self.facts.blocked.is_none(), "nothing is launched without locks");
            let busy = self.running.values().chain(&change.launches).filter(|other| other.app == launch.app);
            assert_eq!(busy.count(), 1, "an app has one job at a time");
            assert!(!self.launched.iter().any(|other| other.job == launch.job), "a job is launched once");
        }
        self.launched.extend(change.launches.iter().cloned());
        self.running.extend(change.launches.into_iter().map(|launch| (launch.job, launch)));
        for (app, there) in change.there {
            match there {
                Some(there) => self.facts.there.insert(app, there),
                None => self.facts.there.remove(&app),
            };
        }
        self.superseded.extend(change.supersede);
        self.tell(change.told);
        self.look();
        let awaited: BTreeSet<JobId> = self.release.busy_jobs().into_iter().collect();
        self.facts.ended.retain(|job, _| awaited.contains(job));
        self
    }

    fn tell(&mut self, told: Vec<Told>) {
        for it in told {
            if let Some((what, "started" | "finished")) = it.what.rsplit_once('.') {
                let triggered = |before: &Told| before.what == format!("{what}.triggered");
                assert!(self.all_told.iter().any(triggered), "{} comes after {what}.triggered", it.what);
            }
            self.told.push(it.clone());
            self.all_told.push(it);
        }
    }

    /// What must always hold.
    fn look(&self) {
        let release = &self.release;
        let awaited: BTreeSet<JobId> = release.busy_jobs().into_iter().collect();
        for job in self.running.keys() {
            assert!(awaited.contains(job), "every job that runs is awaited");
        }
        let brackets = release.visits.iter().flat_map(|visit| &visit.steps).filter(|step| match &step.work {
            Work::Deploy { services, .. } => services.values().any(|it| it.state.is_busy()),
            _ => false,
        });
        assert!(brackets.count() <= 1, "one bracket at a time");
        assert!(!release.is_over() || awaited.is_empty(), "what is over has no job");
        assert!(!awaited.iter().any(|job| self.facts.ended.contains_key(job)), "what has ended is taken in");
        if release.suspended.is_none() || release.is_over() {
            let due = due_ms(release, self.facts.now_ms);
            assert!(due.is_none_or(|due| due > self.facts.now_ms), "it would be looked at without end: {release:#?}");
            assert!(awaited.is_empty() || due.is_some(), "jobs that end unheard are found");
            let wanted = wanted(&self.pipeline, release, &self.facts.apps);
            assert!(wanted.is_empty() || self.facts.blocked.is_some(), "it waits for locks that it does not ask for");
            assert!(wanted.is_empty() || due.is_some(), "locks that are free unheard are found");
        }
        let places: Vec<usize> =
            release.visits.iter().filter_map(|visit| Some(self.pipeline.stage(&visit.stage)?.0)).collect();
        assert!(places.windows(2).all(|pair| pair[0] + 1 == pair[1]), "stages are entered in order");
        for (at, visit) in release.visits.iter().enumerate() {
            let last = at + 1 == release.visits.len();
            assert!(last || visit.steps.iter().all(StepRun::is_done), "a stage that was left is done");
            let open = visit.steps.iter().position(|step| !step.is_done()).unwrap_or(visit.steps.len());
            let mut later = visit.steps.iter().skip(open + 1);
            assert!(later.all(|step| step.triggered_ms.is_none()), "no step before those before it are done");
            for step in &visit.steps {
                self.look_at(step);
            }
            assert!(!release.is_over() || visit.finished_ms.is_some(), "what is over is finished");
        }
        if let Some((verdict, _)) = &release.decision {
            let done = release.visits.iter().flat_map(|visit| &visit.steps).all(StepRun::is_done);
            assert!(*verdict == Verdict::Rejected || done, "accepted, and not all is done");
        }
        let text = serde_json::to_string(release).expect("JSON");
        assert_eq!(serde_json::from_str::<Release>(&text).expect("a release"), *release);
    }

    fn look_at(&self, step: &StepRun) {
        let Work::Deploy { services, .. } = &step.work else { return };
        for it in services.values() {
            let good = match step.result {
                None => true,
                Some(Finding::Pass) => it.state == DeploymentState::Deployed,
                Some(_) => {
                    use DeploymentState::{NotUndone, Pending, Undone};
                    matches!(it.state, Undone | NotUndone | Pending)
                }
            };
            assert!(good, "{:?} does not go with {services:#?}", step.result);
            assert_eq!(it.state.is_busy(), it.job.is_some());
        }
    }

    /// Has a command carried out. What is refused changes nothing.
    fn command(&mut self, command: Command) -> Result<&mut Self, Refused> {
        let before = self.release.clone();
        match apply(&self.pipeline, &mut self.release, command) {
            Ok(told) => {
                self.tell(told);
                Ok(self.go())
            }
            Err(refused) => {
                assert_eq!(self.release, before, "{refused}");
                Err(refused)
            }
        }
    }

    fn may(&mut self, command: Command) -> &mut Self {
        self.command(command).unwrap_or_else(|refused| panic!("{refused}"))
    }

    fn refused(&mut self, command: Command) -> Refused {
        self.command(command).err().expect("refused")
    }

    /// Somebody, who says so now.
    fn act(&self, by: &str) -> Act {
        Act { by: Some(word(by)), reason: "because".into(), at_ms: self.facts.now_ms }
    }

    fn report(&self, reporter: &str, result: Finding) -> Command {
        let stage = self.release.visit().map_or_else(|| word("none"), |visit| visit.stage.clone());
        let at_ms = self.facts.now_ms;
        let report = Report { result, link: None, status: None, comment: None, log: None, at_ms };
        Command::Report { reporter: word(reporter), stage, step: None, report }
    }

    fn approval(&self, by: &str, group: &str) -> Command {
        Command::Approve { act: self.act(by), groups: vec![word(group)] }
    }

    fn reports(&mut self, reporter: &str, result: Finding) -> &mut Self {
        self.may(self.report(reporter, result))
    }

    fn approves(&mut self, by: &str, group: &str) -> &mut Self {
        self.may(self.approval(by, group))
    }

    /// A command that says but who gives it, given by Olga.
    fn says(&mut self, command: impl FnOnce(Act) -> Command) -> &mut Self {
        self.may(command(self.act("olga")))
    }

    fn may_not(&mut self, command: impl FnOnce(Act) -> Command) -> Refused {
        self.refused(command(self.act("olga")))
    }

    fn wait(&mut self, ms: u64) -> &mut Self {
        self.facts.now_ms += ms;
        self.go()
    }

    /// The job of an app ends.
    fn end_with(&mut self, app: &str, outcome: Outcome, outputs: Value) -> &mut Self {
        let job = *self.running.iter().find(|(_, launch)| launch.app.as_str() == app).expect("a job of it runs").0;
        self.running.remove(&job);
        let Value::Object(outputs) = outputs else { panic!("outputs are an object") };
        let reason = (outcome != Outcome::Succeeded).then(|| "it broke".to_owned());
        self.facts.ended.insert(job, Ended { outcome, reason, outputs });
        self.go()
    }

    fn end(&mut self, app: &str, outcome: Outcome) -> &mut Self {
        self.end_with(app, outcome, json!({}))
    }

    fn good(&mut self, app: &str) -> &mut Self {
        self.end(app, Outcome::Succeeded)
    }

    fn bad(&mut self, app: &str) -> &mut Self {
        self.end(app, Outcome::Failed)
    }

    /// All jobs that run succeed.
    fn all_good(&mut self) -> &mut Self {
        for app in self.running_apps() {
            self.good(&app);
        }
        self
    }

    fn running_apps(&self) -> Vec<String> {
        self.running.values().map(|launch| launch.app.to_string()).collect()
    }

    fn block(&mut self, inventory: &str) -> &mut Self {
        let inventory = Some(inventory.parse().expect("a name"));
        self.facts.blocked = Some(Blocked { inventory, why: "job X holds it".into() });
        self.go()
    }

    fn unblock(&mut self) -> &mut Self {
        self.facts.blocked = None;
        self.go()
    }

    /// What was told since the last look.
    fn heard(&mut self) -> String {
        let told = std::mem::take(&mut self.told);
        told.iter().map(|it| it.what.as_str()).collect::<Vec<_>>().join(" ")
    }

    fn last_told(&self, what: &str) -> &Told {
        self.all_told.iter().rfind(|it| it.what == what).unwrap_or_else(|| panic!("{what} was never told"))
    }

    fn step(&self, name: &str) -> &StepRun {
        let visit = self.release.visit().expect("a stage");
        visit.steps.iter().find(|step| step.name.as_str() == name).expect("such a step")
    }

    fn result(&self, name: &str) -> Option<Finding> {
        self.step(name).result
    }

    fn note(&self, name: &str) -> &str {
        self.step(name).note.as_deref().unwrap_or_default()
    }

    /// The state of each service of a step, as words.
    fn states(&self, name: &str) -> String {
        let Work::Deploy { services, .. } = &self.step(name).work else { panic!("it deploys nothing") };
        services.values().map(|it| it.state.word()).collect::<Vec<_>>().join(" ")
    }

    fn standing(&self) -> Standing {
        self.release.standing(&self.pipeline)
    }

    /// What the newest job of an app was told.
    fn vars(&self, app: &str) -> &Map<String, Value> {
        let launch = self.launched.iter().rfind(|launch| launch.app.as_str() == app).expect("a job of it was launched");
        launch.vars["lockstep_release"].as_object().expect("an object")
    }

    fn there(&self, of: &str) -> Option<&str> {
        self.facts.there.get(&app(of)).map(|there| there.artifact.version.as_str())
    }

    /// An earlier release has deployed version 1 by these apps.
    fn with_before(mut self, apps: &[&str]) -> Self {
        for name in apps {
            let (service, stage) = (word("any"), word("any"));
            let there = There { artifact: artifact("1"), release: release_id(1), service, stage };
            self.facts.there.insert(app(name), there);
        }
        self
    }
}
