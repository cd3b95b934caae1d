//! Packets of the MySQL protocol, and the kinds of connections.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustls::{ServerConnection, StreamOwned};

/// A client's connection.
pub(crate) enum Wire {
    Tcp(TcpStream),
    Socket(UnixStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Wire {
    pub(crate) fn set_read_timeout(&self, limit: Duration) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(limit)),
            Self::Socket(stream) => stream.set_read_timeout(Some(limit)),
            Self::Tls(stream) => stream.sock.set_read_timeout(Some(limit)),
        }
    }

    /// Whether the connection cannot be read by others: TLS, or a Unix socket.
    pub(crate) fn is_safe(&self) -> bool {
        !matches!(self, Self::Tcp(_))
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Socket(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Socket(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Socket(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Reads a packet, and returns its number and content.
pub(crate) fn receive(stream: &mut impl Read) -> std::io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 4];
    stream.read_exact(&mut header)?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]);
    let mut content = vec![0; length as usize];
    stream.read_exact(&mut content)?;
    Ok((header[3], content))
}

pub(crate) fn send(stream: &mut impl Write, number: u8, content: &[u8]) -> std::io::Result<()> {
    let mut packet = u32::try_from(content.len()).unwrap().to_le_bytes();
    packet[3] = number;
    stream.write_all(&[&packet, content].concat())?;
    stream.flush()
}

/// Forwards all data in both directions until one side closes its connection or `is_over` returns true.
pub(crate) fn relay(
    client: &mut Wire,
    server: &mut UnixStream,
    is_over: impl Fn() -> bool,
) -> std::io::Result<()> {
    const TURN: Duration = Duration::from_millis(1);
    client.set_read_timeout(TURN)?;
    server.set_read_timeout(Some(TURN))?;
    let mut buffer = [0; 65_536];
    let is_idle =
        |error: &std::io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    loop {
        if is_over() {
            return Ok(());
        }
        match client.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => server.write_all(&buffer[..length])?,
            Err(error) if is_idle(&error) => {}
            Err(error) => return Err(error),
        }
        match server.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                client.write_all(&buffer[..length])?;
                client.flush()?;
            }
            Err(error) if is_idle(&error) => {}
            Err(error) => return Err(error),
        }
    }
}
