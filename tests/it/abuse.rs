//! Those who connect and do nothing, or next to nothing, by the thousand: others are served as before.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::support::service::Service;

/// Connections that are silent after the handshake.
const IDLE: usize = 5000;
/// Requests whose head, and whose body, is never finished.
const SLOW: usize = 200;
/// How long the service takes at most to end a request that is never finished, and some more.
const ENDED: Duration = Duration::from_secs(60);

/// Resident memory of a process, in KiB.
pub(super) fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What is refused without a look at its body is read to its end all the same: who is reset while it writes sees no answer.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_while_it_still_writes_sees_the_answer() {
    let service = Service::start(&[]).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(service.certificate()).expect("a certificate")).expect("a root");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let piece = vec![b'x'; 64 * 1024];
    for (request, status) in [
        ("POST /api/v1/apps/a/jobs", "401"),
        ("PUT /api/v1/apps", "401"),
        ("POST /nowhere", "404"),
        ("PATCH /api/v1/apps", "405"),
        ("PUT /api/v1/pipelines/p", "401"),
    ] {
        let stream = TcpStream::connect(("127.0.0.1", service.port)).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = connector.connect(name, stream).await.expect("TLS");
        let length = 30 * piece.len();
        let head = format!(
            "{request} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        // Time enough for an answer that does not wait.
        tokio::time::sleep(Duration::from_millis(200)).await;
        for _ in 0..30 {
            stream.write_all(&piece).await.unwrap_or_else(|error| panic!("{request}: {error}"));
        }
        let mut answer = [0; 12];
        timeout(ENDED, stream.read_exact(&mut answer)).await.expect("an answer").expect("it is whole");
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "{request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_who_do_nothing_hold_up_nobody() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let enough = limit.maximum.is_none_or(|files| files >= (IDLE + 3 * SLOW) as u64 * 3 / 2);
    if !enough || setrlimit(Resource::Nofile, raised).is_err() {
        eprintln!(
            "not tried: {IDLE} connections take a hard limit of open files (ulimit -Hn) above {:?}",
            limit.maximum
        );
        return;
    }
    // It begins with a limit that would not do.
    let mut service = Service::prepare(&[]).await;
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -Sn 1024; exec \"$0\" serve", env!("CARGO_BIN_EXE_lockstep")]).stdout(Stdio::null());
    let child = service.dress(shell).spawn().expect("sh runs");
    service.take(child);
    service.ready().await;

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(service.certificate()).expect("a certificate")).expect("a root");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut speaks_http2 = config.clone();
    speaks_http2.alpn_protocols = vec![b"h2".to_vec()];
    let [http1, http2] = [config, speaks_http2].map(|config| TlsConnector::from(Arc::new(config)));
    let address = SocketAddr::from(([127, 0, 0, 1], service.port));
    let connect = async |connector: &TlsConnector, begin: String| -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = connector.connect(name, stream).await.expect("TLS");
        stream.write_all(begin.as_bytes()).await.expect("sent");
        stream
    };
    let head = "POST /job-status/ HTTP/1.1\r\nHost: localhost\r\n";
    let slow: Vec<_> = futures::stream::iter((0..2 * SLOW).map(|n| {
        let rest = if n % 2 == 0 { "X-Slow: " } else { "Content-Length: 100\r\n\r\n{" };
        connect(&http1, format!("{head}{rest}"))
    }))
    .buffer_unordered(64)
    .collect()
    .await;
    let before = resident_kib(service.pid());
    // With HTTP/2 the first request is not waited for as strictly, so that on a slow machine too they are all there at once.
    let idle: Vec<_> =
        futures::stream::iter((0..IDLE).map(|_| connect(&http2, String::new()))).buffer_unordered(64).collect().await;
    let kib = (resident_kib(service.pid()) - before) / IDLE as u64;
    for _ in 0..20 {
        let mut asking =
            connect(&http1, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".into()).await;
        let mut answer = String::new();
        let read = timeout(Duration::from_secs(5), asking.read_to_string(&mut answer)).await;
        read.expect("an answer in time").expect("text");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    let there = std::fs::read_dir(format!("/proc/{}/fd", service.pid())).expect("its files").count();
    println!("{there} files, {kib} KiB a connection");
    assert!(there > IDLE, "they are all there at once: {there}");
    assert!(kib < 64, "{kib} KiB for a connection on which nothing happens");
    drop(idle);
    // What is not finished is not waited for without end.
    for mut stream in slow {
        let mut answer = Vec::new();
        let _ = timeout(ENDED, stream.read_to_end(&mut answer)).await.expect("the connection is closed");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}
