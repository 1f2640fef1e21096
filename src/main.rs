//! The binary: `lockstep serve`, `doctor`, `openapi`, and the client's commands.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use lockstep::api::{self, Api};
use lockstep::client;
use lockstep::config::{self, Config};
use lockstep::dispatch::{Dispatcher, Parts};
use lockstep::doctor::{self, Verdict};
use lockstep::engine::docker::Docker;
use lockstep::metrics::Metrics;
use lockstep::pepper::Pepper;
use lockstep::store::Store;
use lockstep::{clock, shutdown, telemetry};
use tokio_util::sync::CancellationToken;

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
    #[command(flatten)]
    Client(client::Command),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
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
        Command::Serve { print_default_config: true, .. } => {
            print!("{}", config::DEFAULT);
            ExitCode::SUCCESS
        }
        Command::Serve { config, .. } => runtime.block_on(serve(config)),
        Command::Doctor { config, json } => runtime.block_on(doctor(config, json)),
        Command::Openapi => match api::openapi().to_pretty_json() {
            Ok(text) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Client(command) => {
            let code = runtime.block_on(client::run(command, cli.options));
            runtime.shutdown_background();
            code
        }
    }
}

/// Reads the configuration from the file that is named or there, and the environment.
fn configure(path: Option<PathBuf>) -> Result<Config, String> {
    let usual = PathBuf::from("lockstep.toml");
    let path = path.or_else(|| usual.exists().then_some(usual));
    let file = match &path {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("the configuration file {} cannot be read: {error}", path.display()))?;
            Some((path.display().to_string(), text))
        }
    };
    let file = file.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Config::read(file, environment, variable("DOCKER_HOST")).map_err(|error| error.to_string())
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
    let config = match configure(path) {
        Ok(config) => config,
        Err(error) => return wrong(error),
    };
    let checks = doctor::examine(&config).await;
    if json {
        println!("{}", serde_json::to_string_pretty(&checks).unwrap_or_default());
    } else {
        for check in &checks {
            let verdict = match check.verdict {
                Verdict::Ok => "ok     ",
                Verdict::Warning => "warning",
                Verdict::Problem => "PROBLEM",
            };
            println!("{verdict}  {:<17} {}", check.about, check.says);
        }
    }
    let sound = checks.iter().all(|check| check.verdict != Verdict::Problem);
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn serve(path: Option<PathBuf>) -> ExitCode {
    let config = match configure(path) {
        Ok(config) => config,
        Err(error) => return wrong(error),
    };
    if let Err(error) =
        telemetry::start(variable("LOCKSTEP_LOG").as_deref(), variable("LOCKSTEP_LOG_FORMAT").as_deref())
    {
        return wrong(error);
    }
    match run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the service until it is told to stop, or a part of it dies.
async fn run(config: Config) -> Result<(), String> {
    let certificate = api::tls::Certificate::load(&config.tls).map_err(|error| error.to_string())?;
    let tls = certificate.server_config().map_err(|error| error.to_string())?;
    // Neither Redis nor engine need be there: readiness says so. But a Redis that throws keys away must not be used at all.
    if let Some(evicting) = doctor::redis(config.redis_url.expose())
        .await
        .into_iter()
        .find(|check| check.about == "redis eviction" && check.verdict == Verdict::Problem)
    {
        return Err(evicting.says);
    }
    let name = clock::draw_name();
    let store = Store::connect(config.redis_url.expose(), &config.instance, &name, config.job.retention)
        .await
        .map_err(|error| error.to_string())?;
    let engine = Docker::connect(config.engine_host.as_deref()).map_err(|error| error.to_string())?;
    let pepper = Pepper::new(&config.auth.pepper);
    let listener = tokio::net::TcpListener::bind(config.listen).await.map_err(|error| {
        format!("cannot listen on {}: {error}. Is another service there? See the key listen", config.listen)
    })?;
    let stop = CancellationToken::new();
    tokio::spawn(shutdown::on_signal(stop.clone()));

    tokio::spawn(certificate.keep_fresh(stop.clone()));
    let metrics = Arc::new(Metrics::default());
    let dispatcher = Dispatcher::new(Parts {
        instance: config.instance,
        store,
        engine: Arc::new(engine),
        pepper,
        runner: config.runner,
        job: config.job,
        public_url: config.public_url,
        certificate: config.tls.certificate,
        feed_at_start: config.feed_at_start,
        metrics: metrics.clone(),
    });
    let api = Api::new(dispatcher.clone(), &config.auth, config.final_status, metrics, stop.clone());
    tracing::info!(listen = %config.listen, dispatcher = name, version = env!("CARGO_PKG_VERSION"), "serving");
    // The listener ends first, then what its handlers have begun, then the dispatcher: each needs the next.
    let dispatcher_stop = CancellationToken::new();
    let mut serving = tokio::spawn(api::serve::serve(listener, tls, api::router(api.clone()), stop.clone()));
    let mut dispatching = {
        let (dispatcher, stop) = (dispatcher.clone(), dispatcher_stop.clone());
        tokio::spawn(async move { dispatcher.run(stop).await })
    };
    let died = tokio::select! {
        ended = &mut serving => ended.err().map(|error| format!("the listener died: {error}")),
        ended = &mut dispatching => {
            let error = ended.and_then(|ended| ended).err();
            Some(error.map_or_else(|| "the dispatcher ended by itself".to_owned(), |error| format!("the dispatcher died: {error}")))
        }
    };
    stop.cancel();
    api.finished().await;
    dispatcher_stop.cancel();
    if died.is_none() {
        let _ = dispatching.await;
    }
    died.map_or(Ok(()), Err)
}
