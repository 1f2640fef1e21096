//! What Docker alone can be asked: how a container is made, and what becomes of connections that are lost or never made.

use std::net::SocketAddr;
use std::sync::Arc;

use lockstep::engine::docker::Docker;
use lockstep::engine::{Engine as _, Mount, RegistryLogin};
use lockstep::model::app::Secret;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::*;
use crate::support::eventually;
use crate::support::private_engine::PrivateEngine;

/// What an inspection shows of a container.
fn inspected(container: &str) -> (Value, String) {
    let shown = std::process::Command::new("docker").args(["inspect", container]).output().expect("docker runs");
    let text = String::from_utf8(shown.stdout).expect("text");
    let mut all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    (all.remove(0), text)
}

/// Runs a script in a container made like any other; what it printed.
async fn printed(subject: &Subject, inventory: &str, script: &str, change: impl FnOnce(&mut Spec)) -> String {
    let held = subject.held(inventory).await;
    let mut spec = subject.spec(&held, Play::Fails);
    spec.argv = ["sh", "-c", script].map(str::to_owned).into();
    change(&mut spec);
    let container = subject.engine.create(&held, &spec).await.expect("created");
    let files = [file("/run/lockstep/token", b"a-token-of-this-job")];
    subject.engine.put_files(&container, &files).await.expect("put");
    subject.engine.start(&container).await.expect("started");
    let printed = all(subject.engine.follow(&container).await.expect("followed")).await;
    String::from_utf8(printed).expect("text")
}

#[tokio::test]
async fn a_container_is_bounded_and_has_no_rights() {
    let subject = Subject::docker().await;
    let container = subject.created("inventory", Play::Fails).await;
    let (shown, _) = inspected(&container);
    let host = &shown["HostConfig"];
    assert_eq!(host["Memory"], 64 << 20);
    assert_eq!(host["MemorySwap"], 64 << 20);
    assert_eq!((&host["CpuQuota"], &host["CpuPeriod"]), (&150_000.into(), &100_000.into()));
    assert_eq!(host["PidsLimit"], 32);
    assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
    assert_eq!(host["Privileged"], false);
    assert_eq!(host["AutoRemove"], false);
    assert_eq!(host["RestartPolicy"]["Name"], "no");
    assert_eq!(host["LogConfig"]["Type"], "local");
    assert_eq!(host["LogConfig"]["Config"]["mode"], "blocking");
    assert_eq!((&shown["Config"]["Tty"], &shown["Config"]["OpenStdin"]), (&false.into(), &false.into()));

    let script = "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; getent hosts host.docker.internal";
    let seen = printed(&subject, "other", script, |_| ()).await;
    let lines: Vec<Vec<&str>> = seen.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["CapEff:", "0000000000000000"]);
    assert_eq!(lines[1], ["CapBnd:", "0000000000000000"]);
    assert_eq!(lines[2], ["NoNewPrivs:", "1"]);
    assert_eq!(lines[3][1], "host.docker.internal");
}

#[tokio::test]
async fn files_are_readable_to_all_and_seen_by_no_inspection() {
    let subject = Subject::docker().await;
    let script = "stat -c '%a %U %n' /run /run/lockstep /run/lockstep/token; cat /run/lockstep/token";
    let seen = printed(&subject, "inventory", script, |_| ()).await;
    let expected =
        ["755 root /run", "755 root /run/lockstep", "444 root /run/lockstep/token", "a-token-of-this-job"].join("\n");
    assert_eq!(seen, expected);
    let inventory: Inventory = "inventory".parse().expect("a name");
    let (_, text) = inspected(&container_name(&subject.instance, &inventory));
    assert!(!text.contains("a-token"), "{text}");
}

#[tokio::test]
async fn mounts_are_as_said_and_can_be_read() {
    let subject = Subject::docker().await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("key"), "a key\n").expect("written");
    std::os::unix::fs::symlink("key", folder.path().join("link")).expect("linked");
    let mounts = vec![Mount {
        source: folder.path().display().to_string(),
        target: "/run/keys".into(),
        read_only: true,
        secret: false,
    }];
    let script = "cat /run/keys/key; touch /run/keys/new 2>/dev/null || echo refused";
    let seen = printed(&subject, "inventory", script, |spec| spec.mounts = mounts).await;
    assert!(seen.starts_with("a key\n") && seen.ends_with("refused\n"), "{seen}");
    let inventory: Inventory = "inventory".parse().expect("a name");
    let name = container_name(&subject.instance, &inventory);
    for path in ["/run/keys/key", "/run/keys/link"] {
        let read = subject.engine.read_file(&name, path, 1024).await.expect("the engine answers");
        assert_eq!(read.as_deref(), Some(b"a key\n".as_slice()), "{path}");
    }
}

