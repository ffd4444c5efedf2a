//! The write buffer's contract, run against both stores; a random walk beside a model; damage; and a process that is
//! killed again and again.

mod contract;
mod counted;
mod crash;
mod damage;
mod full;
mod home;
mod letters;
mod model;

/// Runs each `async fn name(engine)` of the calling module once per engine.
macro_rules! on_both_engines {
    ($($name:ident),* $(,)?) => {
        mod sled {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(gravity_infra::write_buffer::BufferEngine::Sled).await; })*
        }
        mod redb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(gravity_infra::write_buffer::BufferEngine::Redb).await; })*
        }
    };
}
pub(crate) use on_both_engines;
