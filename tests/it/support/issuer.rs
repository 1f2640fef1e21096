//! An issuer of ID tokens on this machine, as a CI has one: its configuration, its keys, tokens signed with them, and faults that can
//! be switched on.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PSS_SHA512, RsaKeyPair, RsaPublicKeyComponents,
};
use axum::http::{Request, Response, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Whom its tokens are made for.
pub(crate) const AUDIENCE: &str = "https://lockstep.test";

/// What is wrong with its answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ill {
    /// The configuration is a redirect to itself elsewhere.
    ConfigurationRedirects,
    /// The keys are a redirect to the right ones.
    KeysRedirect,
    /// The keys come with more than is read.
    KeysTooLarge,
    /// The configuration is one of another issuer.
    AnotherIssuer,
    /// The keys are said to be at this address.
    KeysAt(String),
    /// Every answer is 500.
    Broken,
    /// No answer comes.
    Silent,
}

enum Secret {
    Es256(EcdsaKeyPair),
    Es384(EcdsaKeyPair),
    Rs256(RsaKeyPair),
    Ps512(RsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

/// A key of an issuer.
pub(crate) struct Key {
    pub(crate) id: String,
    secret: Secret,
}

impl Key {
    /// A new one for an algorithm.
    pub(crate) fn new(id: &str, algorithm: &str) -> Self {
        let ec = |kind| EcdsaKeyPair::generate(kind).expect("a key");
        let secret = match algorithm {
            "ES256" => Secret::Es256(ec(&ECDSA_P256_SHA256_FIXED_SIGNING)),
            "ES384" => Secret::Es384(ec(&ECDSA_P384_SHA384_FIXED_SIGNING)),
            "RS256" => Secret::Rs256(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")),
            "PS512" => Secret::Ps512(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")),
            "EdDSA" => Secret::EdDsa(Ed25519KeyPair::generate().expect("a key")),
            _ => panic!("{algorithm}"),
        };
        Self { id: id.to_owned(), secret }
    }

    fn algorithm(&self) -> &'static str {
        match self.secret {
            Secret::Es256(_) => "ES256",
            Secret::Es384(_) => "ES384",
            Secret::Rs256(_) => "RS256",
            Secret::Ps512(_) => "PS512",
            Secret::EdDsa(_) => "EdDSA",
        }
    }

    /// Its public half, as the issuer shows it.
    pub(crate) fn public(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let ec = |curve: &str, key: &EcdsaKeyPair| {
            let point = &key.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)})
        };
        let mut key = match &self.secret {
            Secret::Es256(key) => ec("P-256", key),
            Secret::Es384(key) => ec("P-384", key),
            Secret::Rs256(key) | Secret::Ps512(key) => {
                let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({"kty": "RSA", "n": text(&n), "e": text(&e)})
            }
            Secret::EdDsa(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref())}),
        };
        key["kid"] = json!(self.id);
        key["use"] = json!("sig");
        key["alg"] = json!(self.algorithm());
        key
    }

    /// A signed token.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"typ": "JWT", "alg": self.algorithm(), "kid": self.id}), claims)
    }

    /// One with this header, signed in its own way whatever the header says.
    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let random = SystemRandom::new();
        let rsa = |key: &RsaKeyPair, kind| {
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(kind, &random, message.as_bytes(), &mut signature).expect("a signature");
            signature
        };
        let signature = match &self.secret {
            Secret::Es256(key) | Secret::Es384(key) => {
                key.sign(&random, message.as_bytes()).expect("a signature").as_ref().to_vec()
            }
            Secret::Rs256(key) => rsa(key, &RSA_PKCS1_SHA256),
            Secret::Ps512(key) => rsa(key, &RSA_PSS_SHA512),
            Secret::EdDsa(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The public half as bytes that a confused checker could take for a shared secret.
    pub(crate) fn public_bytes(&self) -> Vec<u8> {
        match &self.secret {
            Secret::Rs256(key) | Secret::Ps512(key) => key.public_key().as_der().expect("DER").as_ref().to_vec(),
            Secret::Es256(key) | Secret::Es384(key) => key.public_key().as_ref().to_vec(),
            Secret::EdDsa(key) => key.public_key().as_ref().to_vec(),
        }
    }
}

/// Header and claims, as they are signed.
pub(crate) fn message(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

struct World {
    url: String,
    keys: Vec<Value>,
    calls: Vec<String>,
    ill: Option<Ill>,
}

/// A running issuer.
pub(crate) struct Issuer {
    /// As it stands in `iss`.
    pub(crate) url: String,
    world: Arc<Mutex<World>>,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    /// Its certificate, where it has one.
    pub(crate) certificate: String,
    up: CancellationToken,
}

impl Issuer {
    /// One on this machine without TLS, with these keys.
    pub(crate) async fn start(keys: &[&Key]) -> Self {
        Self::run(keys, None, String::new()).await
    }

    /// One with TLS and a certificate of its own, known by the name `localhost`.
    pub(crate) async fn start_tls(keys: &[&Key]) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a key that fits");
        Self::run(keys, Some(TlsAcceptor::from(Arc::new(tls))), made.cert.pem()).await
    }

    async fn run(keys: &[&Key], acceptor: Option<TlsAcceptor>, certificate: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let url = match &acceptor {
            Some(_) => format!("https://localhost:{}", address.port()),
            None => format!("http://{address}"),
        };
        let keys = keys.iter().map(|key| key.public()).collect();
        let world = World { url: url.clone(), keys, calls: vec![], ill: None };
        let mut issuer = Self {
            url,
            world: Arc::new(Mutex::new(world)),
            address,
            acceptor,
            certificate,
            up: CancellationToken::new(),
        };
        issuer.serve(listener);
        issuer
    }

    fn serve(&mut self, listener: TcpListener) {
        self.up = CancellationToken::new();
        let (up, world, acceptor) = (self.up.clone(), self.world.clone(), self.acceptor.clone());
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = up.run_until_cancelled(listener.accept()).await {
                let (world, acceptor) = (world.clone(), acceptor.clone());
                tokio::spawn(up.child_token().run_until_cancelled_owned(async move {
                    match acceptor {
                        None => speak(stream, world).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                speak(stream, world).await;
                            }
                        }
                    }
                }));
            }
        });
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody answers any more.
    pub(crate) fn go_down(&self) {
        self.up.cancel();
    }

    /// It answers again, at the same address.
    pub(crate) async fn come_back(&mut self) {
        let address = self.address;
        let listener = super::eventually("the port is free", async || TcpListener::bind(address).await.ok()).await;
        self.serve(listener);
    }

    /// It has these keys from now on.
    pub(crate) fn has(&self, keys: &[&Key]) {
        self.world().keys = keys.iter().map(|key| key.public()).collect();
    }

    /// Its answers are wrong from now on.
    pub(crate) fn falls(&self, ill: Ill) {
        self.world().ill = Some(ill);
    }

    /// The paths that it was asked for.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.world().calls.clone()
    }

    /// Claims of a job of project 7 on its branch `main`, good for five minutes, with these changes; null takes one away.
    pub(crate) fn claims(&self, changes: &Value) -> Value {
        let now = lockstep::clock::wall_ms() / 1000;
        let mut claims = json!({
            "iss": self.url, "aud": AUDIENCE, "sub": "project 7 on main", "iat": now, "nbf": now, "exp": now + 300,
            "project_id": "7", "ref": "main", "ref_protected": true, "event_name": "push",
        });
        let object = claims.as_object_mut().expect("an object");
        object.extend(changes.as_object().expect("an object").clone());
        object.retain(|_, value| !value.is_null());
        claims
    }

    /// An app's rule for its project 7 on `main`.
    pub(crate) fn rule(&self) -> Value {
        json!({"issuer": self.url, "audience": AUDIENCE, "claims": {"project_id": 7, "ref": ["main", "next"]}})
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.up.cancel();
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, world: Arc<Mutex<World>>) {
    let service = service_fn(move |request| {
        let world = world.clone();
        async move { Ok::<_, Infallible>(answer(&world, &request).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(world: &Mutex<World>, request: &Request<Incoming>) -> Response<String> {
    let (url, keys, ill) = {
        let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
        world.calls.push(request.uri().path().to_owned());
        (world.url.clone(), json!({"keys": world.keys}).to_string(), world.ill.clone())
    };
    let say = |status: StatusCode, body: String| {
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        answer
    };
    let redirect = |to: String| {
        let mut answer = say(StatusCode::FOUND, String::new());
        answer.headers_mut().insert("location", to.parse().expect("a header"));
        answer
    };
    let configuration = |issuer: &str, keys: &str| {
        say(StatusCode::OK, json!({"issuer": issuer, "jwks_uri": keys, "response_types_supported": []}).to_string())
    };
    match (request.uri().path(), ill) {
        (_, Some(Ill::Silent)) => std::future::pending().await,
        (_, Some(Ill::Broken)) => say(StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        ("/.well-known/openid-configuration", Some(Ill::ConfigurationRedirects)) => {
            redirect(format!("{url}/elsewhere"))
        }
        ("/.well-known/openid-configuration", Some(Ill::AnotherIssuer)) => {
            configuration("https://another.example.org", &format!("{url}/keys"))
        }
        ("/.well-known/openid-configuration", Some(Ill::KeysAt(keys))) => configuration(&url, &keys),
        ("/.well-known/openid-configuration" | "/elsewhere", _) => configuration(&url, &format!("{url}/keys")),
        ("/keys", Some(Ill::KeysRedirect)) => redirect(format!("{url}/other-keys")),
        ("/keys", Some(Ill::KeysTooLarge)) => say(StatusCode::OK, keys.clone() + &" ".repeat(256 * 1024)),
        ("/keys" | "/other-keys", _) => say(StatusCode::OK, keys),
        _ => say(StatusCode::NOT_FOUND, String::new()),
    }
}
