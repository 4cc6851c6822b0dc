//! Connections that cannot be made, or that refuse what is sent: the cause is known, and that nothing was done.
#![allow(clippy::unwrap_used, reason = "a test's way to fail")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use penstock_domain::cause::Cause;
use penstock_domain::outcome::{Repetition, Verdict};
use penstock_downstream::{Called, Caller, Client, Demand, LocalLimiter, Spend};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use support::hammer::get;
use support::{SystemClock, dependency};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for these names, for whole years from and to these.
fn certificate(
    names: &[&str],
    years: (i32, i32),
    by: Option<&Authority>,
) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(years.0, 1, 1), rcgen::date_time_ymd(years.1, 1, 1));
    let key = KeyPair::generate().unwrap();
    let certificate = match by {
        Some(authority) => params.signed_by(&key, authority).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

const VALID: (i32, i32) = (2020, 2060);

fn config(
    (certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>),
    clients: Option<&Authority>,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = ServerConfig::builder_with_protocol_versions(versions);
    let builder = match clients {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    builder.with_single_cert(vec![certificate], key).unwrap()
}

/// Serves every connection by `serve`; the port.
async fn listen<F: Future + Send + 'static>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F::Output: Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    port
}

/// A TLS server that answers 200 to whoever gets so far.
async fn tls(config: ServerConfig) -> u16 {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    listen(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.ok()?;
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.ok()?;
            stream.shutdown().await.ok()
        }
    })
    .await
}

fn caller(trusted: &Authority) -> Caller {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::trusting([trusted.der().clone()]).unwrap();
    Caller::new(Arc::new(LocalLimiter::new()), client, Arc::new(SystemClock), 1)
}

