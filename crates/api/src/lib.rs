//! The HTTP API: extract, authorise by type, one use-case call, map.
//!
//! The server builds an [`ApiState`], and [`serve`] makes one [`app`] of it for each worker:
//!
//! ```no_run
//! # fn state() -> gravity_api::ApiState { unreachable!() }
//! # async fn serve() -> std::io::Result<()> {
//! let state = actix_web::web::Data::new(state());
//! let listener = std::net::TcpListener::bind(("127.0.0.1", 8080))?;
//! gravity_api::serve(state, listener, gravity_api::ServeSettings::default())?.await
//! # }
//! ```
//!
//! The server also installs what is global: a metrics recorder (then [`middleware::describe_metrics`]), and the trace
//! context propagator of opentelemetry with its tracing layer.

pub mod auth;
pub mod chat;
mod docs;
pub mod error;
pub mod extract;
pub mod health;
pub mod middleware;
pub mod openapi;
pub mod profile;
pub mod respond;
pub mod routes;
mod serve;
pub mod state;
pub mod stream;
pub mod sync;
pub mod task;

pub use error::{ApiError, ErrorCode};
pub use routes::routes;
pub use serve::{ServeSettings, serve};
pub use state::{
    ApiState, AuthCalls, ChatCalls, HttpSettings, ProfileCalls, StreamCalls, SyncCalls, TaskCalls,
};

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::middleware::{Compress, from_fn};
use actix_web::{App, Error, web};

/// The whole API over `state`, with every layer; see [`middleware`] for their order.
pub fn app(
    state: web::Data<ApiState>,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody + use<>>,
        Error = Error,
        InitError = (),
    > + use<>,
> {
    let cors = middleware::cors(&state.http.cors_origins);
    App::new()
        .app_data(state)
        .wrap(from_fn(middleware::shield))
        .wrap(cors)
        .wrap(Compress::default())
        .wrap(from_fn(middleware::boundary))
        .configure(routes::configure)
}
