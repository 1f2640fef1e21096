//! Docker, by bollard: the only part that names it.
//!
//! - `about.rs`: what it says of itself
//! - `errors.rs`: what Docker answers, sorted
//! - `spec.rs`: a container as described to Docker, and as shown by it
//! - `files.rs`: files into a container and out of it
//! - `image.rs`: pulling
//! - `output.rs`, `frames.rs`: following a log; the one call that does not go through bollard
//!
//! Requests bear no version, so each engine answers in its own; 1.41 (Docker 20.10) is the oldest that is known to do. Every
//! call has a connection of its own: none waits for another, and following two hundred logs takes nothing from the rest.
//! No state of the engine is kept here, not even its id: it may be replaced by another while we run.

use std::collections::HashMap;
use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::NetworkDisconnectRequest;
use bollard::query_parameters as options;
use futures::{StreamExt as _, TryStreamExt as _};

use self::errors::Failure;
use self::spec::Shown;
use super::{
    Engine, EngineError, File, Found, Output, Pull, RegistryLogin, Rest, Result, Signal, Spec, container_name,
};
use crate::model::ids::Instance;
use crate::model::lock::Held;
use crate::model::settle::Phase;

pub use about::About;

mod about;
mod errors;
mod files;
mod frames;
mod image;
mod output;
mod spec;

/// Where Docker listens when nothing else is said.
const SOCKET: &str = "unix:///var/run/docker.sock";
/// Bound on a question. An inspection waits while the engine starts that container, which takes 20 s when two hundred are
/// started at once on two cores.
const QUESTION: Duration = Duration::from_secs(60);
/// Bound on a call that changes something; it waits for the engine likewise. How long a job may take to start is the dispatcher's to say.
const CHANGE: Duration = Duration::from_secs(240);
/// Symbolic links that are followed to a file.
const LINKS: usize = 8;
/// Inspections at a time for one list.
const INSPECTIONS: usize = 16;

const FOLLOW: &str = "follow the container's output";

/// What is where a start makes a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    SetUp,
    LaidToRest,
}

/// A Docker engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Docker {
    host: String,
    client: OnceLock<bollard::Docker>,
}

impl Docker {
    /// An engine at `unix:///…` or `tcp://…`; none: the usual socket. It need not be there yet: calls say so.
    ///
    /// # Errors
    /// When the address is of neither kind.
    pub fn connect(host: Option<&str>) -> Result<Self> {
        let host = host.unwrap_or(SOCKET);
        if !["unix:///", "tcp://", "http://"].iter().any(|scheme| host.starts_with(scheme)) {
            return Err(EngineError::Refused {
                doing: "connect",
                cause: format!("engine.host is {host:?}; it must begin with unix:/// or tcp://").into(),
            });
        }
        Ok(Self { host: host.to_owned(), client: OnceLock::new() })
    }

    /// bollard's client, made when the socket is first seen.
    fn client(&self, doing: &'static str) -> Result<bollard::Docker> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let client = bollard::Docker::connect_with_host(&self.host)
            .map_err(|error| Failure::from(error).sort(doing, ""))?
            .with_timeout(CHANGE);
        Ok(self.client.get_or_init(|| client).clone())
    }

    /// Bounds a whole call, its answer included.
    async fn ask<T>(
        &self,
        bound: Duration,
        call: impl Future<Output = std::result::Result<T, bollard::errors::Error>>,
    ) -> std::result::Result<T, Failure> {
        match tokio::time::timeout(bound, call).await {
            Ok(answer) => answer.map_err(Failure::from),
            Err(_) => Err(Failure::Silence(format!("no reply within {} s", bound.as_secs()))),
        }
    }

