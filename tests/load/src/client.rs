//! The cheapest HTTP/1.1 client there can be, so that on two cores the generator leaves most of them to the server:
//! one connection, one request at a time, prepared bytes.

use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One keep-alive connection.
pub(crate) struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The whole of it.
    bytes: Vec<u8>,
    /// How much of that is status line and headers.
    head: usize,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.body()).unwrap_or_default()
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    pub(crate) fn header(&self, wanted: &str) -> Option<&str> {
        let head = std::str::from_utf8(&self.bytes[..self.head]).ok()?;
        head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    }
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            stream: None,
            buffer: Vec::with_capacity(32 << 10),
        }
    }

    /// Sends a whole request and reads the whole answer; reconnects after an error.
    pub(crate) async fn send(&mut self, request: &[u8]) -> io::Result<Answer> {
        let (status, head, end) = self.exchange(request).await?;
        Ok(Answer {
            status,
            bytes: self.buffer[..end].to_vec(),
            head,
        })
    }

    /// The same, when nothing but the status is wanted: the answer is read and not copied.
    pub(crate) async fn status_of(&mut self, request: &[u8]) -> io::Result<u16> {
        self.exchange(request).await.map(|(status, ..)| status)
    }

    /// The status, and where the head and the whole answer end in the buffer.
    async fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, usize, usize)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        stream.write_all(request).await?;
        let ends = self.read(&mut stream).await?;
        self.stream = Some(stream);
        Ok(ends)
    }

    async fn read(&mut self, stream: &mut TcpStream) -> io::Result<(u16, usize, usize)> {
        self.buffer.clear();
        let head = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            fill(stream, &mut self.buffer).await?;
        };
        let (status, length) = parse(&self.buffer[..head])?;
        while self.buffer.len() < head + length {
            fill(stream, &mut self.buffer).await?;
        }
        Ok((status, head, head + length))
    }
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    match stream.read_buf(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn parse(head: &[u8]) -> io::Result<(u16, usize)> {
    let text = std::str::from_utf8(head).map_err(io::Error::other)?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    let status = status.ok_or_else(|| io::Error::other("no status line"))?;
    Ok((status, length.unwrap_or(0)))
}

/// The bytes of a request with a JSON body, or none.
pub(crate) fn request(
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&serde_json::Value>,
) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: gravity\r\nAccept: application/json\r\n");
    if let Some(token) = token {
        head.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    let body = body.map(ToString::to_string).unwrap_or_default();
    if !body.is_empty() {
        head.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ));
    }
    head.push_str("\r\n");
    head.push_str(&body);
    head.into_bytes()
}
