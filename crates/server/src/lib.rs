//! Gravity as a library: configuration, wiring, workers, shutdown. The binary is `gravity`; tests start the same server
//! in their own process.

pub mod app;
pub mod config;
pub mod healthcheck;
pub mod migrations;
pub mod salvage;
pub mod seed;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod workers;

use config::ServerConfig;
use std::io;
use std::net::TcpListener;
use tokio::runtime::Runtime;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 2_048;

/// Listens where the settings say, before anything else is started.
///
/// # Errors
/// The address does not exist or is taken; the message names it.
pub fn listen(config: &ServerConfig) -> io::Result<TcpListener> {
    let name = |error: io::Error| {
        let place = format!("{}:{}", config.host, config.port);
        io::Error::new(error.kind(), format!("cannot listen on {place}: {error}"))
    };
    let listener = TcpListener::bind((config.host.as_str(), config.port)).map_err(name)?;
    // The standard library's backlog is 128: too few for a burst of connections.
    rustix::net::listen(&listener, BACKLOG).map_err(|error| name(error.into()))?;
    Ok(listener)
}

/// Lets the process open as many files, and hence connections, as the system allows it; shells hand out 1,024.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// A multi-threaded runtime. Connections to the stores are driven on one of these, never on a web worker's own.
///
/// # Errors
/// The system gives no threads.
pub fn runtime(threads: usize) -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("gravity-io")
        .enable_all()
        .build()
}

/// Waits for `work` on the runtime of `handle`, from any thread, also from one that runs async code.
pub(crate) fn finish<T: Send + 'static>(
    handle: &tokio::runtime::Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    handle.spawn(async move {
        let _ = sender.send(work.await);
    });
    receiver
        .recv()
        .expect("the runtime is alive and the work does not panic")
}
