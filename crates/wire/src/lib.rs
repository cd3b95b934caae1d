//! The Pyzor protocol: parses and writes datagrams, for servers and clients. Independent of sockets, accounts and
//! databases.
//!
//! A request consists of RFC 822 headers as Python's `email` package parses them, because the established clients and
//! servers use that package. `docs/compatibility.md` lists the differences.

pub mod digest;
pub mod forward_id;
pub mod headers;
pub mod local_only;
pub mod number;
pub mod op;
pub mod reply;
pub mod reply_reader;
pub mod request;
pub mod request_writer;
pub mod signature;

/// The longest datagram that is parsed, in bytes. Longer ones are truncated.
pub const MAX_DATAGRAM: usize = 8192;
