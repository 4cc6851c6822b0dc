//! Answers probes while a program waits for the database or Redis.

use std::net::SocketAddr;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, HttpServer, web};

/// A server that answers `/livez` with 200 and everything else with 503. It stops when it is closed.
pub struct WaitingRoom {
    server: Option<ServerHandle>,
}

impl WaitingRoom {
    /// Opens it at that address; where there is none, or it is taken, nobody is answered.
    pub fn open(address: Option<SocketAddr>) -> Self {
        let server = address.and_then(|address| {
            let app = || {
                App::new()
                    .route("/livez", web::get().to(HttpResponse::Ok))
                    .default_service(web::to(HttpResponse::ServiceUnavailable))
            };
            let server = HttpServer::new(app).workers(1).disable_signals().bind(address).ok()?.run();
            let handle = server.handle();
            tokio::spawn(server);
            Some(handle)
        });
        Self { server }
    }

    /// Closes it; the address is free then.
    pub async fn close(self) {
        if let Some(server) = self.server {
            server.stop(false).await;
        }
    }
}
