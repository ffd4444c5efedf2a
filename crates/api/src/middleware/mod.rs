//! What happens around every request, outermost first: [`mod@boundary`] (request id, address, span, metrics, access log,
//! security headers, problem bodies), compression, [`mod@cors`], [`mod@shield`] (blocked addresses), and around each route its
//! [`mod@guard`] (query parameters, token, role).

pub mod boundary;
pub mod client;
pub mod cors;
pub mod guard;
pub mod shield;
pub mod telemetry;

pub use boundary::boundary;
pub use client::{ClientAddress, RequestId};
pub use cors::cors;
pub use guard::guard;
pub use shield::shield;
pub use telemetry::describe_metrics;
