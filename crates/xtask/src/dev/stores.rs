//! The private PostgreSQL and Redis of `dev`: durable, on ports that stay the same.

use std::error::Error;

use gravity_test_support::services::{Place, Postgres, PostgresOptions, Redis, RedisOptions, ServiceError};

use super::local;
use crate::outage::{Act, Part};

pub(super) struct Stores {
    pub(super) postgres: Postgres,
    pub(super) redis: Redis,
}

impl Stores {
    pub(super) fn start() -> Result<Self, Box<dyn Error>> {
        let postgres = PostgresOptions {
            place: Place::Kept(local::store("postgres")?),
            fsync: true,
            password: Some(local::secret("postgres-password")?),
            database: Some("gravity".into()),
            ..PostgresOptions::default()
        };
        let postgres = on_the_same_port("postgres", |port| {
            Postgres::launch(PostgresOptions {
                port,
                ..postgres.clone()
            })
        })?;
        local::remember_port("postgres", postgres.port())?;
        let place = Place::Kept(local::store("redis")?);
        let redis = on_the_same_port("redis", |port| {
            Redis::launch(RedisOptions {
                place: place.clone(),
                port,
                durable: true,
                ..RedisOptions::default()
            })
        })?;
        local::remember_port("redis", redis.port())?;
        Ok(Self { postgres, redis })
    }

    pub(super) fn obey(&self, part: Part, act: Act) -> Result<(), ServiceError> {
        match (part, act) {
            (Part::Postgres, Act::Kill) => self.postgres.kill(),
            (Part::Postgres, Act::Stop) => self.postgres.pause()?,
            (Part::Postgres, Act::Cont) => self.postgres.resume()?,
            (Part::Postgres, Act::Start) => self.postgres.start()?,
            (_, Act::Kill) => self.redis.kill(),
            (_, Act::Stop) => self.redis.pause()?,
            (_, Act::Cont) => self.redis.resume()?,
            (_, Act::Start) => self.redis.start()?,
        }
        Ok(())
    }

    pub(super) fn stop(&self) {
        self.redis.stop();
        self.postgres.stop();
    }
}

/// Tries the port of last time, then any.
fn on_the_same_port<T>(
    store: &str,
    mut launch: impl FnMut(Option<u16>) -> Result<T, ServiceError>,
) -> Result<T, ServiceError> {
    let Some(port) = local::remembered_port(store) else {
        return launch(None);
    };
    launch(Some(port)).or_else(|error| {
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Err(error);
        }
        eprintln!("==> port {port} of {store} is taken; it moves to another");
        launch(None)
    })
}
