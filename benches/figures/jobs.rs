//! Time and memory of jobs: from POST to start, from line to reader, from end to outcome, 200 MB, two hundred at once.

use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::support::eventually;
use super::support::service::{Service, secret_of};
use super::{median, quantile, row};

const IMAGE: &str = "lockstep-base:bookworm";
/// Bytes that the flood prints.
const FLOOD: u64 = 200_000_000;
/// Jobs that run at once.
const MANY: usize = 200;

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit")]
#[expect(clippy::disallowed_methods, reason = "what is measured is real time")]
fn now_ms() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    since.as_micros() as f64 / 1000.0
}

/// Milliseconds since 1970 of a time in RFC 3339.
fn ms(text: &str) -> f64 {
    let at: jiff::Timestamp = text.parse().expect("a time");
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit")]
    let ms = at.as_microsecond() as f64 / 1000.0;
    ms
}

/// A field of a process' status, in KiB.
fn memory(pid: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field");
    line.trim_matches([':', '\t', ' ']).trim_end_matches(" kB").trim().parse().expect("a number")
}

async fn submit(service: &Service, app: &str) -> String {
    let body = json!({"deployment_id": app, "deployment_secret": secret_of(app)});
    let (_, answer) = service.post("/app-deploy/", &body).await;
    answer["job_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

async fn job(service: &Service, app: &str, job: &str) -> Value {
    let request =
        service.client().get(service.url(&format!("/api/v1/jobs/{job}"))).basic_auth(app, Some(secret_of(app)));
    request.send().await.expect("an answer").json().await.expect("JSON")
}

async fn finished(service: &Service, app: &str, id: &str) -> Value {
    eventually("the job is finished", async || {
        Some(job(service, app, id).await).filter(|job| job["state"] == "finished")
    })
    .await
}

/// Start and end of a job's container, by the engine.
async fn times(docker: &Docker, job: &str) -> (String, String) {
    let filters = std::collections::HashMap::from([("label", vec![format!("lockstep.job={job}")])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let listed = eventually("the container is there", async || {
        docker.list_containers(Some(options.clone())).await.expect("a list").into_iter().next()
    })
    .await;
    let state = docker
        .inspect_container(&listed.id.expect("an id"), None::<InspectContainerOptions>)
        .await
        .expect("a container")
        .state
        .expect("a state");
    (state.started_at.unwrap_or_default(), state.finished_at.unwrap_or_default())
}

pub(crate) async fn measure(wanted: impl Fn(&str) -> bool) {
    if !["launches", "lines", "flood", "many"].iter().any(|part| wanted(part)) {
        return;
    }
    let docker = Docker::connect_with_local_defaults().expect("an engine");
    let scripts = tempfile::tempdir().expect("a folder");
    let script = |name: &str, text: &str| std::fs::write(scripts.path().join(name), text).expect("written");
    script("tick.sh", "i=0; while [ $i -lt 300 ]; do i=$((i + 1)); date +%s%N; sleep 0.01; done\n");
    script("flood.sh", &format!("yes '{}' | head -c {FLOOD}\n", "0".repeat(99)));
    script("many.sh", "i=0; while [ ! -e /scripts/go ]; do i=$((i + 1)); echo line $i; sleep 1; done; echo last\n");
    let mount = format!("{}:/scripts:ro", scripts.path().display());
    let mut service = Service::prepare(&[
        ("LOCKSTEP_RUNNER_MOUNTS", &mount),
        (
            "LOCKSTEP_RUNNER_ACTIONS",
            "quick=true;tick=sh /scripts/tick.sh;flood=sh /scripts/flood.sh;many=sh /scripts/many.sh",
        ),
        ("LOCKSTEP_RUNNER_KEEP", "30s"),
        ("LOCKSTEP_JOB_START_TIMEOUT", "15m"),
        ("LOCKSTEP_LOG", "warn"),
    ])
    .await;
    start_up(&mut service).await;
    let many: Vec<String> = (0..MANY).map(|n| format!("many-{n}")).collect();
    let mut apps: Vec<(&str, &str, &str)> =
        vec![("quick", "quick", "quick"), ("tick", "tick", "tick"), ("flood", "flood", "flood")];
    apps.extend(many.iter().map(|name| (name.as_str(), name.as_str(), "many")));
    service.feed(&apps).await;

    if wanted("launches") {
        launches(&service, &docker).await;
    }
    if wanted("lines") {
        lines(&service).await;
    }
    if wanted("flood") {
        flood(&service, &docker).await;
    }
    if wanted("many") {
        at_once(&service, &many, scripts.path()).await;
    }
}

async fn start_up(service: &mut Service) {
    let began = Instant::now();
    service.spawn();
    // Asked without pause: the pace of the asking must not be what is measured.
    while !service.client().get(service.url("/readyz")).send().await.is_ok_and(|answer| answer.status() == 200) {
        tokio::task::yield_now().await;
    }
    row("from the start of the process to ready", "-", format!("{} ms", began.elapsed().as_millis()), "-", "<= 200 ms");
    row("resident memory, idle", "-", format!("{:.1} MB", memory(service.pid(), "VmRSS") / 1024.0), "-", "<= 20 MB");
}

/// The engine's own create and start over its socket, and Lockstep's from POST to start, in turn; and from end to outcome.
async fn launches(service: &Service, docker: &Docker) {
    let (mut own, mut filed, mut posted) = (Vec::new(), Vec::new(), Vec::new());
    let (mut engine_told, mut told) = (Vec::new(), Vec::new());
    for round in 0..16 {
        let body = ContainerCreateBody {
            image: Some(IMAGE.into()),
            cmd: Some(vec!["true".into()]),
            host_config: Some(HostConfig {
                memory: Some(1 << 30),
                nano_cpus: Some(2_000_000_000),
                pids_limit: Some(512),
                cap_drop: Some(vec!["ALL".into()]),
                security_opt: Some(vec!["no-new-privileges".into()]),
                extra_hosts: Some(vec!["host.docker.internal:host-gateway".into()]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let alone = by_the_engine(docker, body.clone(), None).await;
        let with_files = by_the_engine(docker, body, Some(archive())).await;

        let asked = now_ms();
        let id = submit(service, "quick").await;
        let seen = finished(service, "quick", &id).await;
        assert_eq!(seen["outcome"], "succeeded", "{seen}");
        let (job_started, job_ended) = times(docker, &id).await;
        // The first round warms up both.
        if round > 0 {
            own.push(alone.started);
            filed.push(with_files.started);
            engine_told.push(alone.told);
            posted.push(ms(&job_started) - asked);
            told.push(ms(seen["ended_at"].as_str().expect("a time")) - ms(&job_ended));
        }
    }
    let (own, filed, posted) = (median(&mut own), median(&mut filed), median(&mut posted));
    let times = |a: f64, b: f64| (format!("{a:.0} ms"), format!("{b:.0} ms"), format!("{:+.0} ms", b - a));
    let (limit, here, more) = times(own, posted);
    row("from POST to the container started (limit: create, start)", limit, here, more, "<= +10 ms");
    let (limit, here, more) = times(filed, posted);
    row("the same (limit: create, put the files, start)", limit, here, more, "<= +10 ms");
    let (limit, here, more) = times(median(&mut engine_told), median(&mut told));
    row("from the end to the outcome readable (limit: the engine tells)", limit, here, more, "<= 50 ms");
}

/// What the engine takes by itself.
struct Alone {
    /// From the first call to the container started, in ms.
    started: f64,
    /// From the container's end to the engine having told of it and renamed the container, in ms.
    told: f64,
}

/// Files as a job gets them.
fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for name in ["vars.json", "token", "ca.crt", "sealed"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(700);
        header.set_mode(0o444);
        header.set_cksum();
        archive.append_data(&mut header, format!("run/{name}"), [b'x'; 700].as_slice()).expect("appended");
    }
    archive.into_inner().expect("an archive")
}

async fn by_the_engine(docker: &Docker, body: ContainerCreateBody, files: Option<Vec<u8>>) -> Alone {
    use bollard::query_parameters as options;
    let began = now_ms();
    let id = docker.create_container(None::<options::CreateContainerOptions>, body).await.expect("created").id;
    if let Some(files) = files {
        let to = options::UploadToContainerOptionsBuilder::new().path("/").build();
        docker.upload_to_container(&id, Some(to), bollard::body_full(files.into())).await.expect("put");
    }
    docker.start_container(&id, None::<options::StartContainerOptions>).await.expect("started");
    let _ = docker.wait_container(&id, None::<options::WaitContainerOptions>).collect::<Vec<_>>().await;
    let name = options::RenameContainerOptionsBuilder::new().name(&format!("bench-{}", &id[..12])).build();
    docker.rename_container(&id, name).await.expect("renamed");
    let told = now_ms();
    let state = docker.inspect_container(&id, None::<InspectContainerOptions>).await.expect("a container").state;
    let state = state.expect("a state");
    docker
        .remove_container(&id, Some(RemoveContainerOptionsBuilder::new().force(true).build()))
        .await
        .expect("removed");
    Alone {
        started: ms(&state.started_at.expect("a time")) - began,
        told: told - ms(&state.finished_at.expect("a time")),
    }
}

/// From a line printed (it holds its time) to the line with a follower, by SSE.
async fn lines(service: &Service) {
    let id = submit(service, "tick").await;
    let request = service.client().get(service.url(&format!("/api/v1/jobs/{id}/events")));
    let answer = request.basic_auth("tick", Some(secret_of("tick"))).send().await.expect("an answer");
    let mut events = answer.bytes_stream();
    let (mut buffer, mut text, mut late) = (String::new(), String::new(), Vec::new());
    'follow: while let Some(chunk) = events.next().await {
        let now = now_ms();
        buffer.push_str(&String::from_utf8_lossy(&chunk.expect("bytes")));
        while let Some((event, rest)) =
            buffer.split_once("\n\n").map(|(event, rest)| (event.to_owned(), rest.to_owned()))
        {
            buffer = rest;
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            match field("event:") {
                Some("output") => {
                    let data: Value = serde_json::from_str(field("data:").expect("data")).expect("JSON");
                    text.push_str(data["text"].as_str().expect("text"));
                    while let Some((line, rest)) =
                        text.split_once('\n').map(|(line, rest)| (line.to_owned(), rest.to_owned()))
                    {
                        text = rest;
                        late.push(now - line.parse::<f64>().expect("a time in ns") / 1e6);
                    }
                }
                Some("end") => break 'follow,
                _ => {}
            }
        }
    }
    assert_eq!(late.len(), 300, "every line arrives, once");
    row(
        "from a line printed to the line with an SSE follower, median",
        "-",
        format!("{:.1} ms", median(&mut late)),
        "-",
        "<= 20 ms",
    );
    row("the same, 99th percentile", "-", format!("{:.1} ms", quantile(&mut late, 0.99)), "-", "<= 50 ms");
}

/// 200 MB, by `docker logs -f` and by Lockstep: each from the container's start to the last byte.
async fn flood(service: &Service, docker: &Docker) {
    let limit = {
        let script = format!("yes '{}' | head -c {FLOOD}", "0".repeat(99));
        let name = format!("lockstep-bench-{}", service.instance);
        let label = format!("lockstep.instance={}", service.instance);
        let run = [
            "run",
            "-d",
            "--name",
            &name,
            "--label",
            &label,
            "--log-driver",
            "json-file",
            "-m",
            "1g",
            IMAGE,
            "sh",
            "-c",
            &script,
        ];
        let began = now_ms();
        let started = tokio::process::Command::new("docker").args(run).stdout(Stdio::null()).status().await;
        assert!(started.expect("docker is installed").success());
        let mut logs = tokio::process::Command::new("docker")
            .args(["logs", "-f", &name])
            .stdout(Stdio::piped())
            .spawn()
            .expect("docker");
        let mut bytes = 0;
        let mut output = logs.stdout.take().expect("piped");
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = tokio::io::AsyncReadExt::read(&mut output, &mut buffer).await.expect("bytes");
            if count == 0 {
                break;
            }
            bytes += count as u64;
        }
        assert_eq!(bytes, FLOOD);
        logs.wait().await.expect("it ends");
        let took = now_ms() - began;
        docker
            .remove_container(&name, Some(RemoveContainerOptionsBuilder::new().force(true).build()))
            .await
            .expect("removed");
        took
    };
    let began = now_ms();
    let id = submit(service, "flood").await;
    let seen = finished(service, "flood", &id).await;
    let took = ms(seen["ended_at"].as_str().expect("a time")) - began;
    assert_eq!(seen["outcome"], "succeeded", "{seen}");
    assert!(seen["output_bytes"].as_u64().is_some_and(|bytes| bytes >= 64 << 20), "{seen}");
    #[expect(clippy::cast_precision_loss, reason = "a size")]
    let rate = |ms: f64| FLOOD as f64 / 1000.0 / ms;
    row(
        "200 MB taken in (limit: docker logs -f)",
        format!("{:.1} MB/s", rate(limit)),
        format!("{:.1} MB/s", rate(took)),
        format!("{:.2}", limit / took),
        ">= 0.8",
    );
    row(
        "resident memory, highest so far",
        "-",
        format!("{:.1} MB", memory(service.pid(), "VmHWM") / 1024.0),
        "-",
        "<= 64 MB",
    );
}

/// Two hundred jobs at once: memory of each, and none lost.
async fn at_once(service: &Service, apps: &[String], scripts: &std::path::Path) {
    let before = memory(service.pid(), "VmRSS");
    let mut jobs = Vec::new();
    for app in apps {
        jobs.push((app, submit(service, app).await));
    }
    let patience = Duration::from_secs(900);
    let running = async {
        for (app, id) in &jobs {
            eventually("the job prints", async || {
                job(service, app, id).await["output_bytes"].as_u64().filter(|bytes| *bytes > 0)
            })
            .await;
        }
    };
    tokio::time::timeout(patience, running).await.expect("all run");
    let each = (memory(service.pid(), "VmRSS") - before) / 200.0;
    std::fs::write(scripts.join("go"), "").expect("written");
    let mut succeeded = 0;
    for (app, id) in &jobs {
        let seen = finished(service, app, id).await;
        let output = service
            .client()
            .get(service.url(&format!("/api/v1/jobs/{id}/output")))
            .basic_auth(app, Some(secret_of(app)))
            .send()
            .await
            .expect("an answer")
            .text()
            .await
            .expect("text");
        let mut lines: Vec<&str> = output.lines().collect();
        let last = lines.pop();
        let whole =
            last == Some("last") && lines.iter().enumerate().all(|(at, line)| *line == format!("line {}", at + 1));
        succeeded += usize::from(seen["outcome"] == "succeeded" && whole);
    }
    row("jobs running at once, followed whole", MANY, succeeded, "-", "none lost");
    row("memory per running job", "-", format!("{each:.0} KB"), "-", "<= 256 KB");
}