#[tokio::test]
async fn a_mount_or_a_network_that_is_not_there_is_refused_with_the_key_to_look_at() {
    let subject = Subject::docker().await;
    let held = subject.held("mount").await;
    let mut spec = subject.spec(&held, Play::Fails);
    let source = "/nowhere/at/all".to_owned();
    spec.mounts = vec![Mount { source, target: "/x".into(), read_only: true, secret: false }];
    let refused = subject.engine.create(&held, &spec).await;
    let Err(EngineError::Refused { cause, .. }) = &refused else { panic!("{refused:?}") };
    assert!(cause.advice.contains("runner.mounts"), "{cause}");

    let held = subject.held("network").await;
    let spec = Spec { network: Some("lockstep-nowhere".into()), ..subject.spec(&held, Play::Fails) };
    // Docker 20.10 says so at the start, others when it is created.
    let refused = match subject.engine.create(&held, &spec).await {
        Ok(container) => {
            let refused = subject.engine.start(&container).await;
            assert_eq!(subject.phase(&container).await, Some(Phase::Created));
            subject.engine.remove(&container).await.expect("removed");
            refused
        }
        Err(error) => Err(error),
    };
    let Err(EngineError::Refused { cause, .. }) = &refused else { panic!("{refused:?}") };
    assert!(cause.advice.contains("runner.network"), "{cause}");
}

#[tokio::test]
async fn a_start_leaves_what_tells_that_it_was_made() {
    let subject = Subject::docker().await;
    let changed = |container: &str| {
        let diff =
            std::process::Command::new("docker").args(["diff", container]).output().expect("docker is installed");
        String::from_utf8(diff.stdout).expect("text").lines().any(|line| line == "A /run/lockstep/.started")
    };
    let created = subject.created("created", Play::Fails).await;
    assert!(!changed(&created));
    assert_eq!(subject.phase(&created).await, Some(Phase::Created));
    assert!(changed(&subject.ended("ended", Play::Fails).await));
    // Refused while it was set up: known not to have run.
    let missing = subject.created("missing", Play::Missing).await;
    subject.engine.start(&missing).await.expect_err("no such command");
    assert_eq!((changed(&missing), subject.phase(&missing).await), (true, Some(Phase::Created)));
}

/// Docker 20.10, killed between starting a process and noting so, shows its container as never started while it runs. (Later versions
/// end it.)
#[tokio::test]
async fn a_process_that_docker_has_lost_sight_of_is_waited_for() {
    let gate = tempfile::tempdir().expect("a folder");
    let private = PrivateEngine::start("lockstep-base:bookworm").await;
    let docker = Docker::connect(Some(&private.host())).expect("an address");
    let subject = Subject::new(Arc::new(docker), None).await;
    let held = subject.held("inventory").await;
    let mut spec = subject.spec(&held, Play::Fails);
    spec.network = Some("none".into());
    let script = "exec 9> /gate/lock; flock 9; echo begun; while [ ! -e /gate/open ]; do sleep 0.05; done";
    spec.argv = ["sh", "-c", script].map(str::to_owned).into();
    let (source, target) = (gate.path().display().to_string(), "/gate".to_owned());
    spec.mounts = vec![Mount { source, target, read_only: false, secret: false }];
    let container = subject.engine.create(&held, &spec).await.expect("created");
    subject.engine.start(&container).await.expect("started");
    let mut output = subject.engine.follow(&container).await.expect("followed");
    assert_eq!(first_line(&mut output).await, b"begun\n");

    private.kill().await;
    private.forget_start(&container);
    private.run(true).await;
    assert_eq!(subject.phase(&container).await, Some(Phase::Unseen));
    subject.engine.discard(&container).await.expect("left alone");
    assert_eq!(subject.phase(&container).await, Some(Phase::Unseen));
    let lock = std::fs::File::options().write(true).open(gate.path().join("lock")).expect("made by the container");
    for _ in 0..2 {
        let at_work = lock.try_lock().is_err();
        let rests = subject.engine.lay_to_rest(&container).await;
        assert!(!at_work || rests.is_err() || lock.try_lock().is_ok(), "it is at work, and said to rest");
    }
    std::fs::write(gate.path().join("open"), "").expect("written");
    eventually("it rests", async || subject.engine.lay_to_rest(&container).await.ok()).await;
    lock.try_lock().expect("nobody is at work");
    assert_eq!(subject.phase(&container).await, Some(Phase::Unseen), "it may have run, for good");
    subject.engine.start(&container).await.expect_err("it is never started again");
    assert_eq!(all(subject.engine.follow(&container).await.expect("followed")).await, b"begun\n");
    subject.engine.remove(&container).await.expect("removed");
}

