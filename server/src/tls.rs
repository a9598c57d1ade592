//! TLS on the gRPC port: certificates from files, loaded again when they change, while connections go on.
//!
//! New files are taken as a whole or not at all. What cannot be used, such as a certificate whose key has not arrived yet, leaves
//! the old ones in place and is logged once.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use rustls::{
    RootCertStore, ServerConfig, crypto,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use sha2::{Digest as _, Sha256};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::model::tls::words;

/// Where certificates are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The server's own, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities that clients' certificates must come from; `None`: clients need none.
    pub client_ca: Option<PathBuf>,
}

/// Which of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// [`Files::certificate`].
    Certificate,
    /// [`Files::key`].
    Key,
    /// [`Files::client_ca`].
    ClientCa,
}

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be used: {problem}", path = .path.display())]
pub struct TlsError {
    /// Which one is at fault.
    pub which: Which,
    path: PathBuf,
    problem: String,
}

/// What the files hold.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    /// The same for the same contents; nothing that is worth keeping secret.
    fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten() {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

impl Files {
    /// Reads the files, and checks that they can be served with. Blocks.
    pub fn check(&self) -> Result<(), TlsError> {
        self.build(&self.read()?).map(|_| ())
    }

    fn read(&self) -> Result<Contents, TlsError> {
        let read = |which, path: &Path| std::fs::read(path).map_err(|error| self.error(which, error));
        Ok(Contents {
            certificate: read(Which::Certificate, &self.certificate)?,
            key: read(Which::Key, &self.key)?,
            client_ca: self.client_ca.as_deref().map(|path| read(Which::ClientCa, path)).transpose()?,
        })
    }

    fn build(&self, contents: &Contents) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| self.error(Which::Certificate, error))?;
        let builder = match &contents.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for authority in self.certificates(Which::ClientCa, pem)? {
                    roots.add(authority).map_err(|error| self.error(Which::ClientCa, words::of_error(&error)))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| self.error(Which::ClientCa, error))?)
            }
        };
        let chain = self.certificates(Which::Certificate, &contents.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key);
        let key = key.map_err(|error| self.error(Which::Key, format_args!("no private key in PEM: {error}")))?;
        let config = builder.with_single_cert(chain, key);
        let mut config = config.map_err(|error| {
            // The key is read after the certificate.
            let which =
                if matches!(error, rustls::Error::InvalidCertificate(_)) { Which::Certificate } else { Which::Key };
            self.error(which, words::of_error(&error))
        })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    fn certificates(&self, which: Which, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let all = all.map_err(|error| self.error(which, error))?;
        if all.is_empty() { Err(self.error(which, "there is no certificate in PEM in it")) } else { Ok(all) }
    }

    fn error(&self, which: Which, problem: impl std::fmt::Display) -> TlsError {
        let path = match which {
            Which::Certificate => &self.certificate,
            Which::Key => &self.key,
            Which::ClientCa => self.client_ca.as_ref().unwrap_or(&self.certificate),
        };
        TlsError { which, path: path.clone(), problem: problem.to_string() }
    }
}

/// What new connections are served with. Cheap to clone; clones see what is loaded later.
#[derive(Debug, Clone)]
pub struct Certificates {
    files: Files,
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

/// What was looked at last.
#[derive(Debug, Default)]
struct Seen {
    fingerprint: [u8; 32],
    problem: Option<String>,
}

impl Seen {
    /// Says what is wrong with what was looked at, once, and to whoever asks.
    fn report(&mut self, problem: &TlsError, is_asked: bool) {
        let text = problem.to_string();
        if is_asked || self.problem.as_ref() != Some(&text) {
            error!(error = %text, "new certificates are not taken; connections are served with the old ones");
        }
        self.problem = Some(text);
    }
}

impl Certificates {
    /// Loads them. Blocks.
    pub fn open(files: Files) -> Result<Self, TlsError> {
        let config = files.build(&files.read()?)?;
        Ok(Self { files, current: Arc::new(RwLock::new(Arc::new(config))) })
    }

    /// For one connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.read().clone())
    }

