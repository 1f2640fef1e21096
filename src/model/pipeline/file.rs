//! The file in which a pipeline is written: YAML, checked as a whole, with every mistake named by line and key.
//!
//! ```yaml
//! pipeline: foo
//! product: foo
//! services:
//!   foobar-backend: {dev: backend-dev, hardening: backend-hardening}   # stage: app
//! metadata: [release_notes]
//! stages:
//!   - stage: hardening
//!     entry: true
//!     steps:
//!       - {name: deploy_blue_green, deploy: blue_green}
//!       - {name: performance_tests, run: foo-performance}
//!       - {name: early_adopters, check: [ea-glite, ea-unicore], deadline: 3d}
//!       - {name: certification, approval: [release-managers], count: 2}
//!       - {name: grace_period, soak: 24h}
//!     promote: auto
//! ```
//!
//! Two passes: the first takes what has the right form, with the place of each thing; the second makes a [`Pipeline`] of it and collects
//! every mistake. What is read is bounded, so that a file whose aliases multiply costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::{Location, Spanned};

use super::{Kind, Pipeline, Promote, Reporters, Service, Stage, Step, Strategy};
use crate::model::ids::{DeploymentId, NameError, Word};
use crate::model::mistakes::{self, Found, Mistakes};
use crate::model::text::acts;

