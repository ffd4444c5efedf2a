//! The private servers: start, kill, pause, restart, and never outlive the process that started them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use gravity_test_support::services::supervise::{Signal, Spec, Supervised, is_alive};
use gravity_test_support::services::{Place, Postgres, PostgresOptions, Redis, RedisOptions, poll_until};

const SOON: Duration = Duration::from_secs(10);

/// Sends `message` and waits a moment for the first byte of an answer.
fn first_answer(port: u16, message: &[u8]) -> std::io::Result<u8> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_millis(400)))?;
    stream.write_all(message)?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// The start-up message of a Postgres session, which a trusting server answers with `R`.
fn postgres_hello() -> Vec<u8> {
    let mut body = 196_608_i32.to_be_bytes().to_vec();
    body.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
    let length = i32::try_from(body.len() + 4).unwrap();
    [length.to_be_bytes().to_vec(), body].concat()
}

fn postgres_answers(port: u16) -> bool {
    first_answer(port, &postgres_hello()).is_ok_and(|byte| byte == b'R')
}

fn redis_answers(port: u16) -> bool {
    first_answer(port, b"PING\r\n").is_ok_and(|byte| byte == b'+')
}

#[test]
fn postgres_comes_back_on_the_same_port_and_data_after_a_kill() {
    let server = Postgres::start_private().unwrap();
    let (port, pid) = (server.port(), server.pid().unwrap());
    assert!(postgres_answers(port));

    server.kill();
    assert!(!is_alive(pid));
    assert!(!postgres_answers(port));
    assert_eq!(server.pid(), None);

    server.start().unwrap();
    assert_eq!(server.port(), port);
    assert!(postgres_answers(port));

    server.stop();
    assert!(!postgres_answers(port));
    server.start().unwrap();
    assert!(postgres_answers(port));
}

#[test]
fn a_paused_postgres_accepts_connections_and_answers_nothing() {
    let server = Postgres::start_private().unwrap();
    server.pause().unwrap();
    let error = first_answer(server.port(), &postgres_hello()).unwrap_err();
    assert!(
        matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
        "{error}"
    );
    server.resume().unwrap();
    assert!(poll_until(SOON, || postgres_answers(server.port())));
    server.pause().unwrap();
    server.kill();
    assert!(server.pause().is_err());
}

#[test]
fn a_postgres_killed_from_outside_can_be_started_again() {
    let server = Postgres::start_private().unwrap();
    let pid = server.pid().unwrap();
    assert!(
        Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
    assert!(poll_until(SOON, || server.pid().is_none()));
    server.start().unwrap();
    assert!(postgres_answers(server.port()));
}

#[test]
fn kept_postgres_data_is_used_again_and_asks_for_the_password() {
    let home = tempfile::tempdir().unwrap();
    open_to_all(home.path());
    let options = PostgresOptions {
        place: Place::Kept(home.path().join("postgres")),
        password: Some("a-secret".into()),
        fsync: true,
        database: Some("gravity".into()),
        ..PostgresOptions::default()
    };
    let first = Postgres::launch(options.clone()).unwrap();
    assert!(first.url("gravity").contains("postgres:a-secret@127.0.0.1"));
    let control = home.path().join("postgres/data/global/pg_control");
    let made = std::fs::metadata(home.path().join("postgres/data/PG_VERSION"))
        .unwrap()
        .modified()
        .unwrap();
    drop(first);
    assert!(control.exists());

    let second = Postgres::launch(options).unwrap();
    assert_eq!(
        std::fs::metadata(home.path().join("postgres/data/PG_VERSION"))
            .unwrap()
            .modified()
            .unwrap(),
        made
    );
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, second.port()));
    let mut session = TcpStream::connect(address).unwrap();
    session.write_all(&postgres_hello()).unwrap();
    let mut answer = [0; 9];
    session.read_exact(&mut answer).unwrap();
    assert_eq!((answer[0], answer[8]), (b'R', 10), "SASL is asked for");
}

#[test]
fn redis_can_be_killed_paused_and_started_again() {
    let server = Redis::start_private().unwrap();
    let port = server.port();
    assert!(redis_answers(port));
    server.pause().unwrap();
    assert!(!redis_answers(port));
    server.resume().unwrap();
    assert!(redis_answers(port));
    server.kill();
    assert!(!redis_answers(port));
    server.start().unwrap();
    assert_eq!(server.port(), port);
    assert!(redis_answers(port));
}

