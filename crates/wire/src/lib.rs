//! The Pyzor protocol: bytes of a datagram to values and back, for servers and clients. Knows nothing of sockets,
//! accounts or databases.
//!
//! The request format is that of RFC 822 headers as Python's `email` package reads them, which
//! the established clients were written against; what differs is in `docs/compatibility.md`.

pub mod digest;
pub mod headers;
pub mod number;
pub mod op;
pub mod reply;
pub mod reply_reader;
pub mod request;
pub mod signature;

/// The longest datagram that is looked at, in bytes; what lies beyond is cut off.
pub const MAX_DATAGRAM: usize = 8192;
