//! Google Cloud Storage for tests: its XML API is S3's but for who signs and how, so a server of s3s-fs answers what a service
//! account has signed. It checks those signatures; no server of a package registry speaks this API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::{Request, StatusCode};
use ring::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use serde_json::{Value, json};

use crate::s3::{self, BUCKET};

const EMAIL: &str = "penstock@tests.iam.gserviceaccount.com";

/// Signed URLs are for this host, wherever the request goes.
const SIGNED_HOST: &str = "storage.googleapis.com";

/// A running server. It ends with its process.
pub struct Gcs {
    root: PathBuf,
    address: SocketAddr,
    /// The service account's key file.
    account: PathBuf,
}

impl Gcs {
    /// A server over a folder, with one empty bucket.
    pub fn start(root: &Path) -> Self {
        std::fs::create_dir_all(root.join(BUCKET)).expect("a folder");
        let pem = Command::new("openssl")
            .args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
            .output()
            .expect("openssl runs");
        let pem = String::from_utf8(pem.stdout).expect("PEM");
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let key = RsaKeyPair::from_pkcs8(&STANDARD.decode(body).expect("base64")).expect("a key");
        let public = key.public_key().as_ref().to_vec();
        let account = root.join("account.json");
        let text = json!({
            "type": "service_account", "private_key": pem, "private_key_id": "tests", "client_email": EMAIL
        });
        std::fs::write(&account, text.to_string()).expect("a file");
        let service = S3ServiceBuilder::new(FileSystem::new(root).expect("a folder")).build();
        let address = s3::start(service, root, move |request, _| admit(request, &public));
        Self { root: root.to_owned(), address, account }
    }

    /// What a service needs to find it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("OBJECT_STORE_URL", format!("gs://{BUCKET}/tests")),
            ("GOOGLE_SERVICE_ACCOUNT", self.account.display().to_string()),
            ("GOOGLE_BASE_URL", self.base()),
        ]
    }

    /// Where it is, as `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Where it is.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Objects, and parts of uploads that were neither completed nor aborted.
    pub fn objects(&self) -> Vec<PathBuf> {
        s3::objects(&self.root)
    }
}

/// Lets a request through that the service account signed, as one of S3's that needs no signature.
fn admit(mut request: Request<Incoming>, public: &[u8]) -> Result<Request<Incoming>, StatusCode> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let signed = match request.headers_mut().remove(AUTHORIZATION) {
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|value| value.strip_prefix("Bearer "))
            .is_some_and(|token| is_token(token, public)),
        None => is_signed_url(&request, &query, public),
    };
    if !signed {
        return Err(StatusCode::FORBIDDEN);
    }
    if query.contains("X-Goog-Signature") {
        *request.uri_mut() = request.uri().path().parse().expect("a path");
    }
    Ok(request)
}

/// A token that the account signed itself.
fn is_token(token: &str, public: &[u8]) -> bool {
    let Some((message, signature)) = token.rsplit_once('.') else { return false };
    let claims: Option<Value> = message
        .split_once('.')
        .and_then(|(_, claims)| URL_SAFE_NO_PAD.decode(claims).ok())
        .and_then(|claims| serde_json::from_slice(&claims).ok());
    claims.is_some_and(|claims| claims["iss"] == EMAIL)
        && URL_SAFE_NO_PAD
            .decode(signature)
            .is_ok_and(|signature| verified(public, message.as_bytes(), &signature))
}

/// An address of the V4 signing process, as Cloud Storage documents it.
fn is_signed_url(request: &Request<Incoming>, query: &str, public: &[u8]) -> bool {
    let mut pairs = s3::pairs(query);
    let Some(signature) = pairs.remove("X-Goog-Signature") else { return false };
    let encoded = |text: &str| -> String {
        text.bytes().fold(String::new(), |mut done, byte| {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    done.push(char::from(byte))
                }
                other => done.push_str(&format!("%{other:02X}")),
            }
            done
        })
    };
    let canonical: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    let canonical = format!(
        "{}\n{}\n{}\nhost:{SIGNED_HOST}\n\nhost\nUNSIGNED-PAYLOAD",
        request.method(),
        request.uri().path(),
        canonical.join("&")
    );
    let hash = hex(ring::digest::digest(&ring::digest::SHA256, canonical.as_bytes()).as_ref());
    let (Some(date), Some((_, scope))) =
        (pairs.get("X-Goog-Date"), pairs.get("X-Goog-Credential").and_then(|whose| whose.split_once('/')))
    else {
        return false;
    };
    let text = format!("GOOG4-RSA-SHA256\n{date}\n{scope}\n{hash}");
    let bytes = (0..signature.len() / 2).map(|at| u8::from_str_radix(&signature[2 * at..2 * at + 2], 16));
    bytes.collect::<Result<Vec<u8>, _>>().is_ok_and(|bytes| verified(public, text.as_bytes(), &bytes))
}

fn verified(public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public).verify(message, signature).is_ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