    /// Looks after the files every `interval`, and on SIGHUP, until `stop`.
    pub async fn follow(self, interval: Duration, stop: CancellationToken) -> io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut seen = Seen::default();
        // What is there now was loaded a moment ago, unless it has changed since.
        loop {
            let is_asked = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(interval) => false,
                _ = hangup.recv() => true,
            };
            self.look(&mut seen, is_asked).await;
        }
    }

    /// Takes what the files hold, if it is new, or if somebody asked for it.
    async fn look(&self, seen: &mut Seen, is_asked: bool) {
        let files = self.files.clone();
        let fingerprint = seen.fingerprint;
        let loaded = tokio::task::spawn_blocking(move || {
            let contents = files.read()?;
            let found = contents.fingerprint();
            if found == fingerprint && !is_asked {
                return Ok(None);
            }
            Ok(Some((found, files.build(&contents))))
        });
        let Ok(loaded) = loaded.await else { return };
        let problem = match loaded {
            // As it was, for better or for worse.
            Ok(None) => return,
            Ok(Some((found, built))) => {
                let is_first = std::mem::replace(&mut seen.fingerprint, found) == [0; 32];
                match built {
                    Ok(config) => {
                        *self.current.write() = Arc::new(config);
                        seen.problem = None;
                        if !is_first || is_asked {
                            info!("new connections are served with the certificates as they are now");
                        }
                        return;
                    }
                    Err(problem) => problem,
                }
            }
            Err(problem) => problem,
        };
        seen.report(&problem, is_asked);
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn files(&self) -> Files {
            let path = |name: &str| self.0.path().join(name);
            Files { certificate: path("cert.pem"), key: path("key.pem"), client_ca: None }
        }

        fn write(&self, certificate: &str, key: &str) {
            std::fs::write(self.files().certificate, certificate).unwrap();
            std::fs::write(self.files().key, key).unwrap();
        }
    }

    fn made() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn present(certificates: &Certificates) -> Arc<ServerConfig> {
        certificates.current.read().clone()
    }

    #[tokio::test]
    async fn new_files_are_taken_and_broken_ones_are_not() {
        let folder = Folder::new();
        let ((cert, key), (other_cert, other_key)) = (made(), made());
        folder.write(&cert, &key);
        let certificates = Certificates::open(folder.files()).unwrap();
        let mut seen = Seen::default();
        certificates.look(&mut seen, false).await;
        let first = present(&certificates);
        certificates.look(&mut seen, false).await;
        assert!(Arc::ptr_eq(&first, &present(&certificates)), "nothing has changed");

        // One file after the other, as they are copied.
        folder.write(&other_cert, &key);
        certificates.look(&mut seen, false).await;
        assert!(Arc::ptr_eq(&first, &present(&certificates)), "they do not belong together");
        assert!(seen.problem.is_some());
        folder.write(&other_cert, "");
        certificates.look(&mut seen, false).await;
        std::fs::remove_file(folder.files().key).unwrap();
        certificates.look(&mut seen, true).await;
        assert!(Arc::ptr_eq(&first, &present(&certificates)));
        folder.write(&other_cert, &other_key);
        certificates.look(&mut seen, false).await;
        let second = present(&certificates);
        assert!(!Arc::ptr_eq(&first, &second) && seen.problem.is_none());
        certificates.look(&mut seen, true).await;
        assert!(!Arc::ptr_eq(&second, &present(&certificates)), "somebody asked");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = Folder::new();
        let (cert, key) = made();
        let check = |files: &Files, which: Which| {
            let error = files.check().unwrap_err();
            assert_eq!(error.which, which, "{error}");
        };
        check(&folder.files(), Which::Certificate);
        for (certificate, private, which) in
            [("", &*key, Which::Certificate), (&*cert, "", Which::Key), (&*cert, &*made().1, Which::Key)]
        {
            folder.write(certificate, private);
            check(&folder.files(), which);
        }
        folder.write(&cert, &key);
        folder.files().check().unwrap();
        let without = Files { client_ca: Some(folder.0.path().join("none.pem")), ..folder.files() };
        check(&without, Which::ClientCa);
        let key_as_ca = Files { client_ca: Some(folder.files().key), ..folder.files() };
        check(&key_as_ca, Which::ClientCa);
        let itself = Files { client_ca: Some(folder.files().certificate), ..folder.files() };
        itself.check().unwrap();
    }
}
