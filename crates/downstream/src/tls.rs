//! TLS as every call uses it: the system's trusted authorities, and what is needed to say why a handshake failed.

use std::cell::Cell;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_platform_verifier::Verifier;

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
    let verifier =
        Arc::new(Explaining { verifier: Verifier::new_with_extra_roots(authorities, provider.clone())? });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(NoCertificate)))
}

/// A certificate that its own key has signed.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is self-signed")]
pub(crate) struct SelfSigned;

/// The system's verifier. It refuses the same, and distinguishes a self-signed certificate from one of an unknown authority.
#[derive(Debug)]
struct Explaining {
    verifier: Verifier,
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
