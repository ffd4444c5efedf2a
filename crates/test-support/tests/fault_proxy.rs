//! The fault proxy against an echo server.
#![cfg(feature = "fault-proxy")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gravity_test_support::services::fault_proxy::{Direction, FaultProxy};
use gravity_test_support::services::poll_until;

const SOON: Duration = Duration::from_secs(5);

/// Echoes, and remembers all it was sent.
struct Echo {
    address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, log) = (stream.unwrap(), Arc::clone(&log));
                std::thread::spawn(move || {
                    let mut buffer = [0; 65_536];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        log.lock().unwrap().extend_from_slice(&buffer[..length]);
                        if stream.write_all(&buffer[..length]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, received }
    }

    fn has_received(&self, text: &[u8]) -> bool {
        self.received
            .lock()
            .unwrap()
            .windows(text.len())
            .any(|window| window == text)
    }
}

fn pair() -> (Echo, FaultProxy) {
    let echo = Echo::start();
    let proxy = FaultProxy::start(echo.address).unwrap();
    (echo, proxy)
}

fn connect(proxy: &FaultProxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn echoes(stream: &mut TcpStream, text: &[u8]) -> bool {
    let mut answer = vec![0; text.len()];
    stream.write_all(text).is_ok() && stream.read_exact(&mut answer).is_ok() && answer == text
}

/// Reads until the connection ends; what came before that.
fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return all,
            Ok(length) => all.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("still open: {error}"),
        }
    }
}

#[test]
fn bytes_pass_both_ways_and_a_closed_side_is_passed_on() {
    let (_echo, proxy) = pair();
    let mut stream = connect(&proxy);
    assert!(echoes(&mut stream, b"hello"));
    let large = vec![7; 500_000];
    let mut writer = stream.try_clone().unwrap();
    let sent = large.clone();
    let sender = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    assert_eq!(until_closed(&mut stream), large);
    sender.join().unwrap();
    assert!(poll_until(SOON, || proxy.open() == 0));
}

#[test]
fn refusing_turns_new_connections_away_and_leaves_old_ones() {
    let (_echo, proxy) = pair();
    let mut old = connect(&proxy);
    assert!(echoes(&mut old, b"before"));
    proxy.refuse();
    assert_eq!(until_closed(&mut connect(&proxy)), b"");
    assert!(echoes(&mut old, b"still here"));
    proxy.pass();
    assert!(echoes(&mut connect(&proxy), b"again"));
    assert_eq!(proxy.accepted(), 3);
}

#[test]
fn a_cut_ends_current_connections_and_new_ones_work() {
    let (_echo, proxy) = pair();
    let (mut first, mut second) = (connect(&proxy), connect(&proxy));
    assert!(echoes(&mut first, b"one") && echoes(&mut second, b"two"));
    proxy.cut();
    assert_eq!(until_closed(&mut first), b"");
    assert_eq!(until_closed(&mut second), b"");
    assert!(echoes(&mut connect(&proxy), b"three"));
}

#[test]
fn a_black_hole_keeps_connections_and_gives_back_what_it_caught() {
    let (echo, proxy) = pair();
    let mut old = connect(&proxy);
    assert!(echoes(&mut old, b"before"));
    proxy.black_hole();
    let mut new = connect(&proxy);
    for stream in [&mut old, &mut new] {
        stream.write_all(b"into the dark").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let error = stream.read(&mut [0; 8]).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "{error}"
        );
    }
    assert!(!echo.has_received(b"into the dark"));
    proxy.pass();
    for stream in [&mut old, &mut new] {
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut answer = [0; 13];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"into the dark");
    }
    proxy.black_hole();
    proxy.cut();
    assert_eq!(until_closed(&mut old), b"");
}

#[test]
fn a_cut_before_a_match_keeps_the_message_from_the_server() {
    let (echo, proxy) = pair();
    let mut stream = connect(&proxy);
    proxy.cut_before_next_match(Direction::ToServer, "COMMIT");
    assert!(echoes(&mut stream, b"INSERT"));
    stream.write_all(b"..COMMIT..").unwrap();
    assert_eq!(until_closed(&mut stream), b"");
    assert!(!echo.has_received(b"COMMIT"));
    assert_eq!(proxy.rule_cuts(), 1);
    assert!(echoes(&mut connect(&proxy), b"COMMIT"), "the rule is spent");
}

#[test]
fn a_cut_after_a_match_lets_the_message_through() {
    let (echo, proxy) = pair();
    let mut stream = connect(&proxy);
    proxy.cut_after_next_match(Direction::ToServer, "COMMIT");
    stream.write_all(b"COMMIT").unwrap();
    assert_eq!(until_closed(&mut stream), b"");
    assert!(poll_until(SOON, || echo.has_received(b"COMMIT")));

    let mut stream = connect(&proxy);
    proxy.cut_after_next_match(Direction::ToClient, "done");
    stream.write_all(b"done").unwrap();
    assert_eq!(until_closed(&mut stream), b"done");
    assert_eq!(proxy.rule_cuts(), 2);
}

#[test]
fn a_lost_answer_means_the_server_acted_and_the_client_never_heard() {
    let (echo, proxy) = pair();
    let mut stream = connect(&proxy);
    assert!(echoes(&mut stream, b"BEGIN"));
    proxy.lose_answer("COMMIT", "ready");
    stream.write_all(b"COMMIT, then rea").unwrap();
    assert!(poll_until(SOON, || echo.has_received(b"COMMIT")));
    assert_eq!(proxy.rule_cuts(), 0, "the answer has not ended yet");
    stream.write_all(b"dy").unwrap();
    assert_eq!(until_closed(&mut stream), b"");
    assert_eq!(proxy.rule_cuts(), 1);
}

#[test]
fn a_pattern_split_over_two_writes_is_seen() {
    let (_echo, proxy) = pair();
    let mut stream = connect(&proxy);
    proxy.cut_before_next_match(Direction::ToServer, "COMMIT");
    assert!(echoes(&mut stream, b"..COM"));
    stream.write_all(b"MIT").unwrap();
    assert_eq!(until_closed(&mut stream), b"");
}

#[test]
fn a_rule_that_was_disarmed_does_nothing() {
    let (_echo, proxy) = pair();
    proxy.cut_before_next_match(Direction::ToServer, "COMMIT");
    proxy.disarm();
    assert!(echoes(&mut connect(&proxy), b"COMMIT"));
}

#[test]
fn delay_and_limit_slow_the_answer_down() {
    let (_echo, proxy) = pair();
    let mut stream = connect(&proxy);
    proxy.delay(Duration::from_millis(60));
    let start = Instant::now();
    assert!(echoes(&mut stream, b"slow"));
    assert!(start.elapsed() >= Duration::from_millis(120), "once each way");

    proxy.delay(Duration::ZERO);
    proxy.limit(NonZeroU32::new(20_000));
    let start = Instant::now();
    assert!(echoes(&mut stream, &[1; 2_000]));
    assert!(start.elapsed() >= Duration::from_millis(200), "100 ms each way");
}

#[test]
fn an_upstream_that_is_down_closes_the_connection() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let proxy = FaultProxy::start(free).unwrap();
    assert_eq!(until_closed(&mut connect(&proxy)), b"");
}
