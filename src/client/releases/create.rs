//! `lockstep release create`: what it consists of, from arguments and a file; then it is made, once.

use std::collections::BTreeMap;

use reqwest::Method;

use super::args::Create;
use super::events::{self, Shown, Until, Watched};
use super::words;
use crate::client::deploy::{Unanswered, persist, read};
use crate::client::escape::plain;
use crate::client::exit::{Exit, Fault};
use crate::client::http::{CallError, Http};
use crate::client::operate::say_json;
use crate::client::screen::{Screen, Tone};
use crate::client::signals::Signals;
use crate::clock;
use crate::model::ids::{ReleaseId, Word};
use crate::wire::{Artifact, ReleaseKind, ReleaseRequest, ReleaseView, ServiceRequest, Standing, Verdict};

/// `release create`
pub(super) async fn create(args: Create, http: &Http, screen: &mut Screen) -> Result<Exit, Fault> {
    let mut signals = Signals::listen();
    let request = request(&args)?;
    let key = args.idempotency_key.clone().unwrap_or_else(clock::draw_name);
    let about = format!("the release of {}", args.pipeline);
    let make = || http.request(Method::POST, &["releases"], &[]).header("Idempotency-Key", &key).json(&request);
    let asked = tokio::select! {
        asked = persist(http, screen, make) => asked,
        number = signals.next() => {
            return Err(Fault {
                exit: Exit::Signal(number),
                what: format!("{about}: interrupted before the answer came"),
                hint: Some(repeat(&key)),
            });
        }
    };
    let answer = asked.map_err(|Unanswered { error, sent }| {
        let mut fault = http.fault(&error, &about);
        if sent && fault.exit == Exit::NotReached {
            fault.hint = Some(repeat(&key));
        }
        fault
    })?;
    if args.json {
        say_json(screen, &answer);
        return Ok(Exit::Done);
    }
    let understood = answer.json().and_then(|view| understood(view, &args.pipeline));
    let (view, id) = understood.map_err(|error| Fault { hint: Some(repeat(&key)), ..http.fault(&error, &about) })?;
    // The id alone goes to standard output, at once, so that it can be handed on; what follows is for people.
    screen.say(&id.to_string());
    if !args.follow {
        screen.note(&words::whereabouts(&view.summary));
        return Ok(Exit::Done);
    }
    let colour = screen.look().colour;
    screen.note(&words::whereabouts(&view.summary));
    let left = events::watch(http, screen, &mut signals, id, None, Until::StandsStill, Shown::Aside).await;
    let view = match left {
        Ok(Watched::Stands(view)) => view,
        Ok(Watched::Signal(number)) => {
            screen.note(&format!("interrupted; release {id} goes on without this command"));
            screen.note(&format!("to follow it: lockstep release events -f {id}"));
            return Ok(Exit::Signal(number));
        }
        // Not how such a watch ends; and nothing is green that was not seen.
        Ok(Watched::Closed) => return Ok(Exit::NotReached),
        Err(error) => {
            return Err(Fault {
                hint: Some(format!("The release was made and goes on: lockstep release show {id}.")),
                ..http.fault(&error, &format!("the events of release {id}"))
            });
        }
    };
    let exit = came_to(&view);
    let tone = if exit == Exit::Done { Tone::Good } else { Tone::Bad };
    screen.aside("");
    screen.aside(&tone.paint(colour, &words::whereabouts(&view.summary)));
    Ok(exit)
}

fn repeat(key: &str) -> String {
    format!(
        "It may have been made all the same. To find out, give the same command with --idempotency-key {key}: \
         that can't make a second release."
    )
}

/// The release that was made, if the answer is about this pipeline.
fn understood(view: ReleaseView, pipeline: &Word) -> Result<(ReleaseView, ReleaseId), CallError> {
    let id = view.summary.id.parse().map_err(|_| CallError::Garbled("its id is not a ULID".into()))?;
    if view.summary.pipeline != pipeline.as_str() {
        return Err(CallError::Garbled("it is about another pipeline".into()));
    }
    Ok((view, id))
}

/// What a release that stands still says to the script that made it.
fn came_to(view: &ReleaseView) -> Exit {
    match (view.summary.state, view.summary.decision.as_ref().map(|it| it.verdict)) {
        (Standing::Decided, None | Some(Verdict::Rejected)) => Exit::NotSucceeded,
        (Standing::Failed | Standing::RolledBack | Standing::Suspended, _) => Exit::NotSucceeded,
        (Standing::Superseded, _) => Exit::Superseded,
        (Standing::Decided | Standing::Ready | Standing::Undecided | Standing::Waiting, _) => Exit::Done,
        // These go on by themselves, and are not what a watch ends with.
        (Standing::Entering | Standing::Working, _) => Exit::NotReached,
    }
}

