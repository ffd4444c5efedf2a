//! An HTTP server that answers as it is told and remembers what it got.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map_or_else(|| panic!("no {name}"), |(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct Got {
    connections: usize,
    requests: Vec<Request>,
}

/// Closed when it is dropped.
pub(crate) struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Got>>,
    serving: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Receiver {
    /// Each answer is a status, and header lines after it. A request beyond them gets none.
    pub(crate) async fn start(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let got: Arc<Mutex<Got>> = Arc::default();
        let (seen, answers) = (
            Arc::clone(&got),
            Vec::from_iter(answers.iter().map(ToString::to_string)),
        );
        let serving = tokio::spawn(async move {
            let mut answers = answers.into_iter();
            while let Ok((stream, _)) = listener.accept().await {
                seen.lock().unwrap().connections += 1;
                answer(stream, &mut answers, &seen).await;
            }
        });
        Self {
            address,
            got,
            serving,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.got.lock().unwrap().connections
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.got.lock().unwrap().requests.clone()
    }

    pub(crate) fn only_request(&self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1);
        requests.remove(0)
    }
}

/// One request of one connection.
async fn answer(mut stream: TcpStream, answers: &mut impl Iterator<Item = String>, seen: &Mutex<Got>) {
    let mut bytes = Vec::new();
    let request = loop {
        if let Some(request) = parse(&bytes) {
            break request;
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let Some(answer) = answers.next() else { return };
    seen.lock().unwrap().requests.push(request);
    let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.shutdown().await.ok();
}

fn parse(bytes: &[u8]) -> Option<Request> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let line = lines.next()?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, length)| length.parse().unwrap());
    let body = &bytes[end + 4..];
    (body.len() >= length).then(|| Request {
        line,
        headers,
        body: body.to_vec(),
    })
}
