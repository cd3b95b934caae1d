//! A client of HTTP, with one request per connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::PATIENCE;

/// A response.
#[derive(Debug)]
pub(crate) struct HttpResponse {
    pub(crate) code: u16,
    /// The status line and the fields.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl HttpResponse {
    /// Parses all bytes of a connection; none if they are no response.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let code = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
        Some(Self { code, head: head.to_owned(), body: body.to_owned() })
    }

    /// Parses the body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns the value of a series on a page of metrics, written as on the page.
    #[track_caller]
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let lines = self.body.lines();
        let value = lines.filter_map(|line| line.rsplit_once(' ')).find(|(name, _)| *name == series);
        let (_, value) = value.unwrap_or_else(|| panic!("there is no {series}:\n{}", self.body));
        value.parse().unwrap()
    }
}

/// Connects to a server, with a time limit for reads.
pub(crate) fn http_connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes and returns everything that the server sends before it closes the connection; fewer bytes if it resets
/// the connection.
pub(crate) fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Vec<u8> {
    // The server may have closed the connection before it has read everything.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return bytes,
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return bytes,
            Err(error) => panic!("no end of the response: {error}"),
        }
    }
}

/// Returns the response to `GET`.
#[track_caller]
pub(crate) fn http_get(server: SocketAddr, target: &str) -> HttpResponse {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    let bytes = exchange(http_connect(server), request.as_bytes());
    HttpResponse::parse(&bytes).unwrap_or_else(|| panic!("no response to {target}: {}", bytes.escape_ascii()))
}

/// Returns the response to `GET` on a Unix socket.
#[track_caller]
pub(crate) fn http_get_local(socket: &Path, target: &str) -> HttpResponse {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let bytes = exchange(stream, format!("GET {target} HTTP/1.1\r\nHost: pyzord\r\n\r\n").as_bytes());
    HttpResponse::parse(&bytes).unwrap_or_else(|| panic!("no response to {target}: {}", bytes.escape_ascii()))
}
