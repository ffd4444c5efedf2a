//! The Postgres adapters against a real Postgres: one binary, so that one server serves all tests.

mod chat;
mod chat_counts;
mod chat_lists;
mod chat_log;
mod chat_order;
mod chat_world;
mod concurrency;
mod faults;
mod finders;
mod fixture;
mod ingest;
mod merge;
mod migrations;
mod notification_jobs;
mod purge;
mod replay;
mod stream;
mod stream_actions;
mod stream_plans;
mod stream_world;
mod together;
mod verdicts;
