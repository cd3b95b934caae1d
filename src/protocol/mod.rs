//! Bytes of a datagram to values and back. Knows nothing of sockets, accounts or engines.
//!
//! The request format is that of RFC 822 headers as Python's `email` package reads them, which
//! the established clients were written against; what differs is in `docs/compatibility.md`.

pub mod headers;
pub mod number;
pub mod op;
pub mod reply;
pub mod request;

/// The longest datagram that is looked at, in bytes; what lies beyond is cut off.
pub const MAX_DATAGRAM: usize = 8192;
