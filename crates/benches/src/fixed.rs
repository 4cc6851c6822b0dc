//! A downstream that answers the three calls at once with fixed answers and keeps no record, so that the processors are left to
//! what is measured. The sandbox, which enforces limits and records every call, takes as much of them as Penstock does.

use std::net::SocketAddr;

use penstock_tests::Place;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The server; it ends with the process.
pub struct Fixed {
    /// Its address, `http://…`.
    pub url: String,
}

/// Bytes that a request has at most.
const LONGEST: usize = 64 * 1024;

impl Fixed {
    /// Starts it on a thread of its own.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                while let Ok((connection, _)) = listener.accept().await {
                    // One that breaks off is the caller's.
                    tokio::spawn(async { drop(serve(connection).await) });
                }
            });
        };
        std::thread::Builder::new().name("fixed".into()).spawn(run).expect("a thread");
        Self { url }
    }

    /// Starts one that services which are started from now on call.
    pub fn called_in(place: &mut Place) -> Self {
        let fixed = Self::start();
        place.set("ADDRESS_API_URL", fixed.url.clone());
        place.set("INVITE_API_URL", fixed.url.clone());
        fixed
    }
}

async fn serve(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut heard = Vec::with_capacity(4096);
    while connection.read_buf(&mut heard).await? > 0 {
        while let Some(length) = request_length(&heard) {
            connection.write_all(&answer(&heard)).await?;
            heard.drain(..length);
        }
        assert!(heard.len() < LONGEST, "a request is too long");
    }
    Ok(())
}

/// The length of the request at the beginning, once it is there as a whole.
fn request_length(heard: &[u8]) -> Option<usize> {
    let head = heard.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let lines = heard[..head].split(|byte| *byte == b'\n');
    let body = lines.into_iter().find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        let value =
            std::str::from_utf8(value).ok().filter(|_| name.eq_ignore_ascii_case(b"content-length:"))?;
        value.trim().parse::<usize>().ok()
    });
    let whole = head + body.unwrap_or(0);
    (heard.len() >= whole).then_some(whole)
}

fn answer(request: &[u8]) -> Vec<u8> {
    let (status, body) = match request {
        [b'P', b'O', b'S', b'T', b' ', b'/', b'a', ..] => {
            ("200 OK", r#"{"links":[{"id":"lnk_0123456789abcdef"}]}"#)
        }
        [b'G', ..] => ("200 OK", r#"{"addresses":[{"id":"adr_0123456789abcdef"}]}"#),
        _ => ("201 Created", r#"{"check_id":"chk_0123456789abcdef"}"#),
    };
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}
