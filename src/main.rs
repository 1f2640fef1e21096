//! The binary: `lockstep serve`, `doctor`, `openapi`, and the client's commands.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use lockstep::api::{self, Api};
use lockstep::client;
use lockstep::config::{self, Config, ConfigError};
use lockstep::dispatch::{Dispatcher, Parts};
use lockstep::doctor::{self, Check, Verdict};
use lockstep::egress::Egress;
use lockstep::engine::docker::Docker;
use lockstep::handover::{self, ListenError, Listening};
use lockstep::metrics::Metrics;
use lockstep::oidc::{Oidc, Pace};
use lockstep::pepper::Pepper;
use lockstep::store::Store;
use lockstep::webhooks::{self, Webhooks};
use lockstep::{clock, shutdown, telemetry};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Requests and output are many small allocations, made on one thread and given back on another: with glibc's allocator a poll costs
/// a quarter more. (Without huge pages, which would nearly double the memory of an idle process.)
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often a Redis that was not there at the start is looked at, until it is known whether it may be used.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Wrong usage or configuration.
const USAGE: u8 = 2;

/// A deployment dispatcher: one inventory, one container, nothing lost.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    options: client::Options,
}

#[derive(Subcommand)]
enum Command {
    /// Run the dispatcher
    Serve {
        /// Configuration file [default: lockstep.toml, if it is there]
        #[arg(long, env = "LOCKSTEP_CONFIG")]
        config: Option<PathBuf>,
        /// Print the default configuration, with a comment on every key, and exit
        #[arg(long)]
        print_default_config: bool,
    },
    /// Check configuration, Redis, engine, image and certificate, and say what to do
    Doctor {
        /// Configuration file [default: lockstep.toml, if it is there]
        #[arg(long, env = "LOCKSTEP_CONFIG")]
        config: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the OpenAPI document of the API
    Openapi,
    /// Print the completions for a shell
    ///
    /// For bash: lockstep completions bash > /etc/bash_completion.d/lockstep
    Completions {
        /// Which shell
        shell: Shell,
    },
    #[command(flatten)]
    Client(client::Command),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before there are threads, which could read the environment while it changes.
    let inherited = match cli.command {
        Command::Serve { print_default_config: false, .. } => handover::inherited(),
        _ => Ok(None),
    };
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("error: a second provider of cryptography");
        return ExitCode::FAILURE;
    }
    // Waiting is what this process does: two threads serve it, and each further one would cost memory.
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads can be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    match cli.command {
        Command::Serve { print_default_config: true, .. } => say(config::DEFAULT, ExitCode::SUCCESS),
        Command::Serve { config, .. } => runtime.block_on(serve(config, inherited)),
        Command::Doctor { config, json } => runtime.block_on(doctor(config, json)),
        Command::Openapi => match api::openapi().to_pretty_json() {
            Ok(text) => say(&format!("{text}\n"), ExitCode::SUCCESS),
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lockstep", &mut text);
            say(&String::from_utf8_lossy(&text), ExitCode::SUCCESS)
        }
        Command::Client(command) => {
            let code = runtime.block_on(client::run(command, cli.options));
            runtime.shutdown_background();
            code
        }
    }
}

/// Prints to standard output. Whoever reads it may leave before its end.
fn say(text: &str, code: ExitCode) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("error: cannot print: {error}");
            ExitCode::FAILURE
        }
        Ok(()) | Err(_) => code,
    }
}

/// Reads the configuration from the file that is named or there, and the environment.
fn configure(path: Option<PathBuf>) -> Result<Config, ConfigError> {
    let usual = PathBuf::from("lockstep.toml");
    let path = path.or_else(|| usual.exists().then_some(usual));
    let file = match &path {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                ConfigError(vec![format!("the configuration file {} cannot be read: {error}", path.display())])
            })?;
            Some((path.display().to_string(), text))
        }
    };
    let file = file.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => environment.push((name, value)),
            (Ok(name), Err(_)) if name.starts_with("LOCKSTEP_") => {
                return Err(ConfigError(vec![format!("environment: {name} is not UTF-8")]));
            }
            (Ok(_), Err(_)) | (Err(_), _) => {}
        }
    }
    Config::read(file, environment, variable("DOCKER_HOST"))
}

#[expect(clippy::disallowed_methods, reason = "this is where the environment enters, beside the configuration")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn wrong(what: impl std::fmt::Display) -> ExitCode {
    eprintln!("error: {what}");
    ExitCode::from(USAGE)
}

