//! The HTTP server over the [`app`](crate::app): connections, workers and their limits.
//!
//! It is `actix_web::HttpServer` in all but one thing: a handler can take a connection over ([`connection`]).

mod connection;

pub(crate) use connection::{Taking, Transport, is_secure};

use crate::state::ApiState;
use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Protocol};
use actix_server::{GracefulShutdownSignal, Server};
use actix_service::{
    IntoServiceFactory as _, ServiceFactory, ServiceFactoryExt as _, fn_service, map_config,
};
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream};
use actix_web::dev::{AppConfig, Extensions};
use actix_web::web;
use connection::Connection;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use tokio::net::TcpStream;

/// How connections are served.
#[derive(Clone)]
pub struct ServeSettings {
    /// Threads; `None`: one for each core.
    pub workers: Option<usize>,
    /// Connections of each worker that speak HTTP. Sockets of chat have a limit of their own.
    pub max_connections: usize,
    /// How long a connection may be idle between requests.
    pub keep_alive: Duration,
    /// How long the head of a connection's first request may take.
    pub header_timeout: Duration,
    /// How long requests in flight may take when the server stops.
    pub shutdown_timeout: Duration,
    /// The server's certificate. HTTP/2 is offered by ALPN.
    pub tls: Option<rustls::ServerConfig>,
}

impl Default for ServeSettings {
    /// Those of the framework.
    fn default() -> Self {
        Self {
            workers: None,
            max_connections: 25_000,
            keep_alive: Duration::from_secs(5),
            header_timeout: Duration::from_secs(5),
            shutdown_timeout: Duration::from_secs(30),
            tls: None,
        }
    }
}

/// How long a client may take to see that its connection ends.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

type Peer<T> = (Connection<T>, Protocol, Option<SocketAddr>);

/// Serves the API on `listener` until the server is stopped through its handle. Signals are left to the caller.
///
/// # Errors
/// The listener cannot be used.
pub fn serve(
    state: web::Data<ApiState>,
    listener: TcpListener,
    settings: ServeSettings,
) -> io::Result<Server> {
    let mut builder = Server::build()
        .max_concurrent_connections(settings.max_connections)
        .shutdown_timeout(settings.shutdown_timeout.as_secs())
        .disable_signals();
    if let Some(workers) = settings.workers {
        builder = builder.workers(workers);
    }
    let signal = builder.graceful_shutdown_signal();
    let builder = match settings.tls.clone() {
        None => builder.listen("http", listener, move || {
            fn_service(|stream: TcpStream| async move { Ok(plain(stream)) })
                .and_then(http(&state, &settings, &signal))
        })?,
        Some(tls) => builder.listen("https", listener, move || {
            Acceptor::new(with_protocols(tls.clone()))
                .map_err(|error| tracing::debug!(%error, "no TLS with a client"))
                .map_init_err(|_| ())
                .and_then(|stream: TlsStream<TcpStream>| async move { Ok(secured(stream)) })
                .and_then(http(&state, &settings, &signal).map_err(|_| ()))
        })?,
    };
    Ok(builder.run())
}

/// Small frames and answers are not to wait for the acknowledgement of those before them.
fn at_once(stream: &TcpStream) -> Option<SocketAddr> {
    let _ = stream.set_nodelay(true);
    stream.peer_addr().ok()
}

fn plain(stream: TcpStream) -> Peer<TcpStream> {
    let address = at_once(&stream);
    (Connection::new(stream, false), Protocol::Http1, address)
}

fn secured(stream: TlsStream<TcpStream>) -> Peer<TlsStream<TcpStream>> {
    let (tcp, session) = stream.get_ref();
    let address = at_once(tcp);
    let protocol = match session.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    (Connection::new(stream, true), protocol, address)
}

fn with_protocols(mut tls: rustls::ServerConfig) -> rustls::ServerConfig {
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tls
}

fn http<T: Transport + 'static>(
    state: &web::Data<ApiState>,
    settings: &ServeSettings,
    signal: &GracefulShutdownSignal,
) -> impl ServiceFactory<Peer<T>, Config = (), Response = (), Error = DispatchError, InitError = ()> + use<T>
{
    let signal = signal.clone();
    let app = crate::app(state.clone())
        .into_factory()
        .map_err(|error| error.error_response());
    HttpService::build()
        .graceful_shutdown_signal(move || {
            let signal = signal.clone();
            async move { signal.notified().await }
        })
        .keep_alive(KeepAlive::Timeout(settings.keep_alive))
        .client_request_timeout(settings.header_timeout)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .on_connect_ext(|connection: &Connection<T>, data: &mut Extensions| {
            data.insert(connection.connected());
        })
        .finish(map_config(app, |()| AppConfig::default()))
}
