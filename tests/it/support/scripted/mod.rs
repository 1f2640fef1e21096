//! An engine in memory that does what a test says, and goes wrong where a test says.
//!
//! It keeps the same promises as Docker: one contract suite (`engine.rs`) runs on both. What a container does is told by a
//! [`Command`]; what it does beyond that, a test does by hand ([`Scripted::print`], [`Scripted::exit`] …). Any call can fail before
//! its effect, lose its reply after it, or be held at a [`Gate`]. Every call is in the journal, and two containers of
//! one inventory that run at once are a violation.

pub(crate) mod faults;
pub(crate) mod world;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use lockstep::engine::{Engine, File, Found, Output, Pull, RegistryLogin, Rest, Result, Signal, Spec, container_name};
use lockstep::model::ids::Instance;
use lockstep::model::lock::Held;
use lockstep::model::settle::Phase;
use tokio::sync::watch;

use self::faults::{Call, Fault, Gate, Verb};
use self::world::{Command, Container, Program, World};

/// The engine. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Scripted {
    world: Arc<Mutex<World>>,
    /// Counts changes of the world, for those who wait for one.
    changes: watch::Sender<u64>,
}

impl Scripted {
    /// An engine of its own, on which a container does what `commands` says of its description.
    pub(crate) fn new(commands: impl Fn(&Spec) -> Command + Send + 'static) -> Self {
        Self { world: Arc::new(Mutex::new(World::new(Box::new(commands)))), changes: watch::channel(0).0 }
    }

    /// One on which every container runs until it is told to end, and ends on SIGTERM with 143.
    pub(crate) fn by_hand() -> Self {
        Self::new(|_| Command::Runs(Program::default()))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, effect: impl FnOnce(&mut World) -> T) -> T {
        let done = effect(&mut self.world());
        self.changes.send_modify(|changes| *changes += 1);
        done
    }

    /// Waits until the world answers.
    async fn until<T>(&self, mut answer: impl FnMut(&mut World) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        loop {
            if let Some(answer) = answer(&mut self.world()) {
                return answer;
            }
            changes.changed().await.expect("the engine outlives its callers");
        }
    }

    // ---- what a test does with containers -----------------------------------------------------------------------------

    /// A running container prints.
    pub(crate) fn print(&self, container: &str, bytes: &[u8]) {
        self.change(|world| {
            let running = world.get(container).expect("a container");
            assert_eq!(running.phase, Phase::Running, "only a running container prints");
            running.log.extend_from_slice(bytes);
        });
    }

    /// A running container ends.
    pub(crate) fn exit(&self, container: &str, exit_code: i64) {
        self.change(|world| {
            let running = world.get(container).expect("a container");
            assert_eq!(running.phase, Phase::Running, "only a running container ends");
            running.end(exit_code);
        });
    }

    /// A running container is killed for want of memory.
    pub(crate) fn starve(&self, container: &str) {
        self.exit(container, 137);
        self.change(|world| world.get(container).expect("a container").out_of_memory = true);
    }

    /// Somebody removes a container by force, behind everybody's back.
    pub(crate) fn vanish(&self, container: &str) {
        self.change(|world| world.containers.retain(|one| one.id != container));
    }

    /// A container gets stuck in its removal.
    pub(crate) fn stick(&self, container: &str) {
        self.change(|world| world.get(container).expect("a container").phase = Phase::Dying);
    }

    /// The engine dies and comes back: what ran has ended with this exit code, and connections are lost.
    pub(crate) fn crash(&self, exit_code: i64) {
        self.change(|world| {
            for one in world.containers.iter_mut().filter(|one| one.phase == Phase::Running) {
                one.end(exit_code);
            }
            world.losses += 1;
        });
    }

    /// Everybody who follows a log loses the connection.
    pub(crate) fn lose_logs(&self) {
        self.change(|world| world.losses += 1);
    }

    /// A file of the engine's host, for mounts.
    pub(crate) fn host_file(&self, path: &str, content: &[u8]) {
        self.change(|world| world.host_files.insert(path.to_owned(), content.to_vec()));
    }

    /// A container writes one of its files.
    pub(crate) fn write(&self, container: &str, path: &str, content: &[u8]) {
        let (path, content) = (path.to_owned(), content.to_vec());
        self.change(|world| world.get(container).expect("a container").files.insert(path, content));
    }

