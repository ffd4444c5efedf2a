//! The task of a monitor: waits until a ping is due, makes it, and gives its outcome to the shared state.

use super::shared::{Kind, Ping, Shared};
use super::{DOUBT_PATIENCE, Probe, ProbeAnswer};
use futures_util::FutureExt as _;
use gravity_domain::error::StoreError;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::time::{sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

enum End {
    Answered(ProbeAnswer),
    Unanswered(&'static str, Option<StoreError>),
    Overtaken,
}

pub(super) async fn run(shared: Arc<Shared>, probe: Arc<dyn Probe>, stop: CancellationToken) {
    let watching = async {
        loop {
            tokio::select! {
                biased;
                () = shared.evidence.notified() => continue, // it may be due sooner now
                () = sleep_until(shared.due()) => {}
            }
            check(&shared, probe.as_ref()).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = watching => {}
    }
}

async fn check(shared: &Shared, probe: &dyn Probe) {
    let ping = shared.begin();
    match ask(shared, probe, ping).await {
        End::Answered(answer) => shared.answered(ping, answer),
        End::Unanswered(reason, error) => shared.unanswered(ping, reason, error.as_ref()),
        End::Overtaken => {}
    }
}

/// One ping, within its limit. Given up when evidence makes it worthless.
async fn ask(shared: &Shared, probe: &dyn Probe, ping: Ping) -> End {
    let pinging = AssertUnwindSafe(probe.ping()).catch_unwind();
    let mut bounded = std::pin::pin!(timeout_at(ping.began + ping.limit, pinging));
    let mut patient = ping.kind == Kind::Doubt;
    loop {
        tokio::select! {
            biased;
            outcome = &mut bounded => return match outcome {
                Ok(Ok(Ok(answer))) => End::Answered(answer),
                Ok(Ok(Err(error))) => End::Unanswered("connect", Some(error)),
                Ok(Err(_panic)) => End::Unanswered("panic", None),
                Err(_elapsed) => End::Unanswered("timeout", None),
            },
            () = shared.evidence.notified() => {
                if shared.overtaken(ping) {
                    return End::Overtaken;
                }
            }
            () = sleep_until(ping.began + DOUBT_PATIENCE), if patient => {
                patient = false;
                shared.impatient(ping);
            }
        }
    }
}
