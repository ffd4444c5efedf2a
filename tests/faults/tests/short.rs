//! A short run of fault schedules, so that every run of the tests breaks things a little.

use std::path::PathBuf;

use gravity_faults::{Kind, Options, built_server, run};

fn server() -> PathBuf {
    built_server().expect(
        "the server's program is not there: run `cargo xtask test`, or `cargo build --bin gravity` before `cargo test`",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_promise_is_kept_while_postgres_redis_and_the_server_break() {
    let kinds = vec![
        Kind::PostgresKill,
        Kind::PostgresCommit,
        Kind::ServerKillDraining,
        Kind::RedisKill,
        Kind::DiskFull,
        Kind::Damage,
        Kind::TwoNodes,
    ];
    let options = Options {
        schedules: kinds.len() as u64,
        seed: 2_026,
        first: 0,
        kinds,
        server: server(),
        evidence: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("faults"),
        keep_going: false,
    };
    let summary = run(&options, &mut |line| println!("{line}")).await.unwrap();
    assert!(
        summary.violations.is_empty(),
        "{}",
        summary.violations.join("\n\n")
    );
}
