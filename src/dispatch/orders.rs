//! Orders: given, looked at when something has happened, and written with all that follows.
//!
//! ```text
//!  a person ─▶ order, cancel, retry ─┐
//!  a job of it has ended ────────────┼─▶ read order, deployed, facts ─▶ model::order::rule ─▶ order.lua ─▶ supervise
//!  another order has ended ──────────┘                                                           RACED: read again
//! ```
//!
//! There is one way for all of it, on any dispatcher. What has to be drawn for the vault is drawn here, and recorded, sealed, in the step in
//! which the job that hands it over is begun.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt as _;
use serde_json::{Map, Value};

use super::{Dispatcher, Refusal, Start};
use crate::clock;
use crate::model::app::Secret;
use crate::model::ids::{Action, DeploymentId, JobId, Word};
use crate::model::job::WhenBusy;
use crate::model::order::command;
use crate::model::order::environment::Environment;
use crate::model::order::file::variable;
use crate::model::order::plan::{Plan, plan};
use crate::model::order::rule::{self, ACTIONS, Launch, Told};
use crate::model::order::{APP, Order, OrderId, Spec, with_values};
use crate::pepper::JobSecrets;
use crate::store::{NewJob, OrderWrite, OrderWritten, Recorded, StoreError, StoredEnvironment, StoredOrder};

/// So often an order that others change all the time is read again.
const TRIES: usize = 20;

/// Why an order is not given or changed.
#[derive(Debug, thiserror::Error)]
pub enum OrderRefusal {
    /// There is no such order.
    #[error("there is no such order")]
    Unknown,
    /// There is no such environment.
    #[error("there is no environment {0}; lockstep environment add registers one")]
    UnknownEnvironment(Word),
    /// It has no such mode.
    #[error("environment {environment} has no mode {mode}; it has {}", .modes.join(", "))]
    UnknownMode {
        /// The environment.
        environment: Word,
        /// The mode that it has not.
        mode: Word,
        /// Those that it has.
        modes: Vec<String>,
    },
    /// The plan shows why not.
    #[error("{}", .0.join("\n"))]
    Problems(Vec<String>),
    /// What people may not do to it.
    #[error(transparent)]
    Refused(#[from] command::Refused),
    /// The `Idempotency-Key` was used with another request.
    #[error("this Idempotency-Key was used with another request")]
    KeyReused,
    /// `runner.actions` lacks some of what orders need.
    #[error("runner.actions lacks {}", .0.join(", "))]
    NoActions(Vec<String>),
    /// A variable of the vault was sealed with another pepper, or is damaged.
    #[error("a variable of the vault cannot be read (was the pepper changed?)")]
    Sealed,
    /// What any request may meet.
    #[error(transparent)]
    Other(#[from] Refusal),
}

impl From<StoreError> for OrderRefusal {
    fn from(error: StoreError) -> Self {
        Self::Other(error.into())
    }
}

/// An order that somebody gives.
pub struct NewOrder {
    /// What it asks for.
    pub spec: Spec,
    /// The file that it was written in.
    pub file: String,
    /// The set of hosts and variables.
    pub mode: Word,
    /// Who gives it.
    pub by: Word,
    /// `Idempotency-Key` of the request.
    pub idempotency_key: Option<String>,
}

/// What a person wants of an order.
#[derive(Debug, Clone)]
pub enum OrderCommand {
    /// End it.
    Cancel {
        /// Who.
        by: Word,
        /// Why.
        reason: String,
    },
    /// Try again what has not succeeded.
    Retry {
        /// Who.
        by: Word,
        /// Why.
        reason: String,
    },
}

/// What is written.
struct Draft<'a> {
    order: Order,
    told: Vec<Told>,
    revision: u64,
    woken: u64,
    older: bool,
    file: &'a str,
    idempotency: Option<(&'a str, &'a str)>,
}

enum Settled {
    Done(Box<Order>),
    Raced,
    Exists(u64),
}

impl Dispatcher {
    /// Registers an environment: whether it is new, and what lies on machines that it does not name any more.
    pub async fn register_environment(
        &self,
        environment: &Environment,
        file: &str,
        by: &str,
    ) -> Result<(Recorded, Vec<String>), Refusal> {
        let store = &self.parts.store;
        let before = match self.noting(store.environment(&environment.id).await) {
            // What cannot be read is written over.
            Err(StoreError::Unreadable(_)) => None,
            before => before?,
        };
        let left = before.map(|before| {
            let deployed = before.modes.into_iter().map(|(mode, (deployed, _))| (mode, deployed)).collect();
            before.environment.left_by(environment, &deployed)
        });
        Ok((self.noting(store.set_environment(environment, file, by).await)?, left.unwrap_or_default()))
    }

