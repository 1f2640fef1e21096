//! TLS 1.2 and 1.3, with a certificate that is read again when its files change.
//!
//! Both files are looked at every few seconds. What cannot be used (half written, a key of another certificate) is logged
//! once and changes nothing: the old certificate stays until both files fit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

use crate::config::Tls;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of this kind.
    #[error("{key} ({path}) cannot be used: {cause}")]
    File {
        /// Key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The two do not fit, or the key is of a kind that is not known.
    #[error("tls.certificate and tls.key cannot be used together: {0}")]
    Pair(rustls::Error),
    /// The protocol versions are not to be had.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// The certificate in force.
#[derive(Debug)]
pub struct Certificate {
    files: Tls,
    current: ArcSwap<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

/// What tells one state of a file from another: a replaced file has another inode, a rewritten one another time or length.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look(Vec<Option<(u64, u64, Option<SystemTime>)>>);

impl Look {
    fn at(files: &Tls) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let look = |path: &PathBuf| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.ino(), found.len(), found.modified().ok()))
        };
        Self(vec![look(&files.certificate), look(&files.key)])
    }
}

impl Certificate {
    /// Reads the files.
    pub fn load(files: &Tls) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = ArcSwap::from_pointee(read(files, &provider)?);
        // Read again for each container; known to be good before the first.
        certificates("tls.ca", &files.ca)?;
        Ok(Arc::new(Self { files: files.clone(), current, provider }))
    }

    /// A configuration that serves whatever certificate is in force.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Reads the files again whenever they change, until the stop.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        self.keep_fresh_every(LOOK, stop).await;
    }

    async fn keep_fresh_every(self: Arc<Self>, every: Duration, stop: CancellationToken) {
        let mut timer = tokio::time::interval(every);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen: Option<Look> = None;
        while stop.run_until_cancelled(timer.tick()).await.is_some() {
            let (this, before) = (self.clone(), seen.clone());
            let looked = tokio::task::spawn_blocking(move || this.look(before)).await;
            seen = looked.ok().or(seen);
        }
    }

    /// Looks at the files. They are read after they were looked at, so what changes in between is seen the next time.
    fn look(&self, before: Option<Look>) -> Look {
        let now = Look::at(&self.files);
        if before.as_ref() != Some(&now) {
            match read(&self.files, &self.provider) {
                Ok(key) => {
                    let same = self.current.load().cert == key.cert;
                    self.current.store(Arc::new(key));
                    if !same {
                        tracing::info!(certificate = %self.files.certificate.display(), "the certificate was read again");
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the changed certificate cannot be used; the old one stays in force")
                }
            }
        }
        now
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn wrong(key: &'static str, path: &Path, cause: impl ToString) -> TlsError {
    TlsError::File { key, path: path.to_owned(), cause: cause.to_string() }
}

/// The certificates of a file, at least one.
fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| wrong(key, path, error))?;
    if found.is_empty() { Err(wrong(key, path, "there is no certificate in it")) } else { Ok(found) }
}

fn read(files: &Tls, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = certificates("tls.certificate", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong("tls.key", &files.key, error))?;
    CertifiedKey::from_der(chain, key, provider).map_err(TlsError::Pair)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn files(&self) -> Tls {
            let at = |name| self.0.path().join(name);
            Tls { certificate: at("c.crt"), key: at("c.key"), ca: at("c.crt") }
        }

        /// Puts a new pair in place, as certificate tools do: beside it, then by rename.
        fn put(&self, certificate: &str, key: &str) {
            for (path, text) in [(self.files().certificate, certificate), (self.files().key, key)] {
                fs::write(path.with_extension("new"), text).expect("written");
                fs::rename(path.with_extension("new"), path).expect("renamed");
            }
        }
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn serves(certificate: &Certificate, pem: &str) -> bool {
        let expected = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        certificate.current.load().cert.first() == Some(&expected)
    }

    #[tokio::test]
    async fn a_changed_certificate_is_taken_and_a_bad_one_is_not() {
        let folder = Folder(tempfile::tempdir().expect("a folder"));
        let (first, second) = (pair(), pair());
        folder.put(&first.0, &first.1);
        let certificate = Certificate::load(&folder.files()).expect("a certificate");
        let mut look = certificate.look(None);

        for (text, key) in [("nonsense", first.1.as_str()), (second.0.as_str(), first.1.as_str()), ("", "")] {
            folder.put(text, key);
            let next = certificate.look(Some(look.clone()));
            assert_ne!(next, look);
            look = next;
            assert!(serves(&certificate, &first.0));
        }
        fs::remove_file(folder.files().key).expect("removed");
        look = certificate.look(Some(look));
        assert!(serves(&certificate, &first.0));

        folder.put(&second.0, &second.1);
        let look = certificate.look(Some(look));
        assert!(serves(&certificate, &second.0));
        assert_eq!(certificate.look(Some(look.clone())), look);
    }

    #[tokio::test]
    async fn the_files_are_looked_at_without_being_told() {
        let folder = Folder(tempfile::tempdir().expect("a folder"));
        let (first, second) = (pair(), pair());
        folder.put(&first.0, &first.1);
        let certificate = Certificate::load(&folder.files()).expect("a certificate");
        let stop = CancellationToken::new();
        let task = tokio::spawn(certificate.clone().keep_fresh_every(Duration::from_millis(5), stop.clone()));
        folder.put(&second.0, &second.1);
        let fresh = async {
            while !serves(&certificate, &second.0) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), fresh).await.expect("the new certificate");
        stop.cancel();
        task.await.expect("ends at the stop");
    }

    #[test]
    fn what_is_wrong_names_the_key_and_the_file() {
        let folder = Folder(tempfile::tempdir().expect("a folder"));
        let error = |folder: &Folder| Certificate::load(&folder.files()).expect_err("an error").to_string();
        assert!(error(&folder).starts_with("tls.certificate ("), "{}", error(&folder));
        let (certificate, key) = pair();
        folder.put(&certificate, "");
        assert!(error(&folder).starts_with("tls.key ("), "{}", error(&folder));
        folder.put("", &key);
        assert!(error(&folder).contains("no certificate in it"), "{}", error(&folder));
        folder.put(&certificate, &pair().1);
        assert!(error(&folder).contains("cannot be used together"), "{}", error(&folder));
    }
}
