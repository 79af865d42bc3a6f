//! TLS to PostgreSQL, using rustls with the ring provider.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::connection::ConnectionString;
use crate::config::secret_file::Stamp;
use crate::config::{DatabaseConfig, TlsMode};
use crate::error::{Code, Error};

/// Creates connectors, and recreates them when their files have changed.
pub(super) struct Tls {
    settings: DatabaseConfig,
    made: Mutex<HashMap<TlsMode, Made>>,
}

struct Made {
    stamps: [Option<Stamp>; 3],
    client: Arc<ClientConfig>,
}

impl Tls {
    pub(super) fn new(settings: &DatabaseConfig) -> Self {
        Self { settings: settings.clone(), made: Mutex::default() }
    }

    /// The connector for a mode other than `disable`. Files that were replaced by unusable ones change nothing.
    ///
    /// Errors: [`Code::ConfigInvalid`] for a file that cannot be used.
    pub(super) fn client(&self, mode: TlsMode, target: &ConnectionString) -> Result<MakeRustlsConnect, Error> {
        let files = [&self.settings.ca_file, &self.settings.cert_file, &self.settings.key_file];
        let stamps = files.map(|file| file.as_deref().map(Stamp::of));
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = made.get(&mode).is_some_and(|made| made.stamps == stamps);
        if !fresh {
            match client(&self.settings, mode, target) {
                Ok(client) => {
                    made.insert(mode, Made { stamps, client: Arc::new(client) });
                }
                Err(error) => {
                    let Some(old) = made.get_mut(&mode) else { return Err(error) };
                    old.stamps = stamps;
                    tracing::warn!(error = %error.chain(), "the changed TLS files cannot be used; keeping the previous ones");
                }
            }
        }
        let client = made.get(&mode).expect("made above");
        Ok(MakeRustlsConnect::new((*client.client).clone()))
    }
}

fn client(settings: &DatabaseConfig, mode: TlsMode, target: &ConnectionString) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = if target.tls13_only { &[&rustls::version::TLS13][..] } else { rustls::DEFAULT_VERSIONS };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| Error::new(Code::Unexpected, "TLS cannot be set up").caused_by(error))?;
    let builder = match mode {
        TlsMode::Auto | TlsMode::VerifyFull => builder.with_root_certificates(roots(settings)?),
        TlsMode::VerifyCa => {
            let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(settings)?), Arc::clone(&provider))
                .build()
                .map_err(|error| {
                    Error::new(Code::ConfigInvalid, "database.ca_file holds no usable certificate").caused_by(error)
                })?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName { inner }))
        }
        TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
        }
    };
    let mut client = match (&settings.cert_file, &settings.key_file) {
        (Some(cert), Some(key)) => {
            let certs = read_certs(cert, "database.cert_file")?;
            let key_der = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unreadable("database.key_file", key, &error.to_string()))?;
            builder.with_client_auth_cert(certs, key_der).map_err(|error| {
                Error::new(Code::ConfigInvalid, "database.cert_file and database.key_file do not match")
                    .caused_by(error)
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    if target.direct_tls {
        // PostgreSQL insists on it where TLS begins without a question.
        client.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(client)
}

fn roots(settings: &DatabaseConfig) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    let certs = match &settings.ca_file {
        Some(path) => read_certs(path, "database.ca_file")?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    store.add_parsable_certificates(certs);
    if store.is_empty() {
        return Err(Error::new(
            Code::ConfigInvalid,
            "no certificate authority to verify the server in database.url with",
        )
        .hint("set database.ca_file, or install the ca-certificates package"));
    }
    Ok(store)
}

fn read_certs(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    // Read first: the PEM reader's own error does not tell a missing file from a malformed one.
    let pem = fs::read(path).map_err(|error| unreadable(key, path, &error.to_string()))?;
    let certs: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(key, path, &error.to_string()))?;
    if certs.is_empty() {
        return Err(unreadable(key, path, "it holds no certificate"));
    }
    Ok(certs)
}

fn unreadable(key: &str, path: &Path, reason: &str) -> Error {
    Error::new(Code::ConfigInvalid, format!("{key}: cannot read {}: {reason}", path.display()))
        .hint("the file must be readable by this process and in PEM form")
}

/// Checks the chain and lets any host name pass: libpq's `verify-ca`.
#[derive(Debug)]
struct AnyName {
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Encrypts without verifying the server: libpq's `prefer` and `require`.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