/// A call that the definition says nothing of: only what was not sent, or not processed, is tried again.
async fn called(caller: &Caller, url: &str) -> (Verdict, Option<Cause>, String) {
    let mut api = dependency(url);
    api.timeout = Duration::from_secs(2);
    let demand = Demand {
        dependency: &api,
        owner: "acme",
        spend: Spend::of(1),
        timeout: api.timeout,
        answer: Default::default(),
        repetition: Repetition::Unsaid,
        unanswered_before: false,
        rules: None,
        reads_body: true,
        traceparent: None,
        past: penstock_domain::limit::Past::Clean,
        note: None,
    };
    match caller.call(&demand, get("/"), &|| true, &|| Box::new(())).await {
        Called::Answered { verdict, failure, .. } => {
            let (cause, detail) = failure.map(|failure| (failure.cause, failure.detail)).unzip();
            (verdict, cause, detail.unwrap_or_default())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_cause_has_its_name_and_nothing_was_sent() {
    let (ours, other) = (authority("ours"), authority("another"));
    let all = rustls::ALL_VERSIONS;
    let good = |names: &[&str], by| certificate(names, VALID, by);
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let plain = listen(|mut stream| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await
    })
    .await;
    let hangs_up = listen(|stream| async move { drop(stream) }).await;
    let silent = listen(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let own_ca = authority("nobody's");
    let self_signed_ca =
        (own_ca.der().clone(), PrivateKeyDer::try_from(own_ca.key().serialize_der()).unwrap());
    let localhost = ["localhost"];
    let cases = [
        (format!("http://localhost:{refused}"), Some(Cause::ConnectionRefused)),
        ("http://no-such-host.invalid".to_owned(), Some(Cause::UnknownHost)),
        (format!("https://localhost:{plain}"), Some(Cause::NotTls)),
        (format!("https://localhost:{hangs_up}"), Some(Cause::ConnectionClosed)),
        (format!("https://localhost:{silent}"), Some(Cause::ConnectTimeout)),
        (
            format!("https://localhost:{}", tls(config(good(&localhost, None), None, all)).await),
            Some(Cause::CertificateSelfSigned),
        ),
        (
            format!("https://localhost:{}", tls(config(self_signed_ca, None, all)).await),
            Some(Cause::CertificateSelfSigned),
        ),
        (
            format!("https://localhost:{}", tls(config(good(&localhost, Some(&other)), None, all)).await),
            Some(Cause::CertificateUntrusted),
        ),
        (
            format!(
                "https://localhost:{}",
                tls(config(certificate(&localhost, (2020, 2021), Some(&ours)), None, all)).await
            ),
            Some(Cause::CertificateExpired),
        ),
        (
            format!(
                "https://localhost:{}",
                tls(config(certificate(&localhost, (2059, 2060), Some(&ours)), None, all)).await
            ),
            Some(Cause::CertificateNotYetValid),
        ),
        (
            format!(
                "https://localhost:{}",
                tls(config(good(&["api.example"], Some(&ours)), None, all)).await
            ),
            Some(Cause::CertificateWrongHost),
        ),
        (
            format!(
                "https://localhost:{}",
                tls(config(good(&localhost, Some(&ours)), Some(&ours), all)).await
            ),
            Some(Cause::ClientCertificateWanted),
        ),
        (
            format!(
                "https://localhost:{}",
                tls(config(good(&localhost, Some(&ours)), Some(&ours), &[&rustls::version::TLS12])).await
            ),
            Some(Cause::ClientCertificateWanted),
        ),
        (format!("https://localhost:{}", tls(config(good(&localhost, Some(&ours)), None, all)).await), None),
    ];
    let caller = caller(&ours);
    for (url, expected) in cases {
        let (verdict, cause, detail) = called(&caller, &url).await;
        assert_eq!(cause, expected, "{url}: {detail}");
        let right = match expected {
            Some(_) => Verdict::Retry { code: "connect_failed".into() },
            None => Verdict::Success,
        };
        assert_eq!(verdict, right, "{url}: {detail}");
        assert_eq!(detail.is_empty(), expected.is_none(), "the operator reads more than the cause");
    }
}

/// Frames of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Reads frames until the header of a request came; the number of its stream.
async fn request_of(stream: &mut TlsStream<TcpStream>) -> std::io::Result<u32> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        if head[3] == 1 {
            return Ok(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        }
    }
}

/// An HTTP/2 server that answers the header of a request with these frames, and then closes the connection.
async fn http2(by: &Authority, answer: impl Fn(u32) -> Vec<u8> + Clone + Send + Sync + 'static) -> u16 {
    let mut config = config(certificate(&["localhost"], VALID, Some(by)), None, rustls::ALL_VERSIONS);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    listen(move |stream| {
        let (acceptor, answer) = (acceptor.clone(), answer.clone());
        async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await?;
            stream.write_all(&frame(4, 0, 0, &[])).await?;
            let id = request_of(&mut stream).await?;
            stream.write_all(&answer(id)).await?;
            stream.shutdown().await
        }
    })
    .await
}

#[tokio::test]
async fn what_http2_did_not_process_is_safe_to_repeat() {
    const RST_STREAM: u8 = 3;
    const GOAWAY: u8 = 7;
    const REFUSED_STREAM: u32 = 7;
    const CANCEL: u32 = 8;
    const INTERNAL_ERROR: u32 = 2;
    let reset = |reason: u32| move |id: u32| frame(RST_STREAM, 0, id, &reason.to_be_bytes());
    let go_away = |takes_it: bool, reason: u32| {
        move |id: u32| {
            let last = if takes_it { id } else { 0 };
            frame(GOAWAY, 0, 0, &[last.to_be_bytes(), reason.to_be_bytes()].concat())
        }
    };
    let ours = authority("ours");
    let caller = caller(&ours);
    let not_processed = Verdict::Retry { code: "not_processed".into() };
    let unknown = Verdict::Unknown { code: "outcome_unknown".into() };
    for (what, port, verdict) in [
        ("REFUSED_STREAM", http2(&ours, reset(REFUSED_STREAM)).await, &not_processed),
        ("above GOAWAY's last id", http2(&ours, go_away(false, 0)).await, &not_processed),
        (
            "above a failing GOAWAY's last id",
            http2(&ours, go_away(false, INTERNAL_ERROR)).await,
            &not_processed,
        ),
        ("CANCEL", http2(&ours, reset(CANCEL)).await, &unknown),
        ("INTERNAL_ERROR", http2(&ours, reset(INTERNAL_ERROR)).await, &unknown),
        ("up to GOAWAY's last id", http2(&ours, go_away(true, 0)).await, &unknown),
        ("up to a failing GOAWAY's last id", http2(&ours, go_away(true, INTERNAL_ERROR)).await, &unknown),
        ("a lost connection", http2(&ours, |_| Vec::new()).await, &unknown),
    ] {
        let (got, cause, detail) = called(&caller, &format!("https://localhost:{port}")).await;
        assert_eq!(&got, verdict, "{what}: {detail}");
        let refused = (verdict == &not_processed).then_some(Cause::NotProcessed);
        assert_eq!(cause, refused.or(Some(Cause::ConnectionLost)), "{what}: {detail}");
    }
}
