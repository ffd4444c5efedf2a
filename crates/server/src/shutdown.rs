//! How the program is asked to stop: SIGTERM or SIGINT once, politely; a second one exits at once. Nothing that was
//! acknowledged is lost either way, since it is on disk before it is acknowledged.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit status after a second signal, as shells report an interrupted program.
const INTERRUPTED: i32 = 130;

/// A token that is cancelled by the first signal. Must be called within a runtime that lives as long as the process.
///
/// # Errors
/// The system refuses signal handlers.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
    };
    let token = CancellationToken::new();
    let asked = token.clone();
    tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "stopping; a second signal exits at once");
        asked.cancel();
        let name = signals.next().await;
        tracing::warn!(signal = name, "exiting at once");
        std::process::exit(INTERRUPTED);
    });
    Ok(token)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
