//! An engine whose containers do what the test says: they print and end when they are told to. What fails in it, fails because the
//! test says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lockstep::engine::{
    Engine, EngineError, File, Found, Labels, Output, Pull, RegistryLogin, Rest, Result, Signal, Spec, container_name,
};
use lockstep::model::ids::{Instance, Inventory};
use lockstep::model::lock::Held;
use lockstep::model::settle::Phase;
use tokio::sync::watch;

/// The engine.
pub(crate) struct Puppet {
    containers: Arc<Mutex<BTreeMap<String, Container>>>,
    changed: watch::Sender<u64>,
    faults: Mutex<Faults>,
}

/// What the engine has trouble with.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    /// It cannot read any log.
    pub(crate) logs: bool,
    /// It cannot remove any container.
    pub(crate) removal: bool,
    /// It is another engine, which has none of these containers.
    pub(crate) other: bool,
    /// It takes questions and answers none.
    pub(crate) silent: bool,
}

struct Container {
    name: String,
    labels: Labels,
    phase: Phase,
    printed: Vec<u8>,
    files: Vec<File>,
}

impl Puppet {
    pub(crate) fn new() -> Self {
        Self { containers: Arc::default(), changed: watch::Sender::new(0), faults: Mutex::default() }
    }

    /// From now on it has this trouble.
    pub(crate) fn trouble(&self, faults: Faults) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
        self.changed.send_modify(|count| *count += 1);
    }

    fn faults(&self) -> Faults {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Container>) -> T) -> T {
        let result = change(&mut self.containers.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|count| *count += 1);
        result
    }

    fn look<T>(&self, look: impl FnOnce(&BTreeMap<String, Container>) -> T) -> T {
        look(&self.containers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn of_inventory<T>(&self, inventory: &str, change: impl FnOnce(&mut Container) -> T) -> T {
        self.change(|containers| {
            let found = containers.values_mut().find(|container| {
                container.labels.inventory.as_str() == inventory && container.phase == Phase::Running
            });
            change(found.expect("a running container of this inventory"))
        })
    }

    /// The running container of an inventory prints.
    pub(crate) fn print(&self, inventory: &str, text: &str) {
        self.of_inventory(inventory, |container| container.printed.extend_from_slice(text.as_bytes()));
    }

    /// The running container of an inventory ends.
    pub(crate) fn end(&self, inventory: &str, exit_code: i64) {
        self.of_inventory(inventory, |container| container.phase = Phase::Ended { exit_code });
    }

    /// A file of the running container of an inventory.
    pub(crate) fn file(&self, inventory: &str, path: &str) -> String {
        self.of_inventory(inventory, |container| {
            let file = container.files.iter().find(|file| file.path == path).expect("the file");
            String::from_utf8(file.content.clone()).expect("text")
        })
    }

    /// Waits until a container of the inventory runs.
    pub(crate) async fn running(&self, inventory: &str) {
        let inventory: Inventory = inventory.parse().expect("a name");
        let mut changed = self.changed.subscribe();
        let running =
            || self.look(|all| all.values().any(|c| c.labels.inventory == inventory && c.phase == Phase::Running));
        let waiting = async {
            while !running() {
                changed.changed().await.expect("the engine lives");
            }
        };
        tokio::time::timeout(super::PATIENCE, waiting).await.expect("a running container");
    }
}

fn none(container: &str) -> EngineError {
    EngineError::NoContainer { container: container.to_owned() }
}

fn found(id: &str, container: &Container) -> Found {
    Found {
        container: id.to_owned(),
        name: container.name.clone(),
        phase: container.phase,
        labels: Some(container.labels.clone()),
        out_of_memory: false,
    }
}

#[async_trait]
impl Engine for Puppet {
    async fn id(&self) -> Result<String> {
        Ok(if self.faults().other { "another" } else { "puppet" }.into())
    }

    async fn ensure_image(&self, _: &str, _: Pull, _: Option<&RegistryLogin>) -> Result<String> {
        Ok("sha256:0123".into())
    }

    async fn create(&self, _: &Held, spec: &Spec) -> Result<String> {
        let name = container_name(&spec.labels.instance, &spec.labels.inventory);
        self.change(|containers| {
            if containers.values().any(|container| container.name == name) {
                return Err(EngineError::NameTaken { name });
            }
            let id = lockstep::clock::draw_name();
            let labels = spec.labels.clone();
            let container = Container { name, labels, phase: Phase::Created, printed: vec![], files: vec![] };
            containers.insert(id.clone(), container);
            Ok(id)
        })
    }

    async fn put_files(&self, container: &str, files: &[File]) -> Result<()> {
        self.change(|all| all.get_mut(container).map(|it| it.files.extend_from_slice(files)))
            .ok_or_else(|| none(container))
    }

    async fn read_file(&self, container: &str, path: &str, _: u64) -> Result<Option<Vec<u8>>> {
        self.look(|all| {
            let it = all.get(container).ok_or_else(|| none(container))?;
            Ok(it.files.iter().find(|file| file.path == path).map(|file| file.content.clone()))
        })
    }

    async fn start(&self, container: &str) -> Result<()> {
        self.change(|all| {
            let it = all.get_mut(container).ok_or_else(|| none(container))?;
            if it.phase == Phase::Created {
                it.phase = Phase::Running;
            }
            Ok(())
        })
    }

    async fn inspect(&self, id_or_name: &str) -> Result<Option<Found>> {
        if self.faults().other {
            return Ok(None);
        }
        Ok(self.look(|all| {
            let mut all = all.iter();
            all.find(|(id, it)| *id == id_or_name || it.name == id_or_name).map(|(id, it)| found(id, it))
        }))
    }

    async fn list(&self, instance: &Instance) -> Result<Vec<Found>> {
        if self.faults().silent {
            std::future::pending::<()>().await;
        }
        if self.faults().other {
            return Ok(vec![]);
        }
        Ok(self.look(|all| {
            all.iter().filter(|(_, it)| it.labels.instance == *instance).map(|(id, it)| found(id, it)).collect()
        }))
    }

    async fn follow(&self, container: &str) -> Result<Output> {
        if self.faults().logs {
            return Err(EngineError::NotReached { doing: "follow", cause: "the log is damaged".into() });
        }
        let place = (self.containers.clone(), self.changed.subscribe(), container.to_owned(), 0);
        let stream = futures::stream::unfold(place, |(containers, mut changed, id, at)| async move {
            loop {
                changed.mark_unchanged();
                let (more, running) = {
                    let all = containers.lock().unwrap_or_else(PoisonError::into_inner);
                    let it = all.get(&id)?;
                    (Bytes::copy_from_slice(&it.printed[at..]), it.phase == Phase::Running)
                };
                if !more.is_empty() {
                    let next = at + more.len();
                    return Some((Ok(more), (containers, changed, id, next)));
                }
                if !running {
                    return None;
                }
                changed.changed().await.ok()?;
            }
        });
        Ok(Box::pin(stream))
    }

    async fn wait(&self, container: &str, patience: Duration) -> Result<()> {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            loop {
                let phase = self.look(|all| all.get(container).map(|it| it.phase)).ok_or_else(|| none(container))?;
                if phase != Phase::Running {
                    return Ok(());
                }
                changed.changed().await.expect("the engine lives");
            }
        };
        let late = || EngineError::NotReached { doing: "wait", cause: "it runs still".into() };
        tokio::time::timeout(patience, waiting).await.unwrap_or_else(|_| Err(late()))
    }

    async fn signal(&self, container: &str, signal: Signal) -> Result<()> {
        self.change(|all| {
            let it = all.get_mut(container).ok_or_else(|| none(container))?;
            if it.phase == Phase::Running {
                let exit_code = if signal == Signal::Term { 143 } else { 137 };
                it.phase = Phase::Ended { exit_code };
            }
            Ok(())
        })
    }

    async fn rename(&self, container: &str, name: &str) -> Result<()> {
        self.change(|all| all.get_mut(container).map(|it| it.name = name.to_owned()));
        Ok(())
    }

    async fn lay_to_rest(&self, _: &str) -> Result<Rest> {
        Ok(Rest::MayHaveRun)
    }

    async fn remove(&self, container: &str) -> Result<()> {
        if self.faults().removal {
            return Err(EngineError::NotReached { doing: "remove", cause: "device or resource busy".into() });
        }
        self.change(|all| match all.get(container) {
            Some(it) if it.phase == Phase::Running => {
                Err(EngineError::Refused { doing: "remove", cause: "it runs".into() })
            }
            _ => {
                all.remove(container);
                Ok(())
            }
        })
    }
}
