//! What there is on the engine, and what each call does to it.

use std::collections::BTreeMap;

use lockstep::engine::{EngineError, Found, Pull, Result, Signal, Spec};
use lockstep::model::lock::Held;
use lockstep::model::settle::Phase;

use super::faults::{Call, Fault, Verb};

/// What a container's command turns out to be.
pub(crate) enum Command {
    /// It is not there: the start is refused.
    Missing,
    /// It runs.
    Runs(Program),
}

/// What a container does by itself.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Printed at the start.
    pub(crate) prints: Vec<Print>,
    /// The exit code with which it ends after that; none: it runs until it is told to end.
    pub(crate) exits: Option<i64>,
    /// The exit code with which SIGTERM ends it; none: it is deaf to that.
    pub(crate) on_term: Option<i64>,
}

impl Default for Program {
    fn default() -> Self {
        Self { prints: vec![], exits: None, on_term: Some(143) }
    }
}

/// What a container prints.
#[derive(Debug, Clone)]
pub(crate) enum Print {
    /// Bytes.
    Bytes(Vec<u8>),
    /// The content of a file.
    File(String),
}

/// A container.
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) spec: Spec,
    pub(super) phase: Phase,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) log: Vec<u8>,
    pub(super) out_of_memory: bool,
    on_term: Option<i64>,
}

impl Container {
    pub(super) fn end(&mut self, exit_code: i64) {
        self.phase = Phase::Ended { exit_code };
    }

    pub(super) fn found(&self) -> Found {
        Found {
            container: self.id.clone(),
            name: self.name.clone(),
            phase: self.phase,
            labels: Some(self.spec.labels.clone()),
            out_of_memory: self.out_of_memory,
        }
    }
}

/// Everything.
pub(super) struct World {
    pub(super) id: String,
    pub(super) containers: Vec<Container>,
    pub(super) images: BTreeMap<String, String>,
    pub(super) registry: BTreeMap<String, String>,
    pub(super) host_files: BTreeMap<String, Vec<u8>>,
    pub(super) faults: Vec<(Verb, Fault)>,
    pub(super) journal: Vec<Call>,
    pub(super) violations: Vec<String>,
    pub(super) away: bool,
    /// How often connections were lost.
    pub(super) losses: u64,
    commands: Box<dyn Fn(&Spec) -> Command + Send>,
}

impl World {
    pub(super) fn new(commands: Box<dyn Fn(&Spec) -> Command + Send>) -> Self {
        let images = ["lockstep-base:bookworm", "lockstep-runner:latest"];
        Self {
            id: format!("scripted-{}", lockstep::clock::draw_name()),
            containers: vec![],
            images: images.map(|image| (image.to_owned(), format!("sha256:{image}"))).into(),
            registry: BTreeMap::new(),
            host_files: BTreeMap::new(),
            faults: vec![],
            journal: vec![],
            violations: vec![],
            away: false,
            losses: 0,
            commands,
        }
    }

    pub(super) fn replace(&mut self) {
        self.id = format!("scripted-{}", lockstep::clock::draw_name());
        self.containers.clear();
        self.losses += 1;
    }

    pub(super) fn take_fault(&mut self, verb: Verb) -> Option<Fault> {
        let at = self.faults.iter().position(|(of, _)| *of == verb)?;
        Some(self.faults.remove(at).1)
    }

    pub(super) fn get(&mut self, container: &str) -> Result<&mut Container> {
        self.containers
            .iter_mut()
            .find(|one| one.id == container)
            .ok_or_else(|| EngineError::NoContainer { container: container.to_owned() })
    }

    pub(super) fn ensure_image(&mut self, image: String, pull: Pull) -> Result<String> {
        let pulled = self.registry.get(&image).cloned();
        let there = self.images.get(&image).cloned();
        let digest = match pull {
            Pull::Never => there,
            Pull::Missing => there.or(pulled),
            Pull::Always => pulled,
        };
        match digest {
            Some(digest) => {
                self.images.insert(image, digest.clone());
                Ok(digest)
            }
            None => Err(EngineError::NoImage { image, cause: "it is not there".into() }),
        }
    }