    /// An environment, and what is known of it.
    pub async fn environment(&self, name: &Word) -> Result<StoredEnvironment, OrderRefusal> {
        let found = self.noting(self.parts.store.environment(name).await)?;
        found.ok_or_else(|| OrderRefusal::UnknownEnvironment(name.clone()))
    }

    /// How an order differs from what is deployed. `commits` are those that are known.
    pub async fn plan_order(
        &self,
        spec: &Spec,
        mode: &Word,
        commits: &BTreeMap<Word, String>,
    ) -> Result<(Plan, StoredEnvironment), OrderRefusal> {
        self.check_open()?;
        let stored = self.environment(&spec.environment).await?;
        let Some(hosts) = stored.environment.modes.get(mode) else {
            return Err(OrderRefusal::UnknownMode {
                environment: spec.environment.clone(),
                mode: mode.clone(),
                modes: stored.environment.modes.keys().map(ToString::to_string).collect(),
            });
        };
        let (deployed, vault) = stored.modes.get(mode).cloned().unwrap_or_default();
        Ok((plan(spec, (mode, hosts), &deployed, &vault, commits), stored))
    }

    /// Gives an order: refused where the plan shows that it cannot be carried out.
    pub async fn give_order(self: &Arc<Self>, new: NewOrder) -> Result<StoredOrder, OrderRefusal> {
        let known = &self.parts.runner.actions;
        let lacking = ACTIONS.iter().filter(|action| !known.keys().any(|known| known.as_str() == **action));
        let lacking: Vec<String> = lacking.map(|action| (*action).to_owned()).collect();
        if !lacking.is_empty() {
            return Err(OrderRefusal::NoActions(lacking));
        }
        let digest = self.parts.pepper.request_digest(&format!("{}\0{}", new.mode, new.file));
        let idempotency = new.idempotency_key.as_deref().map(|key| (key, digest.as_str()));
        for _ in 0..TRIES {
            let (plan, stored) = self.plan_order(&new.spec, &new.mode, &BTreeMap::new()).await?;
            if !plan.problems.is_empty() && !self.was_given(&new).await? {
                return Err(OrderRefusal::Problems(plan.problems));
            }
            let now_ms = self.noting(self.parts.store.now_ms().await)?;
            let id = OrderId { environment: new.spec.environment.clone(), number: stored.newest + 1 };
            let order = Order::new(id.clone(), new.mode.clone(), new.spec.clone(), new.by.clone(), now_ms);
            let told = command::given(&order);
            let draft = Draft { order, told, revision: 0, woken: 0, older: false, file: &new.file, idempotency };
            match self.settle_order(draft).await {
                Ok(Settled::Done(order)) => {
                    tracing::info!(order = %order.id, mode = %order.mode, by = %order.by, "order given");
                    return self.seen_order(&order.id).await;
                }
                Ok(Settled::Raced) => {}
                Ok(Settled::Exists(number)) => {
                    return self.seen_order(&OrderId { environment: id.environment, number }).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Refusal::NotReady("orders are being given to this environment all the time").into())
    }

    /// Whether this very request gave an order before.
    pub async fn was_given(&self, new: &NewOrder) -> Result<bool, OrderRefusal> {
        let Some(key) = new.idempotency_key.as_deref() else { return Ok(false) };
        Ok(self.noting(self.parts.store.was_given(&new.spec.environment, key).await)?)
    }

    /// An order.
    pub async fn seen_order(&self, id: &OrderId) -> Result<StoredOrder, OrderRefusal> {
        self.noting(self.parts.store.order(id).await)?.ok_or(OrderRefusal::Unknown)
    }

    /// Changes an order as a person wants, and carries out what follows.
    pub async fn change_order(
        self: &Arc<Self>,
        id: &OrderId,
        command: &OrderCommand,
    ) -> Result<StoredOrder, OrderRefusal> {
        self.check_open()?;
        self.transact_order(id, Some(command)).await?;
        self.seen_order(id).await
    }

    /// Reads an order, changes it if it is told to, takes it as far as it goes, and writes it.
    async fn transact_order(
        self: &Arc<Self>,
        id: &OrderId,
        command: Option<&OrderCommand>,
    ) -> Result<(), OrderRefusal> {
        for _ in 0..TRIES {
            let stored = self.seen_order(id).await?;
            let mut order = stored.order;
            let told = match command {
                None => Vec::new(),
                Some(OrderCommand::Cancel { by, reason }) => command::cancel(&mut order, by, reason)?,
                Some(OrderCommand::Retry { by, reason }) => {
                    let (facts, _) =
                        self.noting(self.parts.store.order_facts(&order, self.parts.order_parallel).await)?;
                    command::retry(&mut order, facts.newest, by, reason)?
                }
            };
            let draft = Draft {
                order,
                told,
                revision: stored.revision,
                woken: stored.woken,
                older: !stored.of_this_memory,
                file: "",
                idempotency: None,
            };
            match self.settle_order(draft).await? {
                Settled::Done(_) => return Ok(()),
                Settled::Raced => {}
                Settled::Exists(_) => return Err(OrderRefusal::Unknown),
            }
        }
        Err(Refusal::NotReady("the order is being changed by others all the time").into())
    }

    /// Takes an order as far as it goes, and writes it with all that follows.
    async fn settle_order(self: &Arc<Self>, draft: Draft<'_>) -> Result<Settled, OrderRefusal> {
        let store = &self.parts.store;
        let (mut facts, before) = self.noting(store.order_facts(&draft.order, self.parts.order_parallel).await)?;
        facts.older = draft.older;
        if draft.revision == 0 && draft.order.says_all() {
            facts.newest = facts.newest.max(draft.order.id.number);
        }
        let (order, deployed, change, drawn, jobs) = loop {
            let (mut order, mut deployed) = (draft.order.clone(), before.clone());
            let mut change = rule::advance(&mut order, &mut deployed, &facts, &mut clock::draw_job_id);
            let draw = || Secret::new(format!("{}{}", clock::draw_name(), clock::draw_name()));
            let drawn: BTreeMap<Word, Secret> = change.generate.iter().map(|name| (name.clone(), draw())).collect();
            match self.jobs_of(&order, std::mem::take(&mut change.launches), &drawn).await {
                Ok(jobs) => break (order, deployed, change, drawn, jobs),
                // Without a job that would need it; what has ended meanwhile is recorded all the same.
                Err(OrderRefusal::Sealed) if !facts.sealed => facts.sealed = true,
                Err(error) => return Err(error),
            }
        };
        let (environment, mode) = (&order.id.environment, &order.mode);
        let seal = |(name, value): (&Word, &Secret)| {
            (name.clone(), self.parts.pepper.seal_variable(environment, mode, name, value))
        };
        let drawn: BTreeMap<Word, Vec<u8>> = drawn.iter().map(seal).collect();
        let told: Vec<_> = draft.told.iter().chain(&change.told).map(|told| written(&order, told)).collect();
        let nothing = told.is_empty() && drawn.is_empty() && jobs.is_empty() && deployed == before;
        let write = OrderWrite {
            order: &order,
            revision: draft.revision,
            woken: draft.woken,
            as_read: nothing && draft.revision > 0 && !draft.older && order == draft.order,
            due_ms: rule::due_ms(&order, facts.now_ms),
            holds: rule::holds(&order),
            deployed: (deployed != before).then_some(&deployed),
            retention_ms: u64::try_from(self.parts.release_retention.as_millis()).unwrap_or(u64::MAX >> 12),
            file: draft.file,
            idempotency: draft.idempotency,
            told,
            drawn: &drawn,
            jobs: &jobs,
        };
        let held = match self.noting(store.write_order(&write).await)? {
            OrderWritten::Done(held) => held,
            OrderWritten::Raced => return Ok(Settled::Raced),
            OrderWritten::Exists(number) => return Ok(Settled::Exists(number)),
            OrderWritten::KeyReused => return Err(OrderRefusal::KeyReused),
        };
        for held in held {
            tracing::info!(order = %order.id, job.id = %held.job(), inventory = %held.inventory(), "a job of an order");
            self.supervise(held, Start::Fresh);
        }
        for job in change.cancel {
            // Repeated with each look until the job has ended, so one that does not come through is made good.
            let by = order.canceled_by.as_ref().unwrap_or(&order.by);
            if let Err(error) = self.cancel(job, by.as_str()).await {
                tracing::warn!(order = %order.id, job.id = %job, %error, "a job of a canceled order could not be told to end");
            }
        }
        Ok(Settled::Done(Box::new(order)))
    }

    async fn jobs_of(
        &self,
        order: &Order,
        launches: Vec<Launch>,
        drawn: &BTreeMap<Word, Secret>,
    ) -> Result<Vec<NewJob>, OrderRefusal> {
        let mut jobs = Vec::with_capacity(launches.len());
        for launch in launches {
            jobs.push(self.job_of(order, launch, drawn).await?);
        }
        Ok(jobs)
    }

    /// A job as it is recorded: with the values of the vault that it hands over, sealed, and all of them masked in its output.
    async fn job_of(
        &self,
        order: &Order,
        launch: Launch,
        drawn: &BTreeMap<Word, Secret>,
    ) -> Result<NewJob, OrderRefusal> {
        let Launch { job, lock, action, mut vars, values } = launch;
        let names: BTreeSet<Word> = values.values().flatten().cloned().collect();
        let secrets = if names.is_empty() { BTreeMap::new() } else { self.open_vault(order, &names, drawn).await? };
        for (service, names) in &values {
            let of = names.iter().filter_map(|name| {
                let value = secrets.get(name)?.expose().to_owned();
                Some((variable(name), Value::String(value)))
            });
            with_values(&mut vars, service, Map::from_iter(of));
        }
        let masks = secrets.into_values().collect();
        Ok(NewJob {
            id: job,
            deployment_id: app(),
            inventory: lock,
            action: action.parse::<Action>().expect("a constant that is a name"),
            when_busy: WhenBusy::Fifo,
            sealed: self.seal_of(job, vars, masks),
            idempotency: None,
        })
    }

    fn seal_of(&self, job: JobId, vars: Map<String, Value>, masks: Vec<Secret>) -> Vec<u8> {
        self.parts.pepper.seal(job, &JobSecrets { vars, masks })
    }

    /// The values of variables: those just drawn, and those that the vault has.
    async fn open_vault(
        &self,
        order: &Order,
        names: &BTreeSet<Word>,
        drawn: &BTreeMap<Word, Secret>,
    ) -> Result<BTreeMap<Word, Secret>, OrderRefusal> {
        let (environment, mode) = (&order.id.environment, &order.mode);
        let sealed = self.noting(self.parts.store.vault(environment, mode, names).await)?;
        let mut open: BTreeMap<Word, Secret> = BTreeMap::new();
        for name in names {
            let value = match (sealed.get(name), drawn.get(name)) {
                (Some(sealed), _) => self.parts.pepper.open_variable(environment, mode, name, sealed),
                (None, drawn) => drawn.cloned(),
            };
            open.insert(name.clone(), value.ok_or(OrderRefusal::Sealed)?);
        }
        Ok(open)
    }

    /// Looks at orders whenever one is due, until the stop.
    pub(super) async fn keep_ordering(self: Arc<Self>) {
        let news = self.parts.store.any_order_news();
        self.keep_looking(
            "orders",
            news,
            |store| store.due_orders().boxed(),
            |this, id| this.look_at_order(id).boxed(),
        )
        .await;
    }

    /// Takes an order as far as it goes; false: there was trouble, and it stays due.
    async fn look_at_order(self: &Arc<Self>, id: OrderId) -> bool {
        let Err(error) = self.transact_order(&id, None).await else { return true };
        match self.seen_order(&id).await {
            Err(OrderRefusal::Unknown) => {
                tracing::debug!(order = %id, "an order that is not kept any more is not looked at");
            }
            Err(OrderRefusal::Other(Refusal::Store(StoreError::Unreadable(what)))) => {
                tracing::error!(order = %id, what, "an order cannot be read; it is left as it is");
            }
            Ok(_) | Err(_) => {
                tracing::warn!(order = %id, %error, "an order is looked at again later");
                return false;
            }
        }
        self.noting(self.parts.store.forget_due_order(&id).await).is_ok()
    }
}

/// The app under which jobs of orders are recorded.
fn app() -> DeploymentId {
    APP.parse().expect("a constant that is a name")
}

/// An event as it is kept.
fn written(order: &Order, told: &Told) -> (String, String) {
    let mut data = told.data.clone();
    data.insert("environment".into(), order.id.environment.as_str().into());
    data.insert("order".into(), order.id.number.into());
    data.insert("mode".into(), order.mode.as_str().into());
    (told.what.clone(), Value::Object(data).to_string())
}
