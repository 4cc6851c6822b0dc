//! An S3 server of the test's own: s3s-fs over HTTP, with keys, a folder and a switch that makes it refuse.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

const ACCESS_KEY: &str = "penstock";
const SECRET_KEY: &str = "penstock-secret";
const BUCKET: &str = "batches";

/// A running server. It ends with its process.
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
        let (sender, address) = std::sync::mpsc::channel();
        let (service, seen) = (service.build(), refuses.clone());
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                sender.send(listener.local_addr().expect("an address")).expect("it is waited for");
                serve(listener, service, seen).await;
            });
        });
        Self { root: root.to_owned(), address: address.recv().expect("it starts"), refuses }
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
        let mut found = Vec::new();
        crate::search(&self.root.join(BUCKET), b"", &mut found);
        for entry in std::fs::read_dir(&self.root).expect("a folder").flatten() {
            if entry.file_name().to_string_lossy().starts_with(".upload") {
                found.push(entry.path());
            }
        }
        found
    }
}

async fn serve(listener: TcpListener, service: S3Service, refuses: Arc<AtomicBool>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let (service, refuses) = (service.clone(), refuses.clone());
        let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let (service, refuses) = (service.clone(), refuses.load(Ordering::SeqCst));
            async move {
                if refuses {
                    let mut refusal = s3s::HttpResponse::new(s3s::Body::empty());
                    *refusal.status_mut() = hyper::StatusCode::SERVICE_UNAVAILABLE;
                    return Ok(refusal);
                }
                service.call(request.map(s3s::Body::from)).await
            }
        });
        tokio::spawn(async move {
            // A client that hangs up is no concern of the server.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}