    pub(super) fn create(&mut self, held: &Held, name: String, spec: Spec) -> Result<String> {
        if spec.labels.job != held.job() || spec.labels.inventory != *held.inventory() {
            let cause = "the lock is not for this container".into();
            return Err(EngineError::Refused { doing: "create the container", cause });
        }
        if !self.images.contains_key(&spec.image) {
            return Err(EngineError::NoImage { image: spec.image, cause: "it is not there".into() });
        }
        if self.containers.iter().any(|one| one.name == name) {
            return Err(EngineError::NameTaken { name });
        }
        let id = lockstep::clock::draw_name();
        self.containers.push(Container {
            id: id.clone(),
            name,
            spec,
            phase: Phase::Created,
            files: BTreeMap::new(),
            log: vec![],
            out_of_memory: false,
            on_term: None,
        });
        Ok(id)
    }

    pub(super) fn file(&mut self, container: &str, path: &str) -> Result<Option<Vec<u8>>> {
        let one = self.get(container)?;
        let own = one.files.get(path).cloned();
        let mount = one.spec.mounts.iter().find(|mount| mount.target == path).map(|mount| mount.source.clone());
        Ok(own.or_else(|| mount.and_then(|source| self.host_files.get(&source).cloned())))
    }

    pub(super) fn start(&mut self, container: &str) -> Result<()> {
        let refused =
            |cause: &str| EngineError::Refused { doing: "start the container", cause: cause.to_owned().into() };
        let one = self.get(container)?;
        match one.phase {
            Phase::Created => {}
            Phase::Running | Phase::Ended { .. } => return Ok(()),
            Phase::Dying | Phase::Unseen => return Err(refused("it is being removed, or was started before")),
        }
        let spec = one.spec.clone();
        let Command::Runs(program) = (self.commands)(&spec) else {
            return Err(EngineError::Refused {
                doing: "start the container",
                cause: "the image has no such command; see runner.actions and runner.image".into(),
            });
        };
        let other = self.containers.iter().find(|other| {
            other.phase == Phase::Running
                && (&other.spec.labels.instance, &other.spec.labels.inventory)
                    == (&spec.labels.instance, &spec.labels.inventory)
        });
        if let Some(other) = other {
            self.violations.push(format!(
                "jobs {} and {} run at once on {}",
                other.spec.labels.job, spec.labels.job, spec.labels.inventory
            ));
        }
        let mut printed = vec![];
        for print in program.prints {
            match print {
                Print::Bytes(bytes) => printed.extend(bytes),
                Print::File(path) => printed.extend(self.file(container, &path)?.unwrap_or_default()),
            }
        }
        let one = self.get(container)?;
        one.phase = Phase::Running;
        one.on_term = program.on_term;
        one.log.extend(printed);
        if let Some(exit_code) = program.exits {
            one.end(exit_code);
        }
        Ok(())
    }

    pub(super) fn signal(&mut self, container: &str, signal: Signal) {
        let Ok(one) = self.get(container) else { return };
        let exit_code = match signal {
            Signal::Term => one.on_term,
            Signal::Kill => Some(137),
        };
        if let (Phase::Running, Some(exit_code)) = (one.phase, exit_code) {
            one.end(exit_code);
        }
    }

    pub(super) fn rename(&mut self, container: &str, name: String) -> Result<()> {
        if self.containers.iter().any(|one| one.name == name && one.id != container) {
            return Err(EngineError::NameTaken { name });
        }
        if let Ok(one) = self.get(container) {
            one.name = name;
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, container: &str) -> Result<()> {
        match self.get(container).map(|one| one.phase) {
            Err(_) => Ok(()),
            Ok(Phase::Running) => Err(EngineError::Refused { doing: "remove the container", cause: "it runs".into() }),
            // It stays as it is until it is gone.
            Ok(Phase::Dying) => Ok(()),
            Ok(Phase::Created | Phase::Ended { .. } | Phase::Unseen) => {
                self.containers.retain(|one| one.id != container);
                Ok(())
            }
        }
    }
}
