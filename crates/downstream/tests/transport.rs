//! A dependency's own certificates and its proxy.
#![allow(clippy::unwrap_used, reason = "a test's way to fail")]

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use penstock_domain::pipeline::{Dependency, Files, Pipeline};
use penstock_downstream::{Client, Response};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use support::SystemClock;
use support::hammer::get;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Files that a test changes.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<HashMap<PathBuf, Arc<str>>>>);

impl Memory {
    fn write(&self, path: &str, text: String) {
        self.0.lock().unwrap().insert(path.into(), text.into());
    }
}

impl Files for Memory {
    fn read(&self, path: &Path) -> Result<Arc<str>, String> {
        self.0.lock().unwrap().get(path).cloned().ok_or_else(|| format!("no {}", path.display()))
    }
}

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key.
fn signed(by: &Authority, name: &str) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, by).unwrap();
    (certificate, key)
}

async fn listen<F: Future<Output = Option<()>> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    port
}

/// A bank that lets in whoever has a certificate of its clients' authority.
async fn bank(server: &Authority, clients: &Authority) -> u16 {
    let (certificate, key) = signed(server, "localhost");
    let mut roots = RootCertStore::empty();
    roots.add(clients.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_client_cert_verifier(verifier);
    let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    listen(move |stream| {
        let acceptor = acceptor.clone();
        async move { answer(acceptor.accept(stream).await.ok()?).await }
    })
    .await
}

async fn answer(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) -> Option<()> {
    let mut request = [0; 4096];
    let read = stream.read(&mut request).await.ok()?;
    let line = String::from_utf8_lossy(&request[..read]).lines().next()?.to_owned();
    let body = serde_json::json!(line).to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

fn dependency(keys: &str, files: &Memory) -> Dependency {
    let text = format!(
        "name: p\ncsv: {{ columns: [ {{ name: a }} ] }}\ndependencies: {{ d: {{ {keys} }} }}\nsteps: []\n"
    );
    let lookup = |name: &str| {
        let path = name.strip_prefix("file:")?;
        files.read(Path::new(path)).ok().map(|text| text.to_string())
    };
    Pipeline::load("p.yaml", &text, &lookup).unwrap().dependencies.remove(0)
}

async fn call(client: &Client, dependency: &Dependency) -> Result<Response, String> {
    let prepared = client
        .prepare(dependency, get("/x"), dependency.timeout, &[])
        .map_err(|error| format!("{error:?}"))?;
    let sent = prepared.send(&SystemClock, Default::default()).await;
    sent.response.ok_or_else(|| sent.failure.unwrap().detail)
}

fn client(files: &Memory) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new().unwrap().with_files(Arc::new(files.clone()))
}

#[tokio::test]
async fn a_private_authority_is_trusted_and_a_new_certificate_is_shown_without_a_restart() {
    let files = Memory::default();
    let client = client(&files);
    let (server, first, second) = (authority(), authority(), authority());
    let (old, new) = (bank(&server, &first).await, bank(&server, &second).await);
    let show = |by: &Authority| {
        let (certificate, key) = signed(by, "client");
        files.write("/client.pem", certificate.pem());
        files.write("/client.key", key.serialize_pem());
    };
    files.write("/ca.pem", server.pem());
    show(&first);
    let at = |port: u16, keys: &str| {
        dependency(&format!("base_url: \"https://localhost:{port}\", tls: {{ {keys} }}"), &files)
    };
    let all = "ca: \"${file:/ca.pem}\", certificate: \"${file:/client.pem}\", key: \"${file:/client.key}\"";
    let (old_bank, new_bank) = (at(old, all), at(new, all));
    assert_eq!(call(&client, &old_bank).await.unwrap().status, 200);
    assert!(call(&client, &new_bank).await.is_err(), "its clients have another authority");
    let bare = call(&client, &at(old, "ca: \"${file:/ca.pem}\"")).await.unwrap_err();
    assert!(bare.contains("CertificateRequired") || bare.contains("certificate"), "{bare}");
    let stranger = dependency(&format!("base_url: \"https://localhost:{old}\""), &files);
    assert!(call(&client, &stranger).await.is_err(), "the system's authorities did not sign it");
    // The files are replaced: the next call has the new certificate.
    show(&second);
    assert_eq!(call(&client, &new_bank).await.unwrap().status, 200);
    // Half a change: the key is not the certificate's.
    files.write("/client.key", KeyPair::generate().unwrap().serialize_pem());
    let mixed = call(&client, &new_bank).await.unwrap_err();
    assert!(mixed.contains("cannot be used together") && !mixed.contains("BEGIN"), "{mixed}");
}

/// A proxy that says whom it was asked for; it passes tunnels on.
async fn proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let port = listen(move |stream| {
        let seen = seen.clone();
        async move {
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                stream.read_line(&mut head).await.ok()?;
            }
            let first = head.lines().next()?.to_owned();
            let auth = head.lines().find(|line| line.to_lowercase().starts_with("proxy-authorization"));
            seen.lock().unwrap().push(format!("{first} {}", auth.unwrap_or_default()));
            let mut stream = stream.into_inner();
            let Some(to) = first.strip_prefix("CONNECT ") else {
                stream.write_all(b"HTTP/1.1 203 Proxied\r\ncontent-length: 2\r\n\r\n{}").await.ok()?;
                return stream.shutdown().await.ok();
            };
            let mut server = TcpStream::connect(to.split(' ').next()?).await.ok()?;
            stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.ok()?;
            tokio::io::copy_bidirectional(&mut stream, &mut server).await.ok()?;
            Some(())
        }
    })
    .await;
    (port, asked)
}

#[tokio::test]
async fn a_proxy_tunnels_https_and_is_asked_for_whole_urls_of_http() {
    let files = Memory::default();
    let client = client(&files);
    let (port, asked) = proxy().await;
    let server = authority();
    files.write("/ca.pem", server.pem());
    let (certificate, key) = signed(&server, "localhost");
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let acceptor =
        TlsAcceptor::from(Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap()));
    let secure = listen(move |stream| {
        let acceptor = acceptor.clone();
        async move { answer(acceptor.accept(stream).await.ok()?).await }
    })
    .await;
    let through = format!("proxy: \"http://user:p%40ss@127.0.0.1:{port}\"");
    let https = dependency(
        &format!("base_url: \"https://localhost:{secure}\", tls: {{ ca: \"${{file:/ca.pem}}\" }}, {through}"),
        &files,
    );
    let response = call(&client, &https).await.unwrap();
    assert_eq!((response.status, &*response.body), (200, &"GET /x HTTP/1.1".into()));
    let http = dependency(&format!("base_url: \"http://nowhere.example/v1\", {through}"), &files);
    assert_eq!(call(&client, &http).await.unwrap().status, 203);
    let auth = "proxy-authorization: Basic dXNlcjpwQHNz";
    let asked: Vec<String> = asked.lock().unwrap().iter().map(|line| line.to_lowercase()).collect();
    assert_eq!(
        asked,
        [
            format!("connect localhost:{secure} http/1.1 {}", auth.to_lowercase()),
            format!("get http://nowhere.example/v1/x http/1.1 {}", auth.to_lowercase()),
        ]
    );
    // Nobody listens there: nothing was sent.
    let gone = dependency(
        &format!("base_url: \"http://127.0.0.1:{secure}\", proxy: \"http://127.0.0.1:1\""),
        &files,
    );
    assert!(call(&client, &gone).await.is_err());
}