    /// What Docker shows under an id or a name.
    async fn shown(&self, id_or_name: &str) -> Result<Option<Shown>> {
        const DOING: &str = "look at the container";
        let client = self.client(DOING)?;
        let call = client.inspect_container(id_or_name, None::<options::InspectContainerOptions>);
        match self.ask(QUESTION, call).await {
            Ok(shown) => match spec::found(shown) {
                Some(shown) => Ok(Some(shown)),
                None => Err(EngineError::NotReached { doing: DOING, cause: "its state cannot be read".to_owned() }),
            },
            Err(failure) => match failure.sort(DOING, id_or_name) {
                EngineError::NoContainer { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Whether a container that is shown as created was set up to run, which is the last thing before its process starts: see
    /// [`spec::SET_UP`]. One whose start was refused while it was set up was not.
    async fn was_set_up(&self, shown: &Shown) -> Result<bool> {
        Ok(match self.mark(&shown.found.container).await? {
            Mark::None => false,
            Mark::SetUp => !errors::never_ran(&shown.error),
            Mark::LaidToRest => true,
        })
    }

    async fn mark(&self, container: &str) -> Result<Mark> {
        const DOING: &str = "look for what a start leaves in the container";
        let query = options::ContainerArchiveInfoOptionsBuilder::new().path(spec::SET_UP).build();
        let client = self.client(DOING)?;
        match self.ask(QUESTION, client.get_container_archive_info(container, Some(query))).await {
            Ok(found) if found.file_mode & spec::DIRECTORY != 0 => Ok(Mark::SetUp),
            Ok(_) => Ok(Mark::LaidToRest),
            // An answer to HEAD has no text that tells a missing path from a missing container; the next look does.
            Err(Failure::Answer { status: 404, .. }) => Ok(Mark::None),
            Err(failure) => Err(failure.sort(DOING, container)),
        }
    }

    /// Archive of a path of a container, at most `most` bytes of it. None: there is no such path.
    async fn archive(&self, container: &str, path: &str, most: u64) -> Result<Option<Vec<u8>>> {
        const DOING: &str = "read a file of the container";
        let client = self.client(DOING)?;
        let read = async {
            let query = options::DownloadFromContainerOptionsBuilder::new().path(path).build();
            let mut body = client.download_from_container(container, Some(query));
            let mut archive = Vec::new();
            while let Some(part) = body.try_next().await? {
                archive.extend_from_slice(&part);
                if archive.len() as u64 >= most {
                    break;
                }
            }
            Ok(archive)
        };
        match self.ask(QUESTION, read).await {
            Ok(archive) => Ok(Some(archive)),
            Err(failure) => match failure.is_missing_path() {
                true => Ok(None),
                false => Err(failure.sort(DOING, container)),
            },
        }
    }
}

#[async_trait]
impl Engine for Docker {
    async fn id(&self) -> Result<String> {
        const DOING: &str = "ask for its id";
        let info = self.ask(QUESTION, self.client(DOING)?.info()).await.map_err(|failure| failure.sort(DOING, ""))?;
        info.id
            .filter(|id| !id.is_empty())
            .ok_or(EngineError::NotReached { doing: DOING, cause: "it told none".to_owned() })
    }

    async fn ensure_image(&self, image: &str, pull: Pull, login: Option<&RegistryLogin>) -> Result<String> {
        self.ensure(image, pull, login).await
    }

    async fn create(&self, held: &Held, spec: &Spec) -> Result<String> {
        const DOING: &str = "create the container";
        if spec.labels.job != held.job() || spec.labels.inventory != *held.inventory() {
            return Err(EngineError::Refused { doing: DOING, cause: "the lock is not for this container".into() });
        }
        let name = container_name(&spec.labels.instance, &spec.labels.inventory);
        let query = options::CreateContainerOptionsBuilder::new().name(&name).build();
        let call = self.client(DOING)?;
        match self.ask(CHANGE, call.create_container(Some(query), spec::body(spec))).await {
            Ok(created) => Ok(created.id),
            Err(Failure::Answer { status: 409, .. }) => Err(EngineError::NameTaken { name }),
            Err(Failure::Answer { status: 404, message }) if message.contains("o such image") => {
                Err(EngineError::NoImage { image: spec.image.clone(), cause: message.into() })
            }
            Err(failure) => Err(failure.sort_launch(DOING, &name)),
        }
    }

    async fn put_files(&self, container: &str, files: &[File]) -> Result<()> {
        const DOING: &str = "put files into the container";
        let archive = files::pack(files)
            .map_err(|error| EngineError::Refused { doing: DOING, cause: error.to_string().into() })?;
        let query = options::UploadToContainerOptionsBuilder::new().path("/").build();
        let client = self.client(DOING)?;
        let call = client.upload_to_container(container, Some(query), bollard::body_full(archive.into()));
        self.ask(CHANGE, call).await.map_err(|failure| failure.sort(DOING, container))
    }

    async fn read_file(&self, container: &str, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let mut path = path.to_owned();
        for _ in 0..=LINKS {
            let Some(archive) = self.archive(container, &path, limit.saturating_add(files::OVERHEAD)).await? else {
                return Ok(None);
            };
            match files::unpack(&archive, limit) {
                Ok(files::Entry::File(content)) => return Ok(Some(content)),
                Ok(files::Entry::Link(to)) => path = files::resolve(&path, &to),
                Ok(files::Entry::Other) => return Ok(None),
                Err(error) => {
                    return Err(EngineError::NotReached {
                        doing: "read a file of the container",
                        cause: format!("its archive is cut off or garbled: {error}"),
                    });
                }
            }
        }
        Ok(None)
    }

    async fn start(&self, container: &str) -> Result<()> {
        const DOING: &str = "start the container";
        // Docker starts an ended container once more, so it is asked only about one that never ran. Between the two calls nobody
        // else starts it: an adopter removes a container that it finds not started.
        match self.shown(container).await?.map(|shown| shown.found.phase) {
            None => return Err(EngineError::NoContainer { container: container.to_owned() }),
            Some(Phase::Running | Phase::Ended { .. }) => return Ok(()),
            Some(Phase::Dying | Phase::Unseen) => {
                return Err(EngineError::Refused { doing: DOING, cause: "it is being removed".into() });
            }
            Some(Phase::Created) => {}
        }
        let client = self.client(DOING)?;
        self.ask(CHANGE, client.start_container(container, None::<options::StartContainerOptions>))
            .await
            .map_err(|failure| failure.sort_launch(DOING, container))
    }

    async fn inspect(&self, id_or_name: &str) -> Result<Option<Found>> {
        let Some(shown) = self.shown(id_or_name).await? else { return Ok(None) };
        if shown.found.phase != Phase::Created || !self.was_set_up(&shown).await? {
            return Ok(Some(shown.found));
        }
        // Unless it was started between the two.
        let again = self.shown(&shown.found.container).await?;
        Ok(again.map(|Shown { found, .. }| match found.phase {
            Phase::Created => Found { phase: Phase::Unseen, ..found },
            _ => found,
        }))
    }

    async fn list(&self, instance: &Instance) -> Result<Vec<Found>> {
        const DOING: &str = "list containers";
        let filters = [("label".to_owned(), vec![format!("{}={instance}", spec::INSTANCE)])].into();
        let query = options::ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let client = self.client(DOING)?;
        let listed =
            self.ask(QUESTION, client.list_containers(Some(query))).await.map_err(|failure| failure.sort(DOING, ""))?;
        futures::stream::iter(listed)
            .map(|shown| async move {
                match (spec::listed(&shown), shown.id) {
                    (Some(found), _) => Ok(Some(found)),
                    (None, Some(id)) => self.inspect(&id).await,
                    (None, None) => Ok(None),
                }
            })
            .buffered(INSPECTIONS)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await
    }

    /// Docker before 23 (API 1.42), killed between taking an end off containerd and noting it, shows exit code 0 afterwards, whatever it was.
    /// An end that it has noted is among the events that it keeps, the last 256 of this process; it is not, if this process is younger.
    async fn vouches(&self, container: &str) -> Result<bool> {
        const DOING: &str = "ask whether it has seen the container end";
        const KEPT: usize = 256;
        // Each event since `now` has pushed out an older one: all that are kept are counted only if the newest ones are too.
        const AHEAD: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);
        let client = self.client(DOING)?;
        // By its own clock: a question that reaches into the future is held open until then.
        let info = self.ask(QUESTION, client.info()).await.map_err(|failure| failure.sort(DOING, container))?;
        let now = info.system_time.and_then(|time| time.parse::<jiff::Timestamp>().ok());
        let now = now.ok_or(EngineError::NotReached { doing: DOING, cause: "it told no time".to_owned() })?;
        let events = async |filters: HashMap<String, Vec<String>>, ahead: jiff::SignedDuration| {
            let until = now.saturating_add(ahead).unwrap_or(now);
            let until = format!("{}.{:09}", until.as_second(), until.subsec_nanosecond());
            let query = options::EventsOptionsBuilder::new().since("0").until(&until).filters(&filters).build();
            let kept = client.events(Some(query)).try_fold(0, async |count, _| Ok(count + 1_usize));
            self.ask(QUESTION, kept).await.map_err(|failure| failure.sort(DOING, container))
        };
        let end =
            [("container", container), ("event", "die")].map(|(name, value)| (name.to_owned(), vec![value.to_owned()]));
        if events(end.into(), jiff::SignedDuration::ZERO).await? > 0 {
            return Ok(true);
        }
        let version = self.ask(QUESTION, client.version()).await.map_err(|failure| failure.sort(DOING, container))?;
        let told = version.api_version.unwrap_or_default();
        let minor = told.strip_prefix("1.").and_then(|minor| minor.parse::<u32>().ok());
        Ok(minor.is_none_or(|minor| minor >= 42) || events(HashMap::new(), AHEAD).await? >= KEPT)
    }

    async fn follow(&self, container: &str) -> Result<Output> {
        output::follow(self.clone(), container).await
    }

    async fn wait(&self, container: &str, patience: Duration) -> Result<()> {
        const DOING: &str = "wait for the container's end";
        let query = options::WaitContainerOptionsBuilder::new().condition("not-running").build();
        let mut answers = Box::pin(self.client(DOING)?.wait_container(container, Some(query)));
        match tokio::time::timeout(patience, answers.next()).await {
            Err(_) => {
                let cause = format!("it still ran after {} ms", patience.as_millis());
                Err(EngineError::NotReached { doing: DOING, cause })
            }
            // bollard tells an exit code other than 0 as an error.
            Ok(Some(Ok(_) | Err(bollard::errors::Error::DockerContainerWaitError { .. }))) => Ok(()),
            Ok(Some(Err(error))) => Err(Failure::from(error).sort(DOING, container)),
            Ok(None) => Err(EngineError::NotReached { doing: DOING, cause: "the connection was closed".to_owned() }),
        }
    }

    async fn signal(&self, container: &str, signal: Signal) -> Result<()> {
        const DOING: &str = "send the container a signal";
        let name = match signal {
            Signal::Term => "SIGTERM",
            Signal::Kill => "SIGKILL",
        };
        let query = options::KillContainerOptionsBuilder::new().signal(name).build();
        let client = self.client(DOING)?;
        match self.ask(CHANGE, client.kill_container(container, Some(query))).await {
            // 409: it does not run.
            Ok(()) | Err(Failure::Answer { status: 404 | 409, .. }) => Ok(()),
            Err(failure) => Err(failure.sort(DOING, container)),
        }
    }

    async fn rename(&self, container: &str, name: &str) -> Result<()> {
        const DOING: &str = "rename the container";
        let query = options::RenameContainerOptionsBuilder::new().name(name).build();
        let client = self.client(DOING)?;
        let failure = match self.ask(CHANGE, client.rename_container(container, query)).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        match failure {
            Failure::Answer { status: 404, .. } => Ok(()),
            // The name is taken, or is the container's own already (which Docker 20.10 answers with 400).
            Failure::Answer { status: 400 | 409, .. } => match self.inspect(container).await? {
                None => Ok(()),
                Some(found) if found.name == name => Ok(()),
                Some(_) if matches!(failure, Failure::Answer { status: 409, .. }) => {
                    Err(EngineError::NameTaken { name: name.to_owned() })
                }
                Some(_) => Err(failure.sort(DOING, container)),
            },
            failure => Err(failure.sort(DOING, container)),
        }
    }

    /// Docker is the only one to ask, and it says what it does not know by what it cannot do: a file takes the place of the folder
    /// that a start needs, so that no start can go through, and a start is asked for.
    ///
    /// While its process lives, Docker 20.10 finds the container's id in use; later versions end it. When its process was never
    /// made, containerd, which was killed too, has the container's keeper and no task of it. Otherwise the start comes as far as the mounts.
    async fn lay_to_rest(&self, container: &str) -> Result<Rest> {
        const DOING: &str = "make sure that a container that it lost sight of does not run";
        let first = self.mark(container).await? == Mark::SetUp;
        let file = File { path: spec::SET_UP.to_owned(), content: Vec::new(), writable: false };
        self.put_files(container, &[file]).await?;
        let client = self.client(DOING)?;
        match self.ask(CHANGE, client.start_container(container, None::<options::StartContainerOptions>)).await {
            Err(Failure::Answer { message, .. }) if errors::never_ran(&message) => Ok(Rest::MayHaveRun),
            Err(Failure::Answer { message, .. }) if message == format!("task {container}: already exists") => {
                // Of a start that was asked for here before, and broken off, it says nothing about the one before that.
                Ok(if first { Rest::NeverRan } else { Rest::MayHaveRun })
            }
            Err(Failure::Answer { message, .. }) => {
                let cause = format!("its process has to end, or be ended on the engine's host ({message})");
                Err(EngineError::NotReached { doing: DOING, cause })
            }
            Err(failure) => Err(failure.sort(DOING, container)),
            Ok(()) => Err(EngineError::NotReached { doing: DOING, cause: "it was started after all".to_owned() }),
        }
    }

    /// Docker, killed in the middle of a start, now and then keeps the endpoint of its network under the container's name, and
    /// refuses every later start under that name. It removes an endpoint by its name only while no container bears it.
    async fn discard(&self, container: &str) -> Result<()> {
        const DOING: &str = "remove an endpoint that a broken start has left";
        let Some(shown) = self.shown(container).await? else { return Ok(()) };
        if shown.found.phase != Phase::Created || self.was_set_up(&shown).await? {
            return Ok(());
        }
        match self.remove(container).await {
            // It was started meanwhile: the next look says so.
            Err(EngineError::Refused { .. }) => return Ok(()),
            removed => removed?,
        }
        let Some(network) = errors::network_of_leftover(&shown.error) else { return Ok(()) };
        let name = shown.found.name;
        tracing::warn!(name, network, "a start that broke off has left its endpoint; it is removed");
        let request = NetworkDisconnectRequest { container: name.clone(), force: Some(true) };
        let removed = self.ask(CHANGE, self.client(DOING)?.disconnect_network(network, request)).await;
        removed.map_err(|failure| failure.sort(DOING, &name))
    }

    async fn remove(&self, container: &str) -> Result<()> {
        const DOING: &str = "remove the container";
        let query = options::RemoveContainerOptionsBuilder::new().v(true).force(false).build();
        let client = self.client(DOING)?;
        match self.ask(CHANGE, client.remove_container(container, Some(query))).await {
            Ok(()) | Err(Failure::Answer { status: 404, .. }) => Ok(()),
            Err(Failure::Answer { status: 409, message }) if message.contains("already in progress") => Ok(()),
            Err(failure) => Err(failure.sort(DOING, container)),
        }
    }
}