/// Docker 20.10 shows exit code 0 for a container whose end it took off containerd and, killed, did not note.
#[tokio::test]
async fn docker_vouches_for_an_end_that_it_has_seen() {
    let private = PrivateEngine::start("lockstep-base:bookworm").await;
    let docker = Docker::connect(Some(&private.host())).expect("an address");
    let subject = Subject::new(Arc::new(docker), None).await;
    let ended = async |inventory: &str, exit_code: i64| {
        let held = subject.held(inventory).await;
        let mut spec = subject.spec(&held, Play::Fails);
        spec.network = Some("none".into());
        spec.argv = ["sh", "-c", &format!("exit {exit_code}")].map(str::to_owned).into();
        let container = subject.engine.create(&held, &spec).await.expect("created");
        subject.engine.start(&container).await.expect("started");
        subject.engine.wait(&container, LONG).await.expect("it ends");
        assert_eq!(subject.phase(&container).await, Some(Phase::Ended { exit_code }));
        container
    };
    let good = ended("good", 0).await;
    assert!(subject.engine.vouches(&good).await.expect("the engine answers"));
    let bad = ended("bad", 1).await;
    private.kill().await;
    private.forget_end(&bad);
    private.run(false).await;
    let shown = subject.phase(&bad).await;
    let vouched = subject.engine.vouches(&bad).await.expect("the engine answers");
    assert!(shown != Some(Phase::Ended { exit_code: 0 }) || !vouched, "{shown:?}");
}

#[tokio::test]
async fn who_wants_too_much_memory_is_seen_to_have_been_killed_for_it() {
    let subject = Subject::docker().await;
    let held = subject.held("inventory").await;
    let mut spec = subject.spec(&held, Play::Fails);
    spec.argv = ["sh", "-c", "exec tail /dev/zero"].map(str::to_owned).into();
    let container = subject.engine.create(&held, &spec).await.expect("created");
    subject.engine.start(&container).await.expect("started");
    subject.engine.wait(&container, LONG).await.expect("it ends");
    let found = subject.engine.inspect(&container).await.expect("the engine answers").expect("there");
    assert_eq!((found.phase, found.out_of_memory), (Phase::Ended { exit_code: 137 }, true));
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_not_reached_until_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("docker.sock");
    let at_socket = Docker::connect(Some(&format!("unix://{}", socket.display()))).expect("an address");
    let instance: Instance = "lockstep".parse().expect("a name");
    for engine in [&at_socket, &Docker::connect(Some("tcp://127.0.0.1:1")).expect("an address")] {
        let answers = [
            engine.id().await.err(),
            engine.ensure_image("x", Pull::Missing, None).await.err(),
            engine.put_files("x", &[]).await.err(),
            engine.read_file("x", "/x", 1).await.err(),
            engine.start("x").await.err(),
            engine.inspect("x").await.err(),
            engine.list(&instance).await.err(),
            engine.follow("x").await.err(),
            engine.wait("x", LONG).await.err(),
            engine.signal("x", Signal::Term).await.err(),
            engine.rename("x", "y").await.err(),
            engine.remove("x").await.err(),
        ];
        for answer in answers {
            assert!(matches!(answer, Some(EngineError::NotReached { .. })), "{answer:?}");
        }
    }
    let listener = UnixListener::bind(&socket).expect("bound");
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = UnixStream::connect("/var/run/docker.sock").await.expect("Docker is there");
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    at_socket.id().await.expect("now it is there");
    for host in ["ssh://host", "docker.sock", ""] {
        let refused = Docker::connect(Some(host));
        assert!(matches!(refused, Err(EngineError::Refused { .. })), "{host}");
    }
}

/// An engine over TCP that hands every connection on to the real one, and closes it after so many bytes of the answer.
async fn relay(most: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let far = UnixStream::connect("/var/run/docker.sock").await.expect("Docker is there");
                let ((mut ask, mut answer), (far_read, mut far_write)) = (near.into_split(), far.into_split());
                let mut far_read = far_read.take(most);
                tokio::select! {
                    _ = tokio::io::copy(&mut ask, &mut far_write) => {}
                    _ = tokio::io::copy(&mut far_read, &mut answer) => {}
                }
            });
        }
    });
    format!("tcp://{address}")
}

