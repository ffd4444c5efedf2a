//! The connection itself: kept alive, too slow, or full of rubbish.

use std::time::Duration;

use gravity_test_support::test_app::TestApp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{setup, start};

async fn connect(app: &TestApp) -> TcpStream {
    TcpStream::connect(("127.0.0.1", app.port())).await.unwrap()
}

/// Reads until the server closes, or it has all that was asked for.
async fn read_until(stream: &mut TcpStream, enough: impl Fn(&str) -> bool) -> String {
    let mut text = Vec::new();
    let mut chunk = [0; 4_096];
    let reading = async {
        while !enough(&String::from_utf8_lossy(&text)) {
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(length) => text.extend_from_slice(&chunk[..length]),
            }
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), reading).await;
    assert!(
        in_time.is_ok(),
        "still waiting after: {}",
        String::from_utf8_lossy(&text)
    );
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let app = start().await;
    let mut stream = connect(&app).await;
    for _ in 0..3 {
        stream
            .write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let answer = read_until(&mut stream, |text| text.contains("uptimeSeconds")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_stops_half_way_is_answered_408() {
    let app = setup()
        .set("GRAVITY__HTTP__BODY_TIMEOUT_SECONDS", "1")
        .start()
        .await;
    let mut stream = connect(&app).await;
    let token = app.alice().token().unwrap().to_owned();
    let head = format!(
        "POST /api/v1/tasks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{\"title\":"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, |text| text.contains("requestId")).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("\"code\":\"request_timeout\""), "{answer}");
}

#[tokio::test]
async fn a_request_whose_head_never_ends_is_answered_408() {
    let app = setup()
        .set("GRAVITY__HTTP__HEADER_TIMEOUT_SECONDS", "1")
        .start()
        .await;
    let mut stream = connect(&app).await;
    stream
        .write_all(b"GET /live HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn rubbish_on_the_line_is_refused_and_hurts_nobody_else() {
    let app = start().await;
    let huge = format!("GET /live HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(400_000));
    let both = "POST /api/v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let lines: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
        b"GET /live HTTP/9.9\r\n\r\n",
        huge.as_bytes(),
        both.as_bytes(),
    ];
    for line in lines {
        let mut stream = connect(&app).await;
        let _ = stream.write_all(line).await;
        let _ = stream.shutdown().await;
        let answer = read_until(&mut stream, |_| false).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    app.nobody().get("/live").await.must_be(200);
}

/// A text frame of a client, with a mask of zeros.
fn masked(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    assert!(length < 126);
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat()
}

#[tokio::test]
async fn a_socket_loses_nothing_of_what_came_with_its_handshake_or_before() {
    let app = start().await;
    let token = app.alice().token().unwrap().to_owned();
    let handshake = format!(
        "GET /live HTTP/1.1\r\nhost: x\r\n\r\n\
         GET /api/chat/ws HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let first = masked(r#"{"type":"ping","id":"one"}"#);
    let (half, rest) = first.split_at(9);
    let mut stream = connect(&app).await;
    stream
        .write_all(&[handshake.as_bytes(), half].concat())
        .await
        .unwrap();
    let greeted = read_until(&mut stream, |text| text.contains("101 Switching Protocols")).await;
    assert!(greeted.contains("uptimeSeconds"), "{greeted}");
    stream.write_all(rest).await.unwrap();
    stream
        .write_all(&masked(r#"{"type":"ping","id":"two"}"#))
        .await
        .unwrap();
    let heard = read_until(&mut stream, |text| text.contains("two")).await;
    let place = |word: &str| heard.find(word).unwrap_or_else(|| panic!("{word}: {heard}"));
    assert!(
        place("ready") < place("one") && place("one") < place("two"),
        "{heard}"
    );
}
