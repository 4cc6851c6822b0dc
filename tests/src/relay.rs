//! A port before a server, which a test may take away and bring back.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on. It ends with its runtime.
pub struct Relay {
    address: SocketAddr,
    is_up: watch::Sender<bool>,
}

impl Relay {
    /// Before a server at `host:port`, at a port of the same kind of address as `bind`.
    pub async fn before(server: &str, bind: &str) -> Self {
        let listener = TcpListener::bind(bind).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (is_up, watched) = watch::channel(true);
        let server = server.to_owned();
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                // What goes wrong on a connection is for those at its ends to see.
                tokio::spawn(pass_on(caller, server.clone(), watched.clone()));
            }
        });
        Self { address, is_up }
    }

    /// Where it is, as `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Ends all connections, and each new one at once, until it is up again.
    pub fn set_up(&self, is_up: bool) {
        self.is_up.send_replace(is_up);
    }
}

async fn pass_on(mut caller: TcpStream, server: String, mut is_up: watch::Receiver<bool>) -> io::Result<()> {
    if !*is_up.borrow_and_update() {
        return Ok(());
    }
    let mut server = TcpStream::connect(server).await?;
    tokio::select! {
        ended = tokio::io::copy_bidirectional(&mut caller, &mut server) => ended.map(|_| ()),
        _ = is_up.wait_for(|up| !up) => Ok(()),
    }
}
