//! The limit: what axum, rustls and one Redis round trip can do here, with nothing of Lockstep in it.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use redis::aio::MultiplexedConnection;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

async fn get(State(connection): State<MultiplexedConnection>, _body: String) -> String {
    redis::cmd("GET").arg("limit").query_async(&mut connection.clone()).await.unwrap_or_default()
}

/// Serves until the process ends. `arguments`: port, folder of the certificate, URL of Redis.
pub(crate) async fn serve(arguments: &[String]) {
    let [port, folder, url] = arguments else { panic!("port, folder and URL") };
    let folder = Path::new(folder);
    let chain = CertificateDer::pem_file_iter(folder.join("certificate.crt")).expect("a file");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(folder.join("certificate.key")).expect("a key");
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).expect("a pair");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let client = redis::Client::open(url.as_str()).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let router = Router::new().route("/", post(get)).with_state(connection);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("a port");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let _ = stream.set_nodelay(true);
        let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            }
        });
    }
}