#[tokio::test]
async fn a_log_over_tcp_is_whole_or_said_to_be_cut() {
    let subject = Subject::docker().await;
    let container = subject.ended("inventory", Play::Flood).await;
    let whole = Docker::connect(Some(&relay(u64::MAX).await)).expect("an address");
    assert!(all(whole.follow(&container).await.expect("followed")).await == flood());
    assert_eq!(whole.id().await.expect("it answers"), subject.engine.id().await.expect("it answers"));

    for most in [1_000, 50_000, 100_001] {
        let cut = Docker::connect(Some(&relay(most).await)).expect("an address");
        let mut output = cut.follow(&container).await.expect("followed");
        let (mut read, mut lost) = (vec![], 0);
        while let Some(piece) = output.next().await {
            match piece {
                Ok(piece) => read.extend_from_slice(&piece),
                Err(EngineError::NotReached { .. }) => lost += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(lost, 1, "cut after {most}");
        assert!(!read.is_empty() && flood().starts_with(&read), "cut after {most}");
    }
}

/// An engine that answers one connection after another with these replies; what it was asked comes back.
async fn replies(replies: Vec<Vec<u8>>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address: SocketAddr = listener.local_addr().expect("an address");
    let asked = tokio::spawn(async move {
        let mut asked = vec![];
        for reply in replies {
            let (mut near, _) = listener.accept().await.expect("accepted");
            asked.push(head(&mut near).await);
            near.write_all(&reply).await.expect("written");
        }
        asked
    });
    (format!("tcp://{address}"), asked)
}

async fn head(near: &mut TcpStream) -> String {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await.expect("a request"));
    }
    String::from_utf8(head).expect("text")
}

fn reply(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").into()
}

/// The head of a log, and its frames: stream, second at which it was taken in, content. Each is a chunk.
fn frames(frames: &[(u8, u8, &str)]) -> Vec<u8> {
    let mut log = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for (kind, at, content) in frames {
        let content = match kind {
            3 => (*content).to_owned(),
            _ => format!("2026-11-21T12:00:{at:02}.000000000Z {content}"),
        };
        log.extend(format!("{:x}\r\n", content.len() + 8).bytes());
        log.extend([*kind, 0, 0, 0, 0, 0, 0, u8::try_from(content.len()).expect("short")]);
        log.extend(content.bytes());
        log.extend(b"\r\n");
    }
    log
}

/// A log to its end.
fn ended(all: &[(u8, u8, &str)]) -> Vec<u8> {
    [frames(all), b"0\r\n\r\n".to_vec()].concat()
}