    /// An image with its digest, on the engine or in the registry.
    pub(crate) fn image(&self, image: &str, digest: &str, on_engine: bool) {
        self.change(|world| {
            let images = if on_engine { &mut world.images } else { &mut world.registry };
            images.insert(image.to_owned(), digest.to_owned());
        });
    }

    /// From now on it is another engine: another id, and none of the containers.
    pub(crate) fn replace(&self) {
        self.change(|world| world.replace());
    }

    // ---- what a test looks at -----------------------------------------------------------------------------------------

    /// Ids of all containers in this phase, oldest first.
    pub(crate) fn running(&self) -> Vec<String> {
        let world = self.world();
        world.containers.iter().filter(|one| one.phase == Phase::Running).map(|one| one.id.clone()).collect()
    }

    /// How many containers there are, in any phase.
    pub(crate) fn count(&self) -> usize {
        self.world().containers.len()
    }

    /// The description that a container was made by.
    pub(crate) fn spec(&self, container: &str) -> Spec {
        self.world().get(container).expect("a container").spec.clone()
    }

    /// The content of a file that a container was given.
    pub(crate) fn content(&self, container: &str, path: &str) -> Vec<u8> {
        self.world().file(container, path).expect("a container").expect("a file")
    }

    /// Waits until a container of this inventory runs; its id.
    pub(crate) async fn begun(&self, inventory: &str) -> String {
        self.until(|world| {
            let begun =
                |one: &&Container| one.phase == Phase::Running && one.spec.labels.inventory.as_str() == inventory;
            world.containers.iter().find(begun).map(|one| one.id.clone())
        })
        .await
    }

    /// Every call so far.
    pub(crate) fn journal(&self) -> Vec<Call> {
        self.world().journal.clone()
    }

    /// What must never happen and did.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.world().violations.clone()
    }

    // ---- faults -------------------------------------------------------------------------------------------------------

    /// The next call of this verb that has no fault yet gets this one.
    pub(crate) fn fault(&self, verb: Verb, fault: Fault) {
        self.change(|world| world.faults.push((verb, fault)));
    }

    /// The next call of this verb is held before its effect. The request is on its way: it has its effect once the gate
    /// is open, even if the caller has given up.
    pub(crate) fn hold(&self, verb: Verb) -> Gate {
        let gate = Gate::default();
        self.fault(verb, Fault::HoldBefore(gate.clone()));
        gate
    }

    /// Out of reach, or in reach again. Who follows a log loses the connection.
    pub(crate) fn away(&self, away: bool) {
        self.change(|world| {
            world.away = away;
            world.losses += u64::from(away);
        });
    }

    /// One call: in the journal, and as its fault says.
    async fn call<T: Send + 'static>(
        &self,
        verb: Verb,
        about: &str,
        effect: impl FnOnce(&mut World) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let fault = self.change(|world| {
            world.journal.push(Call { verb, about: about.to_owned() });
            match world.away {
                true => Some(Fault::Answer(faults::lost(verb, "it is away"))),
                false => world.take_fault(verb),
            }
        });
        match fault {
            None => self.change(effect),
            Some(Fault::Answer(error)) => Err(error),
            Some(Fault::LoseReply) => {
                let _ = self.change(effect);
                Err(faults::lost(verb, "the reply was lost"))
            }
            Some(Fault::HoldBefore(gate)) => {
                let this = self.clone();
                let late = tokio::spawn(async move {
                    gate.pass().await;
                    this.change(effect)
                });
                late.await.expect("it ends well")
            }
            Some(Fault::HoldAfter(gate)) => {
                let done = self.change(effect);
                gate.pass().await;
                done
            }
        }
    }
}

#[async_trait]
impl Engine for Scripted {
    async fn id(&self) -> Result<String> {
        self.call(Verb::Id, "", |world| Ok(world.id.clone())).await
    }

    async fn ensure_image(&self, image: &str, pull: Pull, _login: Option<&RegistryLogin>) -> Result<String> {
        let about = image.to_owned();
        self.call(Verb::EnsureImage, image, move |world| world.ensure_image(about, pull)).await
    }

