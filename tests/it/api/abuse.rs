//! Followers that do not read what they asked for.

use lockstep::api::serve::{Limits, serve_within};
use lockstep::api::tls::Certificate;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::TlsConnector;

use super::*;
use crate::abuse::resident_kib;
use crate::serve::write_certificate;

const FOLLOWERS: usize = 20;
/// What a follower that does not read may cost beside the kernel's buffers: a piece of output, as it was read and as it is sent.
const KIB_EACH: u64 = 1024;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("its files").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_that_do_not_read_cost_little_and_are_dropped() {
    let service = Service::start().await;
    let job = service.running("one").await;
    // More than the kernel keeps for a connection, and nearly all that can be read while a job runs.
    let text = "a line of output that goes on for some time\n".repeat(90_000);
    service.engine.print("i-one", &text);
    service.printed(&job, text.len() as u64).await;

    let folder = tempfile::tempdir().expect("a folder");
    let mut roots = RootCertStore::empty();
    let certificate = Certificate::load(&write_certificate(folder.path(), &mut roots)).expect("a certificate");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let limits = Limits { idle: Duration::from_secs(2), ..Limits::default() };
    let stop = CancellationToken::new();
    let tls = certificate.server_config().expect("TLS");
    let serving = tokio::spawn(serve_within(limits, listener, tls, service.router.clone(), stop.clone()));
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));

    let credentials = base64::engine::general_purpose::STANDARD.encode("one:secret-of-one");
    let request = format!(
        "GET /api/v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {credentials}\r\n\r\n"
    );
    let (before, files) = (resident_kib(std::process::id()), open_files());
    let mut followers = Vec::new();
    for _ in 0..FOLLOWERS {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(16 * 1024).expect("a small buffer");
        let stream = socket.connect(address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = connector.connect(name, stream).await.expect("TLS");
        stream.write_all(request.as_bytes()).await.expect("sent");
        followers.push(stream);
    }
    // Each end of a connection is a file of this process: the service's own are closed.
    let most = std::sync::atomic::AtomicU64::new(0);
    eventually("the followers are dropped", async || {
        most.fetch_max(resident_kib(std::process::id()), std::sync::atomic::Ordering::Relaxed);
        (open_files() <= files + FOLLOWERS).then_some(())
    })
    .await;
    let each = most.into_inner().saturating_sub(before) / FOLLOWERS as u64;
    println!("{each} KiB a follower");
    assert!(each < KIB_EACH, "{each} KiB a follower");
    for mut stream in followers {
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read).await;
        assert!(read.starts_with(b"HTTP/1.1 200 OK") && read.len() < text.len(), "{} bytes", read.len());
    }
    stop.cancel();
    serving.await.expect("it ends well");
    service.stop().await;
}