#[test]
fn a_durable_redis_keeps_its_data_over_a_restart() {
    let home = tempfile::tempdir().unwrap();
    open_to_all(home.path());
    let place = Place::Kept(home.path().join("redis"));
    let server = Redis::launch(RedisOptions {
        place,
        port: None,
        durable: true,
        ..RedisOptions::default()
    })
    .unwrap();
    assert_eq!(first_answer(server.port(), b"SET key value\r\n").unwrap(), b'+');
    server.stop();
    server.start().unwrap();
    assert_eq!(first_answer(server.port(), b"EXISTS key\r\n").unwrap(), b':');
    assert_eq!(first_answer(server.port(), b"GET key\r\n").unwrap(), b'$');
}

#[test]
fn a_port_that_is_taken_fails_the_start_with_the_servers_own_words() {
    let first = Redis::start_private().unwrap();
    let taken = Some(first.port());
    let error = Postgres::launch(PostgresOptions {
        port: taken,
        ..PostgresOptions::default()
    })
    .unwrap_err();
    assert!(error.to_string().contains("Address already in use"), "{error}");
    let error = Redis::launch(RedisOptions {
        port: taken,
        ..RedisOptions::default()
    })
    .unwrap_err();
    assert!(error.to_string().contains("did not start"), "{error}");
}

#[test]
fn the_whole_family_is_killed_together() {
    let script = "sh -c 'sleep 1000 & wait' & wait";
    let command = ["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let process = Supervised::start(&spec(&command)).unwrap();
    let family = || gravity_test_support::services::supervise::descendants(process.pid());
    assert!(poll_until(SOON, || family().len() == 2));
    let members = family();
    process.kill();
    assert!(members.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn an_orderly_stop_tells_whether_the_program_obeyed() {
    let command = ["sleep".to_owned(), "1000".to_owned()];
    assert!(
        Supervised::start(&spec(&command))
            .unwrap()
            .stop(Signal::TERM, SOON)
    );
    let stubborn = [
        "sh".to_owned(),
        "-c".to_owned(),
        "trap '' TERM; while :; do sleep 1; done".to_owned(),
    ];
    let process = Supervised::start(&spec(&stubborn)).unwrap();
    assert!(poll_until(SOON, || {
        !gravity_test_support::services::supervise::descendants(process.pid()).is_empty()
    }));
    assert!(!process.stop(Signal::TERM, Duration::from_millis(50)));
}

/// Runs itself again as a process that starts servers, and kills that process.
#[test]
fn servers_and_their_files_go_when_the_process_that_started_them_is_killed() {
    const ROLE: &str = "HOLD_SERVERS_UNTIL_KILLED";
    if std::env::var_os(ROLE).is_some() {
        return hold_servers_until_killed();
    }
    let name = "servers_and_their_files_go_when_the_process_that_started_them_is_killed";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ROLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let line = output
        .lines()
        .map_while(Result::ok)
        .find(|line| line.contains("started "))
        .unwrap();
    let words: Vec<&str> = line[line.find("started ").unwrap()..]
        .split_whitespace()
        .skip(1)
        .collect();
    let pids: Vec<u32> = words[..2].iter().map(|word| word.parse().unwrap()).collect();
    let homes = &words[2..];
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    assert!(homes.iter().all(|home| Path::new(home).exists()));

    child.kill().unwrap();
    child.wait().unwrap();
    assert!(poll_until(SOON, || pids.iter().all(|pid| !is_alive(*pid))));
    assert!(poll_until(SOON, || homes
        .iter()
        .all(|home| !Path::new(home).exists())));
}

#[allow(clippy::print_stdout)] // how the test that runs this learns what was started
fn hold_servers_until_killed() {
    let (postgres, redis) = (
        Postgres::start_private().unwrap(),
        Redis::start_private().unwrap(),
    );
    println!(
        "started {} {} {} {}",
        postgres.pid().unwrap(),
        redis.pid().unwrap(),
        postgres.directory().display(),
        redis.directory().display()
    );
    poll_until(Duration::from_secs(60), || false);
}

fn spec(command: &[String]) -> Spec<'_> {
    Spec {
        command,
        env: &[],
        log: None,
        account: None,
        directory: None,
        last_signal: "TERM",
        trash: None,
    }
}

/// Lets the servers' own account pass through a directory that is ours.
fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}
