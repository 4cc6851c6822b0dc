//! The API that the pipeline calls: an HTTP server whose answers the test can hold back.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The server.
pub struct Api {
    pub url: String,
    paths: watch::Sender<Vec<String>>,
    held: watch::Sender<bool>,
}

impl Api {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (paths, held) = (watch::Sender::new(Vec::new()), watch::Sender::new(false));
        let api = Self { url, paths: paths.clone(), held: held.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, paths.clone(), held.subscribe()));
            }
        });
        api
    }

    /// Calls get no answer until [`Api::release`].
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    pub fn release(&self) {
        self.held.send_replace(false);
    }

    /// The paths of all calls so far.
    pub fn paths(&self) -> Vec<String> {
        self.paths.borrow().clone()
    }

    /// Waits until this many calls have come.
    pub async fn called(&self, times: usize) {
        self.paths.subscribe().wait_for(|paths| paths.len() >= times).await.unwrap();
    }
}

/// Answers GET requests of a connection, one after the other.
async fn serve(mut stream: TcpStream, paths: watch::Sender<Vec<String>>, mut held: watch::Receiver<bool>) {
    let mut received = Vec::new();
    loop {
        while !received.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let request = String::from_utf8(std::mem::take(&mut received)).unwrap();
        let path = request.split(' ').nth(1).unwrap().to_owned();
        paths.send_modify(|paths| paths.push(path));
        let _ = held.wait_for(|held| !held).await;
        let answer =
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 8\r\n\r\n{\"id\":7}";
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
