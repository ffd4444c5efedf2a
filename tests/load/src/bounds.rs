//! What a hot page is measured against: nothing but its bytes, and no cache at all.

use crate::baseline::variable;
use actix_web::middleware::{Compress, from_fn};
use actix_web::{App, HttpResponse, HttpServer, web};
use gravity_api::ApiError;
use gravity_api::extract::CurrentUser;
use gravity_api::middleware::{boundary, cors, guard, shield};
use gravity_api::routes::RouteInfo;
use gravity_api::stream::dto::StreamPageView;
use gravity_domain::page::PageLimit;
use gravity_domain::stream::{StreamFilter, StreamQuery, StreamStore as _};
use gravity_infra::postgres::{Pool, PostgresSettings};
use gravity_infra::stream::PostgresStream;
use gravity_server::app::App as Server;
use gravity_server::config::Config;
use std::error::Error;
use std::time::Duration;

const PAGE: &str = "/v2/stream";

/// The bytes of a file, by the bare framework.
pub(crate) fn ceiling() -> Result<(), Box<dyn Error>> {
    let page = web::Bytes::from(std::fs::read(variable("GRAVITY_LOAD_PAGE"))?);
    let port: u16 = variable("SERVER_PORT").parse()?;
    let system = actix_web::rt::System::new();
    Ok(system.block_on(async move {
        let app = move || {
            let page = page.clone();
            let held = move || {
                let page = page.clone();
                async move { HttpResponse::Ok().content_type("application/json").body(page) }
            };
            App::new()
                .route(PAGE, web::get().to(held))
                .route("/ready", web::get().to(HttpResponse::Ok))
        };
        HttpServer::new(app)
            .workers(std::thread::available_parallelism()?.get())
            .keep_alive(Duration::from_secs(75))
            .bind(("127.0.0.1", port))?
            .run()
            .await
    })?)
}

/// The page from Postgres each time, behind the same layers and the same token check.
pub(crate) fn floor() -> Result<(), Box<dyn Error>> {
    let config = Config::load().map_err(|problems| format!("{problems:?}"))?;
    let settings = PostgresSettings::from_url(variable("DATABASE_URL"));
    let listener = gravity_server::listen(&config.server)?;
    let server = Server::build(config)?;
    let pool = Pool::new(&settings, server.handle().clone())?;
    let (state, stream) = (server.state(), web::Data::new(PostgresStream::new(pool)));
    let route = list_route().ok_or("there is no route of the stream")?;
    let system = actix_web::rt::System::new();
    Ok(system.block_on(async move {
        let app = move || {
            App::new()
                .app_data(state.clone())
                .app_data(stream.clone())
                .wrap(from_fn(shield))
                .wrap(cors(&[]))
                .wrap(Compress::default())
                .wrap(from_fn(boundary))
                .service(
                    web::resource(PAGE).route(
                        web::get()
                            .to(list)
                            .wrap(from_fn(move |req, next| guard(route, req, next))),
                    ),
                )
                .route("/ready", web::get().to(HttpResponse::Ok))
        };
        HttpServer::new(app)
            .workers(std::thread::available_parallelism()?.get())
            .keep_alive(Duration::from_secs(75))
            .listen(listener)?
            .run()
            .await
    })?)
}

fn list_route() -> Option<&'static RouteInfo> {
    gravity_api::routes()
        .iter()
        .find(|route| (route.method, route.path) == ("GET", PAGE))
}

async fn list(
    CurrentUser(who): CurrentUser,
    stream: web::Data<PostgresStream>,
) -> Result<HttpResponse, ApiError> {
    let first = StreamQuery {
        filter: StreamFilter::default(),
        after: None,
        limit: PageLimit::default(),
    };
    let page = stream.page(who.user_id, &first).await?;
    Ok(HttpResponse::Ok()
        .insert_header(("ETag", format!("\"{}\"", page.version)))
        .json(StreamPageView::of(&page)))
}
