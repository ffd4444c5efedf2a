//! Over a socket: what only shows with bytes that come late, or too many.

use crate::world::World;
use actix_web::web;
use gravity_api::ServeSettings;
use serde_json::json;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn serve(world: &World) -> SocketAddr {
    let state = web::Data::new(world.state());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let settings = ServeSettings {
        workers: Some(1),
        ..ServeSettings::default()
    };
    actix_web::rt::spawn(gravity_api::serve(state, listener, settings).unwrap());
    address
}

/// Sends `parts` and reads until the server closes or has been silent for a second.
async fn exchange(address: SocketAddr, parts: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    for part in parts {
        if stream.write_all(part).await.is_err() {
            break;
        }
    }
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(Ok(read @ 1..)) = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut chunk)).await
    {
        answer.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(length: usize, who: &str) -> Vec<u8> {
    format!(
        "POST /api/v1/tasks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {who}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    )
    .into_bytes()
}

#[actix_web::test]
async fn a_body_that_does_not_arrive_in_time_is_408() {
    let mut world = World::new();
    world.http.body_timeout = Duration::from_millis(100);
    let answer = exchange(serve(&world), &[&post(50, "alice"), b"{\"title\":"]).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("\"code\":\"request_timeout\""));
}

#[actix_web::test]
async fn a_client_that_writes_all_of_a_large_body_first_sees_the_413() {
    let address = serve(&World::new());
    let body = vec![b' '; 700_000];
    let answer = exchange(address, &[&post(body.len(), "alice"), &body]).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let chunked = b"POST /api/v1/tasks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer alice\r\n\
        content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n11170\r\n";
    let answer = exchange(address, &[chunked, &body[..70_000], b"\r\n0\r\n\r\n"]).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[actix_web::test]
async fn a_refused_request_leaves_the_connection_usable_or_closes_it() {
    let address = serve(&World::new());
    let body = json!({ "title": "a" }).to_string();
    let (refused, good) = (post(body.len(), "nobody"), post(body.len(), "alice"));
    let answer = exchange(address, &[&refused, body.as_bytes(), &good, body.as_bytes()]).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let second = answer
        .match_indices("HTTP/1.1 ")
        .nth(1)
        .map(|(at, _)| &answer[at..at + 12]);
    assert!(second.is_none_or(|status| status == "HTTP/1.1 201"), "{answer}");
}

#[actix_web::test]
async fn head_has_no_body_on_the_wire() {
    let head = b"HEAD /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = exchange(serve(&World::new()), &[head]).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
    let head = b"HEAD /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = exchange(serve(&World::new()), &[head]).await;
    assert!(
        answer.starts_with("HTTP/1.1 404") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}
