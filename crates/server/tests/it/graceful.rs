//! Starting and stopping: what a start refuses, what a stop waits for, and what survives it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gravity_test_support::builders::task;
use gravity_test_support::services::supervise::Signal;
use gravity_test_support::test_app::{TestApp, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::{buffered_task, new_task, setup, start, titles};

const TASKS: &str = "/api/v1/tasks";

#[tokio::test]
async fn sigterm_and_sigint_end_the_server_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let app = start().await;
        new_task(&app.alice(), "x").await;
        app.signal(signal);
        assert_eq!(app.ended().await, Some(0));
    }
}

#[tokio::test]
async fn a_stopping_server_says_so_before_it_refuses_connections() {
    let app = setup().set("SHUTDOWN_GRACE_SECONDS", "2").start().await;
    app.signal(Signal::TERM);
    eventually("it is not ready", || async {
        let ready = app.ready().await;
        (ready.status == 503 && ready.json()["status"] == "unavailable").then_some(())
    })
    .await;
    app.nobody().get("/live").await.must_be(200);
    app.alice()
        .post(TASKS, task("in the grace time"))
        .await
        .must_be(201);
    assert_eq!(app.ended().await, Some(0));
    assert!(
        app.nobody().get("/live").attempt().await.is_err(),
        "nobody listens"
    );
    app.start().await;
    assert_eq!(titles(&app.alice()).await, ["in the grace time"]);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let app = setup().set("SHUTDOWN_GRACE_SECONDS", "60").start().await;
    app.signal(Signal::TERM);
    eventually("it is stopping", || async {
        (app.ready().await.status == 503).then_some(())
    })
    .await;
    let since = Instant::now();
    app.signal(Signal::TERM);
    assert_eq!(app.ended().await, Some(130));
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_request_in_flight_at_the_stop_gets_its_answer() {
    let app = start().await;
    let mut stream = TcpStream::connect(("127.0.0.1", app.port())).await.unwrap();
    let body = task("in flight").to_string();
    let head = format!(
        "POST {TASKS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        app.alice().token().unwrap(),
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    eventually("the request has begun", || async {
        (app.metric("gravity_http_requests_in_flight ").await >= 2.0).then_some(())
    })
    .await;
    app.signal(Signal::TERM);
    eventually("nobody listens", || async {
        TcpStream::connect(("127.0.0.1", app.port()))
            .await
            .is_err()
            .then_some(())
    })
    .await;
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 201");
    drop(stream);
    assert_eq!(app.ended().await, Some(0));
    app.start().await;
    assert_eq!(titles(&app.alice()).await, ["in flight"]);
}

/// Writes as fast as it can until it is told to stop or the server is gone; the titles that were acknowledged.
fn write_on(app: &TestApp, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<(Uuid, Vec<String>)> {
    let (id, stop) = (Uuid::now_v7(), Arc::clone(stop));
    let actor = app.actor(id, "service");
    tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        for number in 0.. {
            let title = number.to_string();
            match actor.post(TASKS, task(&title)).attempt().await {
                Ok(answer) if [201, 202].contains(&answer.status) => acknowledged.push(title),
                Ok(answer) => panic!("{}", answer.text()),
                Err(_) => break,
            }
            if stop.load(Ordering::SeqCst) {
                break;
            }
        }
        (id, acknowledged)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_loses_nothing_acknowledged() {
    for dark in [false, true] {
        let app = setup().private_postgres().start().await;
        if dark {
            app.postgres().kill();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..6).map(|_| write_on(&app, &stop)).collect();
        eventually("there is some load", || async {
            let kind = if dark { "buffered" } else { "committed" };
            (app.metric(&format!("gravity_writes_total{{outcome=\"{kind}\"}}"))
                .await
                > 50.0)
                .then_some(())
        })
        .await;
        assert_eq!(app.terminate().await, Some(0));
        stop.store(true, Ordering::SeqCst);
        if dark {
            app.postgres().start().unwrap();
        }
        app.start().await;
        app.drained().await;
        for writer in writers {
            let (id, acknowledged) = writer.await.unwrap();
            let mut kept = titles(&app.actor(id, "service")).await;
            kept.reverse();
            // The one that was in flight may have been taken without its answer getting through.
            assert!(
                kept.starts_with(&acknowledged),
                "{} of {}",
                kept.len(),
                acknowledged.len()
            );
            assert!(kept.len() <= acknowledged.len() + 1);
        }
    }
}

#[tokio::test]
async fn what_is_buffered_at_the_stop_is_drained_by_it_or_after_the_next_start() {
    let app = setup().private_postgres().start().await;
    app.postgres().kill();
    for title in ["a", "b", "c"] {
        buffered_task(&app.alice(), title).await;
    }
    assert_eq!(app.terminate().await, Some(0));
    app.postgres().start().unwrap();
    app.start().await;
    app.drained().await;
    assert_eq!(titles(&app.alice()).await, ["c", "b", "a"]);
}

/// What `gravity` with these variables prints on stderr, and its exit status.
async fn refusal(app: &TestApp, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = app.command();
    let output = command.args(arguments).envs(variables.iter().copied()).output();
    let output = tokio::time::timeout(Duration::from_secs(20), output)
        .await
        .expect("it ends")
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn settings_that_cannot_work_stop_the_start_and_are_all_named() {
    let app = setup().prepare().await;
    let bad = [
        ("JWT_SECRET", "weak"),
        ("BUFFER_ENGINE", "paper"),
        ("SERVER_PORT", "70000"),
        ("GRAVITY__HTTP__NONSENSE", "1"),
    ];
    for arguments in [&["serve"][..], &["config", "check"]] {
        let (status, text) = refusal(&app, arguments, &bad).await;
        assert_eq!(status, Some(1), "{text}");
        for (name, _) in bad {
            assert!(
                text.lines().any(|line| line.contains(name)),
                "{name} is not in:\n{text}"
            );
        }
        assert!(!text.contains("weak\""), "a secret is shown");
    }
    for secret in ["", "short", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
        assert_eq!(
            refusal(&app, &["serve"], &[("JWT_SECRET", secret)]).await.0,
            Some(1),
            "{secret}"
        );
    }
    assert_eq!(refusal(&app, &["config", "check"], &[]).await.0, Some(0));
}

#[tokio::test]
async fn a_port_that_is_taken_stops_the_start() {
    let app = start().await;
    let buffer = app.buffer_path().with_extension("other").display().to_string();
    let (status, text) = refusal(&app, &["serve"], &[("BUFFER_PATH", &buffer)]).await;
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains(&app.port().to_string()), "{text}");
}

#[tokio::test]
async fn a_healthy_start_warns_of_nothing() {
    let app = start().await;
    new_task(&app.alice(), "x").await;
    let log = app.log();
    assert!(log.contains("the write buffer is open"), "{log}");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn port_0_takes_a_free_one_and_logs_it() {
    let mut app = setup().prepare().await;
    app.set("SERVER_PORT", "0");
    app.spawn();
    let port = eventually("the port is logged", || async {
        let log = app.log();
        let rest = log.split("http://127.0.0.1:").nth(1)?;
        rest.split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse::<u16>()
            .ok()
    })
    .await;
    assert_ne!(port, 0);
    let answer = reqwest::get(format!("http://127.0.0.1:{port}/live"))
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 200);
}

#[tokio::test]
async fn migrate_and_seed_can_be_run_again() {
    let app = setup().unmigrated().prepare().await;
    for _ in 0..2 {
        for command in [&["migrate"][..], &["seed", "--public-passwords"]] {
            let (status, text) = refusal(&app, command, &[]).await;
            assert_eq!(status, Some(0), "{text}");
        }
    }
    // Everybody's log agrees with its head, and nobody is to be notified.
    let counts = "SELECT concat_ws(' ', (SELECT count(*) FROM users), (SELECT count(*) FROM conversations),
        (SELECT count(*) FROM messages), (SELECT count(*) FROM notification_jobs),
        (SELECT count(*) FROM user_event_heads WHERE last_offset <> (
            SELECT count(*) + count(message_id) FROM user_events WHERE user_events.user_id = user_event_heads.user_id)),
        (SELECT count(*) > 10 FROM conversation_participants AS me JOIN conversation_participants AS other
            ON other.conversation_id = me.conversation_id AND other.user_id <> me.user_id
            WHERE other.sent > me.read_count))";
    let counted: String = app.sql().await.query_one(counts, &[]).await.unwrap().get(0);
    assert_eq!(counted, "11 50 1000 0 0 t");
    app.start().await;
}