/// The most stages of a pipeline, and the most steps of a stage.
pub const STAGES_MAX: usize = 32;
/// The most services of a pipeline.
pub const SERVICES_MAX: usize = 200;
/// How long silence of reporters is waited for, unless the file says otherwise.
const DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest deadline and soak time.
const TIME_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Names under which a release tells of itself: the events of a step of such a name would be taken for those.
const RESERVED: [&str; 4] = ["assigned", "configuration-change", "promote", "rollback"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPipeline {
    pipeline: Spanned<String>,
    description: Option<String>,
    product: Spanned<String>,
    services: Spanned<BTreeMap<String, BTreeMap<String, Spanned<String>>>>,
    #[serde(default)]
    metadata: Vec<Spanned<String>>,
    stages: Spanned<Vec<Spanned<RawStage>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStage {
    stage: Spanned<String>,
    shown_as: Option<Spanned<String>>,
    #[serde(default)]
    entry: bool,
    #[serde(default)]
    ready_to_deploy: bool,
    assign: Option<Spanned<String>>,
    steps: Spanned<Vec<Spanned<RawStep>>>,
    #[serde(default)]
    promote: Promote,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    name: Spanned<String>,
    deploy: Option<Spanned<String>>,
    shares: Option<Spanned<Vec<u8>>>,
    pause: Option<Spanned<String>>,
    run: Option<Spanned<String>>,
    check: Option<Spanned<RawCheck>>,
    deadline: Option<Spanned<String>>,
    action: Option<Spanned<String>>,
    approval: Option<Spanned<Vec<Spanned<String>>>>,
    count: Option<Spanned<u32>>,
    soak: Option<Spanned<String>>,
    on_failure: Option<Spanned<String>>,
}

/// `subscribers`, or names.
enum RawCheck {
    Word(String),
    Names(Vec<String>),
}

impl<'de> Deserialize<'de> for RawCheck {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = RawCheck;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("subscribers or a list of reporters")
            }

            fn visit_str<E>(self, text: &str) -> Result<RawCheck, E> {
                Ok(RawCheck::Word(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawCheck, A::Error> {
                let mut names = Vec::new();
                // Each is asked for as a text: `on` and `1` are names here, as they are in every other list of names.
                while let Some(name) = list.next_element::<String>()? {
                    names.push(name);
                }
                Ok(RawCheck::Names(names))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Reads a pipeline.
///
/// # Errors
/// Every mistake, in the order of the file; the form comes first: as long as that is wrong, nothing else is looked at.
pub fn read(text: &str) -> Result<Pipeline, Mistakes> {
    let raw: RawPipeline = mistakes::parse(text)?;
    let mut reader = Reader { mistakes: Found::default() };
    let pipeline = reader.pipeline(raw);
    reader.mistakes.or(pipeline)
}

struct Reader {
    mistakes: Found,
}

impl Reader {
    fn wrong(&mut self, at: Location, what: String) {
        self.mistakes.wrong(at, what);
    }

    fn name<T: FromStr<Err = NameError>>(&mut self, key: &str, text: &Spanned<String>) -> Option<T> {
        self.mistakes.name(key, text)
    }

    fn names<'a>(&mut self, key: &str, texts: impl IntoIterator<Item = &'a Spanned<String>>) -> BTreeSet<Word> {
        let mut names = BTreeSet::new();
        for text in texts {
            if let Some(name) = self.name::<Word>(key, text)
                && !names.insert(name)
            {
                self.wrong(text.referenced, format!("{key} names {} twice", text.value));
            }
        }
        names
    }

    fn time(&mut self, key: &str, text: &Spanned<String>) -> Option<Duration> {
        match time(&text.value) {
            Some(time) if (Duration::from_secs(1)..=TIME_MAX).contains(&time) => Some(time),
            Some(_) | None => {
                self.wrong(text.referenced, format!("{key} must be a time such as 30m, 24h or 7d, at most a year"));
                None
            }
        }
    }

    fn pipeline(&mut self, raw: RawPipeline) -> Option<Pipeline> {
        let name = self.name("pipeline", &raw.pipeline);
        let product = self.name("product", &raw.product);
        let metadata = self.names("metadata", &raw.metadata);
        let at = raw.stages.referenced;
        if raw.stages.value.is_empty() || raw.stages.value.len() > STAGES_MAX {
            self.wrong(at, format!("stages must be 1 to {STAGES_MAX}"));
        }
        let mut stages: Vec<Stage> = Vec::new();
        for raw in &raw.stages.value {
            let Some(stage) = self.stage(&raw.value) else { continue };
            if stages.iter().any(|other| other.name == stage.name) {
                self.wrong(
                    raw.value.stage.referenced,
                    format!("stage: there are two stages of the name {}", stage.name),
                );
            }
            stages.push(stage);
        }
        let services = self.services(&raw.services, &stages);
        Some(Pipeline { name: name?, description: raw.description, product: product?, services, metadata, stages })
    }

    fn services(
        &mut self,
        raw: &Spanned<BTreeMap<String, BTreeMap<String, Spanned<String>>>>,
        stages: &[Stage],
    ) -> BTreeMap<Word, Service> {
        let at = raw.referenced;
        if raw.value.is_empty() || raw.value.len() > SERVICES_MAX {
            self.wrong(at, format!("services must be 1 to {SERVICES_MAX}"));
        }
        let deploying = |stage: &Stage| stage.steps.iter().any(|step| matches!(step.kind, Kind::Deploy { .. }));
        let mut services = BTreeMap::new();
        for (name, apps) in &raw.value {
            let Ok(name) = name.parse::<Word>() else {
                self.wrong(at, format!("services: {name:?} is no name"));
                continue;
            };
            let mut service = Service::default();
            for (stage, app) in apps {
                let known = stages.iter().find(|known| known.name.as_str() == stage);
                match known {
                    Some(known) => {
                        if let Some(app) = self.name(&format!("services: the app of {name} in {stage}"), app) {
                            service.apps.insert(known.name.clone(), app);
                        }
                    }
                    None => self.wrong(
                        app.referenced,
                        format!("services: {name} is deployed in the stage {stage}, which there is not"),
                    ),
                }
            }
            for stage in stages.iter().filter(|stage| deploying(stage) && !apps.contains_key(stage.name.as_str())) {
                self.wrong(at, format!("services: {name} has no app for the stage {}, which deploys", stage.name));
            }
            services.insert(name, service);
        }
        for stage in stages {
            let mut taken: BTreeMap<&DeploymentId, &Word> = BTreeMap::new();
            for (name, service) in &services {
                let Some(app) = service.apps.get(&stage.name) else { continue };
                if let Some(other) = taken.insert(app, name) {
                    let stage = &stage.name;
                    self.wrong(at, format!("services: in the stage {stage} the app {app} deploys {other} and {name}; each needs one of its own"));
                }
            }
        }
        services
    }

    fn stage(&mut self, raw: &RawStage) -> Option<Stage> {
        let name = self.name("stage", &raw.stage);
        let assign = raw.assign.as_ref().and_then(|text| self.name("assign", text));
        if let Some(shown) = &raw.shown_as
            && (shown.value.trim().is_empty() || shown.value.chars().count() > 64 || shown.value.chars().any(acts))
        {
            self.wrong(
                shown.referenced,
                "shown_as must have 1 to 64 characters, none of them a control character".into(),
            );
        }
        if raw.steps.value.is_empty() || raw.steps.value.len() > STAGES_MAX {
            self.wrong(raw.steps.referenced, format!("steps must be 1 to {STAGES_MAX}"));
        }
        let mut steps: Vec<Step> = Vec::new();
        for raw in &raw.steps.value {
            let Some(step) = self.step(raw) else { continue };
            if steps.iter().any(|other| other.name == step.name) {
                self.wrong(
                    raw.value.name.referenced,
                    format!("name: there are two steps of the name {} in this stage", step.name),
                );
            }
            steps.push(step);
        }
        Some(Stage {
            name: name?,
            shown_as: raw.shown_as.as_ref().map(|shown| shown.value.clone()),
            entry: raw.entry,
            ready_to_deploy: raw.ready_to_deploy,
            assign,
            steps,
            promote: raw.promote,
        })
    }

    fn step(&mut self, raw: &Spanned<RawStep>) -> Option<Step> {
        let (at, raw) = (raw.referenced, &raw.value);
        let name = self.name("name", &raw.name);
        if RESERVED.contains(&raw.name.value.as_str()) {
            let what = format!("name: {} is what a release tells of itself; a step needs another name", raw.name.value);
            self.wrong(raw.name.referenced, what);
        }
        let on_failure = raw.on_failure.as_ref().and_then(|text| self.name("on_failure", text));
        let kinds = [
            ("deploy", raw.deploy.is_some()),
            ("run", raw.run.is_some()),
            ("check", raw.check.is_some()),
            ("approval", raw.approval.is_some()),
            ("soak", raw.soak.is_some()),
        ];
        let given: Vec<_> = kinds.iter().filter(|(_, given)| *given).map(|(word, _)| *word).collect();
        let [kind] = given[..] else {
            self.wrong(at, "a step must have exactly one of deploy, run, check, approval and soak".into());
            return None;
        };
        for (key, of, place) in [
            ("shares", "deploy", raw.shares.as_ref().map(|it| it.referenced)),
            ("pause", "deploy", raw.pause.as_ref().map(|it| it.referenced)),
            ("deadline", "check", raw.deadline.as_ref().map(|it| it.referenced)),
            ("action", "check", raw.action.as_ref().map(|it| it.referenced)),
            ("count", "approval", raw.count.as_ref().map(|it| it.referenced)),
        ] {
            if let Some(place) = place
                && of != kind
            {
                self.wrong(place, format!("{key} belongs to a step {of}, and this one is {kind}"));
            }
        }
        let kind = match kind {
            "deploy" => Kind::Deploy { strategy: self.strategy(raw)? },
            "run" => Kind::Run { app: self.name("run", raw.run.as_ref()?)? },
            "check" => self.check(raw)?,
            "approval" => self.approval(raw)?,
            _ => Kind::Soak { time: self.time("soak", raw.soak.as_ref()?)? },
        };
        Some(Step { name: name?, kind, on_failure })
    }

    fn strategy(&mut self, raw: &RawStep) -> Option<Strategy> {
        let word = raw.deploy.as_ref()?;
        let canary = word.value == "canary";
        if let Some(shares) = &raw.shares
            && !canary
        {
            self.wrong(shares.referenced, "shares belong to deploy: canary".into());
        }
        if let Some(pause) = &raw.pause
            && !canary
        {
            self.wrong(pause.referenced, "pause belongs to deploy: canary".into());
        }
        match word.value.as_str() {
            "direct" => Some(Strategy::Direct),
            "blue_green" => Some(Strategy::BlueGreen),
            "canary" => {
                let Some(shares) = &raw.shares else {
                    self.wrong(word.referenced, "deploy: canary needs shares, such as [10, 50]".into());
                    return None;
                };
                let grows = shares.value.windows(2).all(|pair| pair[0] < pair[1]);
                if shares.value.is_empty() || !grows || !shares.value.iter().all(|share| (1..=99).contains(share)) {
                    self.wrong(shares.referenced, "shares must grow, each 1 to 99 percent".into());
                }
                let pause = match &raw.pause {
                    Some(text) => self.time("pause", text)?,
                    None => Duration::ZERO,
                };
                Some(Strategy::Canary { shares: shares.value.clone(), pause })
            }
            _ => {
                self.wrong(word.referenced, "deploy must be direct, blue_green or canary".into());
                None
            }
        }
    }

    fn check(&mut self, raw: &RawStep) -> Option<Kind> {
        let check = raw.check.as_ref()?;
        let at = check.referenced;
        let reporters = match &check.value {
            RawCheck::Word(word) if word == "subscribers" => Reporters::Subscribers,
            RawCheck::Word(_) => {
                self.wrong(at, "check must be subscribers, or a list of reporters".into());
                return None;
            }
            RawCheck::Names(names) => {
                let mut reporters = BTreeSet::new();
                for name in names {
                    match name.parse::<Word>() {
                        Ok(word) if reporters.insert(word.clone()) => {}
                        Ok(_) => self.wrong(at, format!("check names {name} twice")),
                        Err(error) => self.wrong(at, format!("check: a reporter's name {error}")),
                    }
                }
                if names.is_empty() {
                    self.wrong(at, "check names nobody".into());
                }
                Reporters::Named(reporters)
            }
        };
        let deadline = match &raw.deadline {
            Some(text) => self.time("deadline", text)?,
            None => DEADLINE,
        };
        let action = match &raw.action {
            Some(text) => Some(self.name("action", text)?),
            None => None,
        };
        Some(Kind::Check { reporters, deadline, action })
    }

    fn approval(&mut self, raw: &RawStep) -> Option<Kind> {
        let approval = raw.approval.as_ref()?;
        if approval.value.is_empty() {
            self.wrong(approval.referenced, "approval names no group".into());
        }
        let groups = self.names("approval", &approval.value);
        let count = raw.count.as_ref().map_or(1, |count| count.value);
        if let Some(given) = &raw.count
            && !(1..=20).contains(&count)
        {
            self.wrong(given.referenced, "count must be 1 to 20".into());
        }
        Some(Kind::Approval { groups, count })
    }
}

/// A number and `s`, `m`, `h` or `d`.
fn time(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    Some(Duration::from_secs(u64::from(number.parse::<u32>().ok()?) * unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mistakes::FILE_MAX;

    const GOOD: &str = "\
pipeline: foo
product: foo
services:
  backend: {dev: backend-dev, hardening: backend-hardening}
  frontend: {dev: frontend-dev, hardening: frontend-hardening}
metadata: [release_notes]
stages:
  - stage: dev
    steps:
      - {name: deploy_direct, deploy: direct}
      - {name: tests, run: foo-tests}
  - stage: hardening
    shown_as: Rolling-out
    entry: true
    assign: staged-rollout
    steps:
      - {name: deploy_canary, deploy: canary, shares: [10, 50], pause: 10m}
      - {name: adopters, check: [glite, unicore], deadline: 3d, action: MoveToStageRollOut, on_failure: technical-unit}
      - {name: customers, check: subscribers}
      - {name: certification, approval: [managers], count: 2}
      - {name: grace, soak: 24h}
    promote: auto
";

    fn word(text: &str) -> Word {
        text.parse().expect("a name")
    }

    /// Line and beginning of each mistake after a change.
    fn mistakes(from: &str, to: &str) -> Vec<(u64, String)> {
        assert!(GOOD.contains(from), "{from}");
        let mistakes = read(&GOOD.replacen(from, to, 1)).expect_err(to);
        mistakes.0.into_iter().map(|mistake| (mistake.line, mistake.what)).collect()
    }

    #[test]
    fn a_pipeline_is_read() {
        let pipeline = read(GOOD).expect("a pipeline");
        assert_eq!(pipeline.name, word("foo"));
        assert_eq!(pipeline.services[&word("backend")].apps[&word("hardening")].as_str(), "backend-hardening");
        let (place, stage) = pipeline.stage(&word("hardening")).expect("a stage");
        assert_eq!((place, stage.entry, stage.promote), (1, true, Promote::Auto));
        assert_eq!(pipeline.stages[0].promote, Promote::Manual);
        let kinds: Vec<_> = stage.steps.iter().map(|step| step.kind.word()).collect();
        assert_eq!(kinds, ["deploy", "check", "check", "approval", "soak"]);
        assert_eq!(
            stage.steps[0].kind,
            Kind::Deploy { strategy: Strategy::Canary { shares: vec![10, 50], pause: Duration::from_secs(600) } }
        );
        let Kind::Check { deadline, action, .. } = &stage.steps[1].kind else { panic!("a check") };
        assert_eq!((deadline.as_secs(), action), (3 * 86_400, &Some(word("MoveToStageRollOut"))));
        // What is stored reads back.
        let json = serde_json::to_string(&pipeline).expect("JSON");
        assert_eq!(serde_json::from_str::<Pipeline>(&json).expect("a pipeline"), pipeline);
    }

    #[test]
    fn every_mistake_is_named_by_line_and_key() {
        for (from, to, line, what) in [
            ("pipeline: foo", "pipeline: a b", 1, "pipeline has a character"),
            ("product: foo", "colour: red", 2, "unknown field"),
            ("metadata: [release_notes]", "metadata: [a, a]", 6, "metadata names a twice"),
            ("  - stage: hardening", "  - stage: dev", 12, "stage: there are two stages of the name dev"),
            ("{name: tests, run: foo-tests}", "{name: deploy_direct, run: foo-tests}", 11, "name: there are two steps"),
            ("{name: tests, run: foo-tests}", "{name: tests}", 11, "a step must have exactly one"),
            ("{name: tests, run: foo-tests}", "{name: tests, run: a, soak: 1h}", 11, "a step must have exactly one"),
            (
                "{name: tests, run: foo-tests}",
                "{name: tests, run: a, count: 2}",
                11,
                "count belongs to a step approval",
            ),
            ("{name: tests, run: foo-tests}", "{name: tests, runs: a}", 11, "unknown field"),
            ("deploy: direct", "deploy: carefully", 10, "deploy must be direct"),
            ("deploy: direct", "deploy: direct, shares: [1]", 10, "shares belong to deploy: canary"),
            ("deploy: canary, shares: [10, 50]", "deploy: canary", 17, "deploy: canary needs shares"),
            ("deploy: canary, shares: [10, 50]", "deploy: direct", 17, "pause belongs to deploy: canary"),
            (
                "frontend: {dev: frontend-dev",
                "frontend: {dev: backend-dev",
                4,
                "services: in the stage dev the app backend-dev",
            ),
            ("shares: [10, 50]", "shares: [50, 10]", 17, "shares must grow"),
            ("shares: [10, 50]", "shares: [0]", 17, "shares must grow"),
            ("check: [glite, unicore]", "check: []", 18, "check names nobody"),
            ("check: [glite, unicore]", "check: [glite, glite]", 18, "check names glite twice"),
            ("check: subscribers", "check: everybody", 19, "check must be subscribers"),
            ("check: subscribers", "check: 1", 19, "invalid type: integer `1`, expected subscribers or a list"),
            ("name: tests", "name: rollback", 11, "name: rollback is what a release tells of itself"),
            ("name: tests", "name: configuration-change", 11, "name: configuration-change is what"),
            ("Rolling-out", "\"Rolling\\u202Eout\"", 13, "shown_as must have"),
            ("deadline: 3d", "deadline: soon", 18, "deadline must be a time"),
            ("soak: 24h", "soak: 0s", 21, "soak must be a time"),
            ("soak: 24h", "soak: 9999d", 21, "soak must be a time"),
            ("count: 2", "count: 0", 20, "count must be"),
            ("approval: [managers]", "approval: []", 20, "approval names no group"),
            (
                "backend: {dev: backend-dev, ",
                "backend: {prod: x, ",
                4,
                "services: backend is deployed in the stage prod",
            ),
            ("promote: auto", "promote: perhaps", 22, "unknown variant"),
        ] {
            let found = mistakes(from, to);
            assert!(found.iter().any(|(at, text)| *at == line && text.starts_with(what)), "{to}: {found:?}");
        }
        let missing = mistakes("frontend: {dev: frontend-dev, ", "frontend: {");
        assert!(missing.iter().any(|(_, what)| what.contains("frontend has no app for the stage dev")), "{missing:?}");
        let empty = read("pipeline: a\nproduct: a\nservices: {}\nstages: []\n").expect_err("nothing in it");
        assert_eq!(empty.0.len(), 2, "{empty}");
        // All at once, in the order of the file.
        let many =
            read(&GOOD.replace("foo-tests", "../x").replace("24h", "soon").replace("managers", "")).expect_err("three");
        let lines: Vec<_> = many.0.iter().map(|mistake| mistake.line).collect();
        assert_eq!(lines, [11, 20, 21], "{many}");
    }

    #[test]
    fn a_reporter_may_have_a_name_that_looks_like_something_else() {
        let pipeline = read(&GOOD.replace("[glite, unicore]", "[y, n, on, 1, 0x1F, 1e3]")).expect("a pipeline");
        let Kind::Check { reporters: Reporters::Named(names), .. } = &pipeline.stages[1].steps[1].kind else {
            panic!("a check")
        };
        assert_eq!(*names, ["y", "n", "on", "1", "0x1F", "1e3"].map(word).into());
    }

    #[test]
    fn what_is_no_pipeline_costs_little_and_says_so() {
        for text in ["", "- a", "a: [", "pipeline: {a: b}", "\u{0}", "a: &a [*a]", "%YAML 9"] {
            let mistakes = read(text).expect_err(text);
            assert!(!mistakes.0.is_empty() && !mistakes.to_string().is_empty(), "{text}");
        }
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let before = format!("*a{}, ", n - 1).repeat(10);
            bomb.push_str(&format!("a{n}: &a{n} [{before}]\n"));
        }
        read(&format!("{GOOD}{bomb}")).expect_err("a bomb");
        read(&"x".repeat(FILE_MAX + 1)).expect_err("too long");
        let deep = format!("pipeline: {}", "[".repeat(20_000));
        read(&deep).expect_err("too deep");
    }
}