#[tokio::test]
async fn what_an_engine_says_of_its_own_trouble_is_no_output() {
    let fine = (1, 0, "line\n");
    for (log, trouble) in [
        (ended(&[fine, (3, 0, "Error: xyz\n")]), "Error: xyz"),
        (frames(&[fine]), ""),
        ([frames(&[fine]), b"zz\r\n".to_vec()].concat(), "garbled"),
    ] {
        let (host, _) = replies(vec![log]).await;
        let mut output = Docker::connect(Some(&host)).expect("an address").follow("c").await.expect("followed");
        assert_eq!(output.next().await.expect("a piece").expect("readable"), "line\n");
        let Some(Err(EngineError::NotReached { cause, .. })) = output.next().await else { panic!("{trouble}") };
        assert!(cause.contains(trouble), "{cause}");
        assert!(output.next().await.is_none());
    }
    let refusals = [
        ("404 Not Found", r#"{"message":"No such container: c"}"#),
        ("500 Internal Server Error", r#"{"message":"configured logging driver does not support reading"}"#),
        ("200 OK", "not chunked"),
    ];
    for (status, body) in refusals {
        let (host, _) = replies(vec![reply(status, body)]).await;
        let refused = Docker::connect(Some(&host)).expect("an address").follow("c").await.err();
        match refused {
            Some(EngineError::NoContainer { .. }) => assert!(status.starts_with("404")),
            Some(EngineError::NotReached { .. }) => assert!(!status.starts_with("404")),
            other => panic!("{status}: {other:?}"),
        }
    }
}

/// Follows a log on an engine whose follower ended too early, with these replies to what is asked after that.
async fn after_an_early_end(state: &str, then: Vec<Vec<u8>>) -> (Vec<u8>, Option<EngineError>, Vec<String>) {
    let followed = ended(&[(1, 1, "a\n"), (2, 9, "b\n"), (1, 2, "c"), (1, 2, "c")]);
    let shown = format!(r#"{{"Id":"c","Name":"/n","State":{{"Status":"{state}","ExitCode":0}},"Config":{{}}}}"#);
    let mut all = vec![followed, reply("200 OK", r#"{"StatusCode":0}"#), reply("200 OK", &shown)];
    all.extend(then);
    let (host, asked) = replies(all).await;
    let mut output = Docker::connect(Some(&host)).expect("an address").follow("c").await.expect("followed");
    let (mut read, mut error) = (vec![], None);
    while let Some(piece) = output.next().await {
        match piece {
            Ok(piece) => read.extend_from_slice(&piece),
            Err(lost) => error = Some(lost),
        }
    }
    (read, error, asked.await.expect("asked"))
}

#[tokio::test]
async fn a_follower_that_ends_too_early_is_made_good() {
    let head = [(1, 1, "a\n"), (2, 9, "b\n"), (1, 2, "c"), (1, 2, "c")];
    let tail = [(1, 2, "c\n"), (2, 1, "the clock went back\n"), (1, 3, "without an end")];
    let whole = [head.as_slice(), &tail].concat();
    let written = b"a\nb\nccc\nthe clock went back\nwithout an end";

    let (read, error, asked) = after_an_early_end("exited", vec![ended(&whole)]).await;
    assert_eq!((read.as_slice(), error.is_none()), (written.as_slice(), true));
    assert!(asked[3].contains("tail=128"), "{}", asked[3]);

    let (read, error, _) = after_an_early_end("exited", vec![ended(&head)]).await;
    assert_eq!((read.as_slice(), error.is_none()), (b"a\nb\ncc".as_slice(), true), "nothing was missing");

    // The window begins behind what was read, or among pieces of one line: it says nothing, and the whole log is read.
    let many = vec![(1, 3, "x"); 128];
    let among = [vec![(1, 2, "c"), (1, 2, "c")], vec![(1, 3, "x"); 126]].concat();
    for window in [&many, &among] {
        let whole = [head.as_slice(), window].concat();
        let (read, error, asked) = after_an_early_end("exited", vec![ended(window), ended(&whole)]).await;
        let expected: String = whole.iter().map(|(_, _, content)| *content).collect();
        assert_eq!((read.as_slice(), error.is_none()), (expected.as_bytes(), true));
        assert!(asked[4].contains("tail=all"), "{}", asked[4]);
    }
}

#[tokio::test]
async fn an_end_is_an_end_only_when_the_container_has_ended() {
    let (read, error, _) = after_an_early_end("running", vec![]).await;
    assert_eq!(read, b"a\nb\ncc");
    assert!(matches!(error, Some(EngineError::NotReached { .. })), "{error:?}");
    // A log in which what was read is not found any more is not the same log.
    let other = [(1, 7, "other\n")];
    let (read, error, _) = after_an_early_end("exited", vec![ended(&other), ended(&other)]).await;
    assert_eq!(read, b"a\nb\ncc");
    assert!(matches!(error, Some(EngineError::NotReached { .. })), "{error:?}");
}

#[tokio::test]
async fn whoever_pulls_shows_a_login_that_docker_can_read() {
    let absent = reply("404 Not Found", r#"{"message":"No such image: registry:5000/runner"}"#);
    let denied = reply("404 Not Found", r#"{"message":"pull access denied for runner"}"#);
    let (host, asked) = replies(vec![absent, denied]).await;
    let engine = Docker::connect(Some(&host)).expect("an address");
    // In plain base 64 these make a `+` and a `/`.
    let password = "~~~???>>>".to_owned();
    let login = RegistryLogin { user: "puller".into(), password: Secret::new(password.clone()) };
    let refused = engine.ensure_image("registry:5000/runner", Pull::Missing, Some(&login)).await;
    let Err(EngineError::NoImage { cause, .. }) = &refused else { panic!("{refused:?}") };
    assert!(cause.said.contains("pull access denied") && !cause.said.contains(&password), "{cause}");
    let asked = asked.await.expect("asked");
    assert!(asked[1].contains("tag=latest"), "without a tag Docker pulls them all: {}", asked[1]);
    let shown = asked[1].lines().find_map(|line| line.strip_prefix("x-registry-auth: ")).expect("a login");
    let decoded = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE, shown).expect("base 64 for URLs");
    let decoded: Value = serde_json::from_slice(&decoded).expect("JSON");
    assert_eq!((&decoded["username"], &decoded["password"]), (&"puller".into(), &password.into()));
}
