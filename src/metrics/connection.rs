//! One connection: a request and its response.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::page::respond;
use super::{Observed, Transport};

/// The maximum size of a request with its header fields, in bytes. The smallest that the library permits.
pub(super) const MAX_REQUEST: usize = 8192;
/// The maximum number of header fields.
const MAX_FIELDS: usize = 64;
/// The number of bytes that are read at once.
const READ: usize = 2048;

/// Answers one request and closes the connection. A body is never read, and what follows the request is ignored.
pub(super) fn exchange(
    stream: Stream,
    transport: Transport,
    observed: Arc<dyn Observed>,
) -> impl Future<Output = ()> + Send {
    let service = service_fn(move |request| {
        let response = respond(&request, transport, observed.as_ref());
        ready(Ok::<_, Infallible>(response))
    });
    let mut server = http1::Builder::new();
    server.keep_alive(false).max_headers(MAX_FIELDS).max_header_size(MAX_REQUEST).max_buf_size(MAX_REQUEST);
    // A peer may close its side after the request.
    server.half_close(true);
    // The caller limits the time of the whole connection.
    server.header_read_timeout(None::<Duration>);
    let connection = server.serve_connection(stream, service);
    async {
        // Errors are those of the peer, which has been answered if that was possible.
        let _ = connection.await;
    }
}

/// The bytes of a connection, for hyper.
pub(super) struct Stream(Pin<Box<dyn Duplex>>);

pub(super) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

impl Stream {
    pub(super) fn new(stream: impl Duplex + 'static) -> Self {
        Self(Box::pin(stream))
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ];
        let room = buffer.remaining().min(READ);
        let mut read = ReadBuf::new(&mut bytes[..room]);
        ready!(self.0.as_mut().poll_read(context, &mut read))?;
        buffer.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(context)
    }
}
