//! Connections: TLS versions, slow and silent clients, the certificate's change, and the orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse as _;
use axum::routing::get;
use futures::StreamExt as _;
use lockstep::api::serve::{Limits, serve_within};
use lockstep::api::tls::Certificate;
use lockstep::config::Tls;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::support::{PATIENCE, eventually};

struct Server {
    folder: tempfile::TempDir,
    address: SocketAddr,
    shutdown: CancellationToken,
    /// Told when a request to `/slow` is under way; `/slow` answers when told to.
    begun: Arc<Notify>,
    go: Arc<Notify>,
    task: JoinHandle<()>,
    roots: RootCertStore,
}

pub(super) fn write_certificate(folder: &std::path::Path, roots: &mut RootCertStore) -> Tls {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let files = Tls { certificate: folder.join("c.crt"), key: folder.join("c.key"), ca: folder.join("c.crt") };
    std::fs::write(&files.certificate, made.cert.pem()).expect("written");
    std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
    roots.add(made.cert.der().clone()).expect("a root");
    files
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut roots = RootCertStore::empty();
        let files = write_certificate(folder.path(), &mut roots);
        let certificate = Certificate::load(&files).expect("a certificate");
        let tls = certificate.server_config().expect("TLS");
        let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let slow = {
            let (begun, go) = (begun.clone(), go.clone());
            move || async move {
                begun.notify_one();
                go.notified().await;
                "slow"
            }
        };
        let flood = || async {
            let chunk = bytes::Bytes::from(vec![b'x'; 64 * 1024]);
            let chunks = futures::stream::repeat(chunk).map(Ok::<_, std::convert::Infallible>);
            axum::body::Body::from_stream(chunks).into_response()
        };
        let router = Router::new()
            .route("/", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
            .route("/slow", get(slow))
            .route("/flood", get(flood));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        tokio::spawn(certificate.keep_fresh(shutdown.clone()));
        let task = tokio::spawn(serve_within(limits, listener, tls, router, shutdown.clone()));
        Self { folder, address, shutdown, begun, go, task, roots }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("a connection")
    }

    async fn tls(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, self.tcp().await).await
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.tls(rustls::ALL_VERSIONS, &["http/1.1"]).await.expect("TLS")
    }

    /// A whole request on a connection of its own.
    async fn ask(&self, path: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        read_to_end(&mut stream).await
    }
}

/// Until the other end closes, however it does.
async fn read_to_end(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut read)).await.expect("the connection is closed");
    String::from_utf8_lossy(&read).into_owned()
}

fn quick() -> Limits {
    Limits { handshake: Duration::from_millis(300), head: Duration::from_millis(300), ..Limits::default() }
}

#[tokio::test]
async fn both_versions_and_both_protocols_are_spoken() {
    let server = Server::start(Limits::default()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (offered, chosen) in
            [(&["h2", "http/1.1"][..], Some(&b"h2"[..])), (&["http/1.1"], Some(b"http/1.1")), (&[], None)]
        {
            let stream = server.tls(&[version], offered).await.expect("TLS");
            assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{version:?}");
        }
    }
    let client = reqwest::Client::builder().danger_accept_invalid_certs(true).build().expect("a client");
    let answer = client.get(format!("https://{}/", server.address)).send().await.expect("an answer");
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert!(answer.text().await.expect("text").starts_with("127.0.0.1:"));
    assert!(server.ask("/").await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn who_is_slow_is_closed_and_holds_up_nobody() {
    let server = Server::start(quick()).await;
    let mut silent = server.tcp().await;
    let mut plain = server.tcp().await;
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut dripping = server.connect().await;
    dripping.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.expect("sent");
    let mut kept = server.connect().await;
    kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");

    assert!(server.ask("/").await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(read_to_end(&mut silent).await, "");
    let _ = read_to_end(&mut plain).await;
    let answer = read_to_end(&mut dripping).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    // A connection that is kept open is answered, and closed when nothing more comes.
    assert!(read_to_end(&mut kept).await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn who_does_not_read_is_closed() {
    let server = Server::start(Limits { idle: Duration::from_millis(500), ..Limits::default() }).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    // One that reads is served, however long it takes.
    let mut reader = server.connect().await;
    reader.write_all(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut buffer = vec![0; 16 * 1024];
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        assert!(reader.read(&mut buffer).await.expect("bytes") > 0);
    }
    drop(reader);
    // What had been sent is read; then the connection has an end, which the flood itself does not have.
    let _ = read_to_end(&mut stream).await;
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_their_turn() {
    let server = Server::start(Limits { connections: 2, ..Limits::default() }).await;
    let first = server.connect().await;
    let _second = server.connect().await;
    let third = server.ask("/");
    tokio::pin!(third);
    assert!(timeout(Duration::from_millis(300), &mut third).await.is_err());
    drop(first);
    assert!(timeout(PATIENCE, third).await.expect("an answer").starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart() {
    let mut server = Server::start(Limits::default()).await;
    server.connect().await;
    let mut fresh = RootCertStore::empty();
    write_certificate(server.folder.path(), &mut fresh);
    server.roots = fresh;
    eventually("the new certificate is served", async || server.tls(rustls::ALL_VERSIONS, &[]).await.ok().map(|_| ()))
        .await;
}

#[tokio::test]
async fn at_the_stop_requests_are_finished_and_nothing_new_is_taken() {
    let server = Server::start(Limits::default()).await;
    let mut kept = server.connect().await;
    kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut start = [0; 15];
    kept.read_exact(&mut start).await.expect("an answer");
    assert_eq!(&start, b"HTTP/1.1 200 OK");

    let stop = async {
        server.begun.notified().await;
        server.shutdown.cancel();
        let closed = async || TcpStream::connect(server.address).await.is_err().then_some(());
        eventually("the port is closed", closed).await;
        server.go.notify_one();
    };
    let (slow, ()) = timeout(PATIENCE, async { tokio::join!(server.ask("/slow"), stop) }).await.expect("an answer");
    assert!(slow.ends_with("slow"), "{slow}");
    // A connection on which nothing is under way is closed.
    let _ = read_to_end(&mut kept).await;
    timeout(PATIENCE, server.task).await.expect("it ends").expect("well");
}

#[tokio::test]
async fn what_is_not_finished_in_time_is_cut() {
    let server = Server::start(Limits { drain: Duration::from_millis(300), ..Limits::default() }).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    server.begun.notified().await;
    server.shutdown.cancel();
    timeout(PATIENCE, server.task).await.expect("it ends").expect("well");
    assert_eq!(read_to_end(&mut stream).await, "");
}
