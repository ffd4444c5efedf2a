//! The API over real use cases and in-memory ports: what a client sees, call by call.

mod admin;
mod auth;
mod bodies;
mod chat;
mod conditional;
mod envelope;
mod health;
mod idempotency;
mod outage;
mod ports;
mod profile;
mod routes;
mod shape;
mod stream;
mod stream_ingest;
mod tasks;
mod telemetry;
mod wire;
mod world;
