//! Asking a service whether it lives, without a shell or curl.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(3);

/// GETs /livez; success when the answer is 200.
pub fn ask(bind: SocketAddr) -> ExitCode {
    match alive(bind) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("no answer from {bind}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn alive(mut address: SocketAddr) -> std::io::Result<bool> {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(b"GET /livez HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = [0; 64];
    let read = connection.read(&mut answer)?;
    Ok(answer[..read].starts_with(b"HTTP/1.0 200") || answer[..read].starts_with(b"HTTP/1.1 200"))
}