    async fn create(&self, held: &Held, spec: &Spec) -> Result<String> {
        let name = container_name(&spec.labels.instance, &spec.labels.inventory);
        let (held, spec) = (held.clone(), spec.clone());
        self.call(Verb::Create, &name.clone(), move |world| world.create(&held, name, spec)).await
    }

    async fn put_files(&self, container: &str, files: &[File]) -> Result<()> {
        let (id, files) = (container.to_owned(), files.to_vec());
        let effect = move |world: &mut World| {
            world.get(&id)?.files.extend(files.into_iter().map(|file| (file.path, file.content)));
            Ok(())
        };
        self.call(Verb::PutFiles, container, effect).await
    }

    async fn read_file(&self, container: &str, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let (id, path) = (container.to_owned(), path.to_owned());
        let effect = move |world: &mut World| {
            let content = world.file(&id, &path)?;
            let limit = usize::try_from(limit).expect("a limit");
            Ok(content.map(|content| content[..content.len().min(limit)].to_vec()))
        };
        self.call(Verb::ReadFile, container, effect).await
    }

    async fn start(&self, container: &str) -> Result<()> {
        let id = container.to_owned();
        self.call(Verb::Start, container, move |world| world.start(&id)).await
    }

    async fn inspect(&self, id_or_name: &str) -> Result<Option<Found>> {
        let about = id_or_name.to_owned();
        let effect = move |world: &mut World| {
            let mut containers = world.containers.iter();
            Ok(containers.find(|one| one.id == about || one.name == about).map(Container::found))
        };
        self.call(Verb::Inspect, id_or_name, effect).await
    }

    async fn list(&self, instance: &Instance) -> Result<Vec<Found>> {
        let about = instance.clone();
        let effect = move |world: &mut World| {
            let own = world.containers.iter().filter(|one| one.spec.labels.instance == about);
            Ok(own.map(Container::found).collect())
        };
        self.call(Verb::List, instance.as_str(), effect).await
    }

    async fn follow(&self, container: &str) -> Result<Output> {
        let id = container.to_owned();
        let losses =
            self.call(Verb::Follow, container, move |world| world.get(&id).map(|_| ()).map(|()| world.losses)).await?;
        let follower = (self.clone(), container.to_owned(), 0, false);
        Ok(Box::pin(stream::unfold(follower, move |(engine, id, at, lost)| async move {
            if lost {
                return None;
            }
            let piece = engine
                .until(|world| {
                    if world.losses != losses {
                        return Some(Some(Err(faults::lost(Verb::Follow, "the connection was lost"))));
                    }
                    match world.get(&id) {
                        Ok(one) if one.log.len() > at => Some(Some(Ok(Bytes::copy_from_slice(&one.log[at..])))),
                        Ok(one) if one.phase == Phase::Running => None,
                        Ok(_) | Err(_) => Some(None),
                    }
                })
                .await?;
            let (read, lost) = piece.as_ref().map_or((0, true), |piece: &Bytes| (piece.len(), false));
            Some((piece, (engine, id, at + read, lost)))
        })))
    }

    async fn wait(&self, container: &str, patience: Duration) -> Result<()> {
        let id = container.to_owned();
        self.call(Verb::Wait, container, move |world| world.get(&id).map(|_| ())).await?;
        let ended = self.until(|world| match world.get(container) {
            Ok(one) if one.phase == Phase::Running => None,
            Ok(_) | Err(_) => Some(()),
        });
        tokio::time::timeout(patience, ended).await.map_err(|_| faults::lost(Verb::Wait, "it still ran"))
    }

    async fn signal(&self, container: &str, signal: Signal) -> Result<()> {
        let id = container.to_owned();
        self.call(Verb::Signal, container, move |world| {
            world.signal(&id, signal);
            Ok(())
        })
        .await
    }

    async fn rename(&self, container: &str, name: &str) -> Result<()> {
        let (id, name) = (container.to_owned(), name.to_owned());
        self.call(Verb::Rename, container, move |world| world.rename(&id, name)).await
    }

    async fn lay_to_rest(&self, _: &str) -> Result<Rest> {
        Ok(Rest::MayHaveRun)
    }

    async fn remove(&self, container: &str) -> Result<()> {
        let id = container.to_owned();
        self.call(Verb::Remove, container, move |world| world.remove(&id)).await
    }
}
