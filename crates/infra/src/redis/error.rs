//! What the driver's errors mean.

use gravity_domain::error::StoreError;
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Translates by kind, never by text.
pub(super) fn translate(error: RedisError) -> StoreError {
    let source = |error: RedisError| Some(Box::new(error) as _);
    if error.is_timeout() {
        return StoreError::Unavailable {
            reason: "timeout",
            source: source(error),
        };
    }
    if error.is_connection_refusal() || error.kind() == ErrorKind::AuthenticationFailed {
        return StoreError::Unavailable {
            reason: "connect",
            source: source(error),
        };
    }
    if error.is_connection_dropped() || error.is_io_error() {
        return StoreError::Unavailable {
            reason: "closed",
            source: source(error),
        };
    }
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown) => {
            StoreError::Unavailable {
                reason: "shutdown",
                source: source(error),
            }
        }
        ErrorKind::Server(ServerErrorKind::ReadOnly) => StoreError::Unavailable {
            reason: "read_only",
            source: source(error),
        },
        ErrorKind::Server(ServerErrorKind::TryAgain) => StoreError::Busy {
            reason: "resources",
            source: source(error),
        },
        _ if matches!(error.code(), Some("OOM" | "BUSY" | "MISCONF" | "NOREPLICAS")) => StoreError::Busy {
            reason: "resources",
            source: source(error),
        },
        _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => StoreError::Unavailable {
            reason: "connect",
            source: source(error),
        },
        _ => StoreError::Rejected {
            reason: "redis".to_owned(),
            source: source(error),
        },
    }
}

/// The word for metrics.
pub(super) fn word(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable { reason, .. } | StoreError::Busy { reason, .. } => reason,
        StoreError::Rejected { .. } => "rejected",
    }
}
