//! TLS as every call uses it: the system's trusted authorities, and what is needed to say why a handshake failed.

use std::cell::Cell;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
};
use rustls_platform_verifier::Verifier;

use crate::credentials::NoCredentials;
use crate::transport::TlsTexts;

/// The configuration of all connections, which trust these authorities besides the system's.
///
/// # Errors
/// When no provider of rustls is installed, or the system's authorities cannot be read.
pub(crate) fn config(
    authorities: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = CryptoProvider::get_default()
        .cloned()
        .ok_or_else(|| rustls::Error::General("no TLS provider is installed".to_owned()))?;
    let verifier = Verifier::new_with_extra_roots(authorities, provider.clone())?;
    let verifier = Arc::new(Explaining { verifier: Arc::new(verifier) });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(NoCertificate)))
}

/// The configuration of a dependency with authorities or a client certificate of its own. With authorities of its own it trusts
/// no others.
///
/// # Errors
/// When a text is not what it should be: a sentence that holds nothing of it.
pub(crate) fn own_config(own: &TlsTexts, general: &ClientConfig) -> Result<ClientConfig, NoCredentials> {
    let provider = general.crypto_provider().clone();
    let mut config = general.clone();
    if let Some(ca) = &own.ca {
        let mut roots = RootCertStore::empty();
        for authority in certificates("tls.ca", ca)? {
            roots.add(authority).map_err(|error| format!("tls.ca cannot be used: {error}"))?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let verifier = verifier.map_err(|error| format!("tls.ca cannot be used: {error}"))?;
        config.dangerous().set_certificate_verifier(Arc::new(Explaining { verifier }));
    }
    if let (Some(certificate), Some(key)) = (&own.certificate, &own.key) {
        let chain = certificates("tls.certificate", certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| "tls.key has no private key in PEM (one without a passphrase)".to_owned())?;
        let own = CertifiedKey::from_der(chain, key, &provider)
            .map_err(|error| format!("tls.certificate and tls.key cannot be used together: {error}"))?;
        config.client_auth_cert_resolver = Arc::new(OwnCertificate(Arc::new(own)));
    }
    Ok(config)
}

fn certificates(whose: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, NoCredentials> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| format!("{whose} has no certificate in PEM"))
}

/// A certificate that its own key has signed.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is self-signed")]
pub(crate) struct SelfSigned;

/// A verifier that refuses the same as another one, and distinguishes a self-signed certificate from one of an unknown authority.
#[derive(Debug)]
struct Explaining {
    verifier: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for Explaining {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.map_err(|error| match error {
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_) | CertificateError::BadSignature,
            ) if is_self_signed(end_entity) => {
                let explained = CertificateError::Other(OtherError(Arc::new(SelfSigned)));
                rustls::Error::InvalidCertificate(explained)
            }
            other => other,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.issuer() == certificate.subject())
}

thread_local! {
    /// Whether a server has asked for a client certificate since this was last set to false. A handshake asks within one
    /// poll, so that whoever polls it knows whose question it was.
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a handshake; says as well whether the server asked for a client certificate.
pub(crate) async fn noting_certificate_requests<F: Future>(handshake: F) -> (F::Output, bool) {
    let mut handshake = std::pin::pin!(handshake);
    let mut asked = false;
    let output = std::future::poll_fn(|context| {
        ASKED.set(false);
        let polled = handshake.as_mut().poll(context);
        asked |= ASKED.get();
        polled
    })
    .await;
    (output, asked)
}

/// There is no client certificate.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        ASKED.set(true);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// The certificate of a dependency.
#[derive(Debug)]
struct OwnCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for OwnCertificate {
    /// Whatever authorities the server names: which of them signed ours may need a chain that only the server knows.
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        ASKED.set(true);
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
