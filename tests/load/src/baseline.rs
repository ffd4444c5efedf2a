//! The same handler without the write path's machinery: same layers, same token check, same body, same answer; one
//! plain `INSERT` instead of an operation with id, stamp, turn, breaker and record.

use actix_web::middleware::{Compress, from_fn};
use actix_web::{App, HttpResponse, HttpServer, web};
use gravity_api::ApiError;
use gravity_api::extract::{CurrentUser, JsonBody};
use gravity_api::middleware::{boundary, cors, guard, shield};
use gravity_api::respond::{Data, Sync};
use gravity_api::routes::RouteInfo;
use gravity_api::task::dto::{CreateTaskBody, TaskView};
use gravity_domain::clock::{Hlc, NodeId, SystemClock, WallClock as _};
use gravity_domain::id::{TaskId, UserId};
use gravity_domain::sync::Lww;
use gravity_domain::task::{NewTask, Task};
use gravity_infra::postgres::{Pool, PostgresSettings, QueryError};
use gravity_server::app::App as Server;
use gravity_server::config::Config;
use std::error::Error;
use std::time::{Duration, UNIX_EPOCH};
use uuid::Uuid;

/// Serves until it is killed. Settings as for `gravity serve`.
pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let config = Config::load().map_err(|problems| format!("{problems:?}"))?;
    let settings = PostgresSettings::from_url(variable("DATABASE_URL"));
    let listener = gravity_server::listen(&config.server)?;
    let cores = std::thread::available_parallelism()?.get();
    let workers = if config.server.workers == 0 {
        cores
    } else {
        config.server.workers
    };
    let server = Server::build(config)?;
    let pool = web::Data::new(Pool::new(&settings, server.handle().clone())?);
    let (state, node) = (server.state(), Uuid::now_v7().as_u64_pair().1);
    let route = create_route().ok_or("there is no route to create tasks")?;
    let system = actix_web::rt::System::new();
    Ok(system.block_on(async move {
        let app = move || {
            App::new()
                .app_data(state.clone())
                .app_data(pool.clone())
                .app_data(web::Data::new(NodeId(node)))
                .wrap(from_fn(shield))
                .wrap(cors(&[]))
                .wrap(Compress::default())
                .wrap(from_fn(boundary))
                .service(
                    web::resource("/api/v1/tasks").route(
                        web::post()
                            .to(create)
                            .wrap(from_fn(move |req, next| guard(route, req, next))),
                    ),
                )
                .route("/ready", web::get().to(HttpResponse::Ok))
        };
        HttpServer::new(app)
            .workers(workers)
            .keep_alive(Duration::from_secs(75))
            .listen(listener)?
            .run()
            .await
    })?)
}

#[allow(clippy::disallowed_methods, reason = "a bench's own setting")]
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn create_route() -> Option<&'static RouteInfo> {
    gravity_api::routes()
        .iter()
        .find(|route| (route.method, route.path) == ("POST", "/api/v1/tasks"))
}

async fn create(
    CurrentUser(who): CurrentUser,
    body: JsonBody<CreateTaskBody>,
    pool: web::Data<Pool>,
    node: web::Data<NodeId>,
) -> Result<HttpResponse, ApiError> {
    let stamp = Hlc {
        wall_ms: SystemClock.now().millis().unsigned_abs(),
        counter: 0,
        node: **node,
    };
    let task = new_task(who.user_id, stamp, body.value.into());
    if insert(&pool, &task).await.is_err() {
        return Ok(HttpResponse::ServiceUnavailable().finish());
    }
    Ok(HttpResponse::Created()
        .insert_header(("Location", format!("/api/v1/tasks/{}", task.id)))
        .insert_header(("ETag", "\"1\""))
        .json(Data {
            data: TaskView::of(&task, Sync::Committed),
        }))
}

fn new_task(user_id: UserId, stamp: Hlc, new: NewTask) -> Task {
    Task {
        id: TaskId(Uuid::now_v7()),
        user_id,
        title: Lww::new(new.title, stamp),
        description: Lww::new(new.description, stamp),
        status: Lww::new(new.status, stamp),
        created: stamp,
        deleted: None,
        version: 1,
        updated_at: stamp.timestamp(),
    }
}

async fn insert(pool: &Pool, task: &Task) -> Result<u64, QueryError> {
    let at = UNIX_EPOCH + Duration::from_millis(task.created.wall_ms);
    let stamp = task.created.to_bytes();
    let description = task.description.value.as_ref().map(|text| text.as_str());
    pool.execute(
        "bench_insert",
        "INSERT INTO tasks (id, user_id, title, description, status, created_at, updated_at, version,
            created_stamp, title_stamp, description_stamp, status_stamp)
         VALUES ($1, $2, $3, $4, $5, $6, $6, 1, $7, $7, $7, $7)",
        &[
            &task.id.0,
            &task.user_id.0,
            &task.title.value.as_str(),
            &description,
            &task.status.value.as_str(),
            &at,
            &stamp.as_slice(),
        ],
    )
    .await
}