/// What the arguments ask for.
fn request(args: &Create) -> Result<ReleaseRequest, Fault> {
    let mut services: BTreeMap<Word, Artifact> = BTreeMap::new();
    for (name, version) in &args.services {
        let artifact = Artifact { version: version.clone(), reference: None, digest: None };
        if services.insert(name.clone(), artifact).is_some() {
            return Err(twice("service", name));
        }
    }
    for (what, given) in [("reference", &args.references), ("digest", &args.digests)] {
        for (name, text) in given {
            let Some(artifact) = services.get_mut(name) else {
                return Err(Fault::usage(
                    format!("the {what} of {name}: it is not among the services"),
                    format!("Name it with its version as well: --service {name}=VERSION."),
                ));
            };
            let place = if what == "digest" { &mut artifact.digest } else { &mut artifact.reference };
            if place.replace(text.clone()).is_some() {
                return Err(twice(what, name));
            }
        }
    }
    for (name, artifact) in &services {
        if let Some(fault) = artifact.fault() {
            return Err(Fault::usage(format!("service {name}: {fault}"), "Check --service, --reference and --digest."));
        }
    }
    Ok(ReleaseRequest {
        pipeline: args.pipeline.to_string(),
        stage: args.stage.as_ref().map(ToString::to_string),
        kind: if args.initial { ReleaseKind::Initial } else { ReleaseKind::Update },
        services: services.into_iter().map(|(name, it)| (name.into(), ServiceRequest::Artifact(it))).collect(),
        metadata: metadata(args)?,
    })
}

fn twice(what: &str, name: &Word) -> Fault {
    Fault::usage(format!("the {what} of {name} is given twice"), "Give each of them once.")
}

/// What is said of the release, from a file and arguments.
fn metadata(args: &Create) -> Result<BTreeMap<String, String>, Fault> {
    let mut metadata = match &args.metadata {
        None => BTreeMap::new(),
        Some(path) => {
            let shown = path.display();
            let wrong = |what: String| {
                Fault::usage(
                    format!("the metadata {shown} is wrong: {what}"),
                    "It must hold texts by name, in YAML (release_notes: …) or JSON.",
                )
            };
            let text = String::from_utf8(read(path, "metadata")?).map_err(|_| wrong("it is not UTF-8".into()))?;
            texts(&text).map_err(wrong)?
        }
    };
    for (name, text) in &args.metas {
        if metadata.insert(name.to_string(), text.clone()).is_some() {
            return Err(twice("metadata", name));
        }
    }
    Ok(metadata)
}

/// Texts by name. JSON is YAML as well.
fn texts(text: &str) -> Result<BTreeMap<String, String>, String> {
    let map: BTreeMap<Word, String> = serde_saphyr::from_str(text).map_err(|error| {
        let what = error.to_string();
        plain(what.lines().next().unwrap_or_default())
    })?;
    Ok(map.into_iter().map(|(name, text)| (name.into(), text)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Word {
        text.parse().expect("a name")
    }

    fn args(services: &[(&str, &str)]) -> Create {
        Create {
            pipeline: word("foo"),
            stage: None,
            initial: false,
            services: services.iter().map(|(name, version)| (word(name), (*version).to_owned())).collect(),
            references: vec![],
            digests: vec![],
            metadata: None,
            metas: vec![],
            idempotency_key: None,
            follow: false,
            json: false,
        }
    }

    #[test]
    fn a_release_is_asked_for_service_by_service() {
        let args = Create {
            initial: true,
            references: vec![(word("web"), "registry.example.org/web:1".into())],
            digests: vec![(word("web"), "sha256:00".into())],
            metas: vec![(word("release_notes"), "none".into())],
            ..args(&[("web", "1"), ("db", "0.22.3.rc")])
        };
        insta::assert_json_snapshot!(request(&args).expect("it is right"), @r#"
        {
          "pipeline": "foo",
          "kind": "initial",
          "services": {
            "db": {
              "version": "0.22.3.rc"
            },
            "web": {
              "version": "1",
              "reference": "registry.example.org/web:1",
              "digest": "sha256:00"
            }
          },
          "metadata": {
            "release_notes": "none"
          }
        }
        "#);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let of = |name: &str, text: &str| vec![(word(name), text.to_owned())];
        for (args, part) in [
            (args(&[("a", "1"), ("a", "2")]), "the service of a is given twice"),
            (Create { digests: of("b", "x"), ..args(&[("a", "1")]) }, "the digest of b: it is not among the services"),
            (args(&[("a", "1 2")]), "service a:"),
            (Create { metas: [of("n", "1"), of("n", "2")].concat(), ..args(&[("a", "1")]) }, "given twice"),
        ] {
            let fault = request(&args).expect_err(part);
            assert!(fault.exit == Exit::Usage && fault.what.contains(part), "{fault:?}");
        }
    }

    #[test]
    fn metadata_is_yaml_or_json() {
        let notes = |text: &str| Ok(BTreeMap::from([("notes".to_owned(), text.to_owned())]));
        assert_eq!(texts("notes: |\n  one\n  two\n"), notes("one\ntwo\n"));
        assert_eq!(texts(r#"{"notes": "one\ntwo"}"#), notes("one\ntwo"));
        assert_eq!(texts("{}"), Ok(BTreeMap::new()));
        for bad in ["notes: [a]", "- a", "notes: {a: b}", "a b: c", "notes: a\nnotes: b", "{"] {
            assert!(texts(bad).is_err(), "{bad}");
        }
    }
}