async fn doctor(path: Option<PathBuf>, json: bool) -> ExitCode {
    let checks = match configure(path) {
        Ok(config) => doctor::examine(&config, clock::wall_ms()).await,
        Err(ConfigError(errors)) => Check::of_configuration(&errors),
    };
    let sound = checks.iter().all(|check| check.verdict != Verdict::Problem);
    let code = if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    match json.then(|| serde_json::to_string_pretty(&checks)) {
        None => say(&doctor::report(&checks), code),
        Some(Ok(text)) => say(&format!("{text}\n"), code),
        Some(Err(error)) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(path: Option<PathBuf>, inherited: Result<Option<TcpListener>, ListenError>) -> ExitCode {
    let config = match configure(path) {
        Ok(config) => config,
        Err(error) => return wrong(error),
    };
    let inherited = match inherited {
        Ok(inherited) => inherited,
        Err(error) => return wrong(error),
    };
    if let Err(error) =
        telemetry::start(variable("LOCKSTEP_LOG").as_deref(), variable("LOCKSTEP_LOG_FORMAT").as_deref())
    {
        return wrong(error);
    }
    let certificate = match api::tls::Certificate::load(&config.tls) {
        Ok(certificate) => certificate,
        Err(error) => return wrong(error),
    };
    match run(config, certificate, inherited).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Why it ended is said in any case, once.
            if tracing::enabled!(tracing::Level::ERROR) {
                tracing::error!("{error}");
            } else {
                eprintln!("error: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Says what is at risk with a Redis.
///
/// # Errors
/// When it throws keys away: it must not be used at all.
fn judge(redis: doctor::redis::Standing) -> Result<(), String> {
    for check in redis.checks.iter().filter(|check| check.verdict != Verdict::Ok) {
        tracing::warn!(about = check.about, "{}", check.says);
    }
    redis.evicts.map_or(Ok(()), Err)
}

/// The first fault of a task that works in the background; those that have done their work are none.
async fn first_fault(tasks: &mut JoinSet<Result<(), String>>) -> String {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(error) => return format!("a task in the background died: {error}"),
        }
    }
    std::future::pending().await
}

/// Runs the service until it is told to stop, or a part of it dies.
async fn run(
    config: Config,
    certificate: Arc<api::tls::Certificate>,
    inherited: Option<TcpListener>,
) -> Result<(), String> {
    let tls = certificate.server_config().map_err(|error| error.to_string())?;
    let stop = CancellationToken::new();
    let mut background = JoinSet::new();
    // Neither Redis nor engine need be there: readiness says so. But a Redis that throws keys away is refused before anything
    // else, or as soon as it is there.
    let redis_url = config.redis_url.clone();
    match doctor::redis::standing(redis_url.expose()).await {
        Ok(redis) => judge(redis)?,
        Err(check) => {
            tracing::warn!(about = check.about, "{}", check.says);
            background.spawn(async move {
                loop {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    if let Ok(redis) = doctor::redis::standing(redis_url.expose()).await {
                        return judge(redis);
                    }
                }
            });
        }
    }
    let name = clock::draw_name();
    let store = Store::connect(config.redis_url.expose(), &config.instance, &name, config.job.retention)
        .await
        .map_err(|error| error.to_string())?;
    let engine = Docker::connect(config.engine_host.as_deref()).map_err(|error| error.to_string())?;
    let pepper = Pepper::new(&config.auth.pepper);
    let egress = Egress::new(&config.egress_allow);
    let egress = match &config.egress_ca {
        Some(ca) => egress.trusting(ca)?,
        None => egress,
    };
    let oidc = Oidc::new(egress.clone(), Pace::default());
    let listening = handover::listen(inherited, config.listen, config.handover, &config.instance).await;
    let Listening { listener, succession } = listening.map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let told = stop.clone();
    background
        .spawn(async { shutdown::on_signal(told).await.map_err(|error| format!("signals are not heard: {error}")) });
    let fresh = certificate.keep_fresh(stop.clone());
    background.spawn(async {
        fresh.await;
        Ok(())
    });
    let metrics = Arc::new(Metrics::default());
    let dispatcher = Dispatcher::new(Parts {
        instance: config.instance,
        store,
        engine: Arc::new(engine),
        pepper,
        runner: config.runner,
        job: config.job,
        public_url: config.public_url,
        ca: config.tls.ca,
        release_retention: config.release_retention,
        order_parallel: config.order_parallel,
        feed_at_start: config.feed_at_start,
        metrics: metrics.clone(),
    });
    let api =
        Api::new(dispatcher.clone(), &config.auth, oidc, egress.clone(), config.final_status, metrics, stop.clone());
    tracing::info!(listen = %address, dispatcher = name, version = env!("CARGO_PKG_VERSION"), "serving");
    // The listener ends first, then what its handlers have begun, then the dispatcher: each needs the next.
    let dispatcher_stop = CancellationToken::new();
    let open = CancellationToken::new();
    let mut serving = {
        let (router, open, stop) = (api::router(api.clone()), open.clone(), stop.clone());
        tokio::spawn(async move {
            stop.run_until_cancelled(open.cancelled()).await;
            api::serve::serve(listener, tls, router, stop).await;
        })
    };
    background.spawn({
        let (dispatcher, stop) = (dispatcher.clone(), stop.clone());
        async move {
            succession.carry_out(dispatcher.ready(), || dispatcher.wake(), open, stop).await;
            Ok(())
        }
    });
    background.spawn({
        let (sending, stop) = (Webhooks::new(dispatcher.clone(), egress, webhooks::Pace::default()), stop.clone());
        async move {
            sending.run(stop).await;
            Ok(())
        }
    });
    let mut dispatching = {
        let (dispatcher, stop) = (dispatcher.clone(), dispatcher_stop.clone());
        tokio::spawn(async move { dispatcher.run(stop).await })
    };
    let died = tokio::select! {
        ended = &mut serving => match ended {
            Err(error) => Some(format!("the listener died: {error}")),
            Ok(()) => (!stop.is_cancelled()).then(|| "the listener ended by itself".to_owned()),
        },
        ended = &mut dispatching => {
            let error = ended.and_then(|ended| ended).err();
            Some(error.map_or_else(|| "the dispatcher ended by itself".to_owned(), |error| format!("the dispatcher died: {error}")))
        }
        fault = first_fault(&mut background) => Some(fault),
    };
    stop.cancel();
    let finish = async {
        api.finished().await;
        dispatcher_stop.cancel();
        if died.is_none() {
            let _ = dispatching.await;
        }
    };
    let _ = tokio::time::timeout(shutdown::DEADLINE, finish).await;
    died.map_or(Ok(()), Err)
}
