//! An S3 server of the test's own: s3s-fs over HTTP, with keys, a folder and a switch that makes it refuse. It also lists uploads
//! that have no end, which s3s-fs does not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use penstock_domain::time::Timestamp;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

const ACCESS_KEY: &str = "penstock";
const SECRET_KEY: &str = "penstock-secret";
pub(crate) const BUCKET: &str = "batches";

/// A running server. It ends with its process.
#[derive(Clone)]
pub struct S3 {
    root: PathBuf,
    address: SocketAddr,
    refuses: Arc<AtomicBool>,
}

impl S3 {
    /// A server over a folder, with one empty bucket.
    pub fn start(root: &Path) -> Self {
        std::fs::create_dir_all(root.join(BUCKET)).expect("a folder");
        let files = FileSystem::new(root).expect("a folder");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let refuses = Arc::new(AtomicBool::new(false));
        let switch = refuses.clone();
        let address = start(service.build(), root, move |request, _| {
            if switch.load(Ordering::SeqCst) { Err(StatusCode::SERVICE_UNAVAILABLE) } else { Ok(request) }
        });
        Self { root: root.to_owned(), address, refuses }
    }

    /// What a service needs to find it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("OBJECT_STORE_URL", format!("s3://{BUCKET}/tests")),
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
        ]
    }

    /// Answers every request with 503, or no longer.
    pub fn refuse(&self, refuse: bool) {
        self.refuses.store(refuse, Ordering::SeqCst);
    }

    /// Objects, and parts of uploads that were neither completed nor aborted.
    pub fn objects(&self) -> Vec<PathBuf> {
        objects(&self.root)
    }

    /// Lets all uploads that have no end have begun earlier.
    pub fn age_uploads(&self, by: Duration) {
        for (_, _, path) in uploads(&self.root) {
            let file = std::fs::File::options().append(true).open(&path).expect("a file");
            file.set_modified(SystemTime::now() - by).expect("its time is set");
        }
    }
}

/// What is in the bucket, and parts of uploads that were neither completed nor aborted.
pub(crate) fn objects(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    crate::search(&root.join(BUCKET), b"", &mut found);
    for entry in std::fs::read_dir(root).expect("a folder").flatten() {
        if entry.file_name().to_string_lossy().starts_with(".upload") {
            found.push(entry.path());
        }
    }
    found
}

/// Serves a folder on a port of its own. What comes in passes `admit` first, which knows the server's address.
pub(crate) fn start(
    service: S3Service,
    root: &Path,
    admit: impl Fn(Request<Incoming>, SocketAddr) -> Result<Request<Incoming>, StatusCode> + Send + Sync + 'static,
) -> SocketAddr {
    let (sender, address) = std::sync::mpsc::channel();
    let root = root.to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            sender.send(address).expect("it is waited for");
            let admit = move |request| admit(request, address);
            serve(listener, service, root, Arc::new(admit)).await;
        });
    });
    address.recv().expect("it starts")
}

type Admit = dyn Fn(Request<Incoming>) -> Result<Request<Incoming>, StatusCode> + Send + Sync;

async fn serve(listener: TcpListener, service: S3Service, root: PathBuf, admit: Arc<Admit>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let (service, root, admit) = (service.clone(), root.clone(), admit.clone());
        let answer = service_fn(move |request: Request<Incoming>| {
            let (service, root, admitted) = (service.clone(), root.clone(), admit(request));
            async move {
                let request = match admitted {
                    Ok(request) => request,
                    Err(status) => {
                        let mut refusal = s3s::HttpResponse::new(s3s::Body::empty());
                        *refusal.status_mut() = status;
                        return Ok(refusal);
                    }
                };
                let query: BTreeMap<String, String> = pairs(request.uri().query().unwrap_or_default());
                let answer = service.call(request.map(s3s::Body::from)).await?;
                // The signature was right; there is only no such operation.
                if answer.status() == StatusCode::NOT_IMPLEMENTED && query.contains_key("uploads") {
                    let page = page(&root, &query);
                    return Ok(s3s::HttpResponse::new(s3s::Body::from(page)));
                }
                Ok::<_, s3s::HttpError>(answer)
            }
        });
        tokio::spawn(async move {
            // A client that hangs up is no concern of the server.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

/// Uploads without an end: the object, the id, and the file that s3s-fs makes when it begins.
fn uploads(root: &Path) -> Vec<(String, String, PathBuf)> {
    let files = std::fs::read_dir(root).expect("a folder").flatten().map(|entry| entry.path());
    let mut found: Vec<_> = files
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            let (key, rest) = name.split_once(".object-")?.1.split_once(".upload-")?;
            let key = String::from_utf8(URL_SAFE_NO_PAD.decode(key).ok()?).ok()?;
            Some((key, rest.strip_suffix(".metadata.json")?.to_owned(), path.clone()))
        })
        .collect();
    found.sort();
    found
}

/// As ListMultipartUploads answers, with one upload to a page.
fn page(root: &Path, query: &BTreeMap<String, String>) -> String {
    let of = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let after = (of("key-marker"), of("upload-id-marker"));
    let all = uploads(root);
    let mut left = all.iter().filter(|(key, id, _)| {
        key.starts_with(of("prefix")) && (after.0.is_empty() || (key.as_str(), id.as_str()) > after)
    });
    let mut text = String::from("<?xml version=\"1.0\"?><ListMultipartUploadsResult>");
    if let Some((key, id, path)) = left.next() {
        let began = std::fs::metadata(path).and_then(|file| file.modified()).unwrap_or(UNIX_EPOCH);
        let millis = began.duration_since(UNIX_EPOCH).expect("a time").as_millis();
        let began = Timestamp::from_millis(i64::try_from(millis).expect("a time")).to_datetime().to_rfc3339();
        text += &format!(
            "<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{id}</NextUploadIdMarker>\
             <Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{began}</Initiated></Upload>"
        );
    }
    text + &format!("<IsTruncated>{}</IsTruncated></ListMultipartUploadsResult>", left.next().is_some())
}

/// The pairs of a query.
pub(crate) fn pairs(query: &str) -> BTreeMap<String, String> {
    reqwest::Url::parse(&format!("http://x/?{query}"))
        .expect("a query")
        .query_pairs()
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}
