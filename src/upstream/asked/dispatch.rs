//! What goes to a server, and what comes of it.

use std::net::SocketAddr;
use std::time::Duration;

use pyzor_wire::reply::RecordCounts;

use super::{ServerId, SocketId};

/// What a datagram contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The question with this number.
    Question(u64),
    Ping,
}

/// A datagram to send from a socket, which must be opened first if it is new.
#[derive(Debug)]
pub(in crate::upstream) struct Dispatch {
    pub(in crate::upstream) server: ServerId,
    pub(in crate::upstream) socket: SocketId,
    /// The address that the socket is connected to.
    pub(in crate::upstream) address: SocketAddr,
    pub(in crate::upstream) datagram: Vec<u8>,
    pub(super) content: Content,
    pub(super) thread: u16,
}

/// What came of a [`Dispatch`].
#[derive(Debug)]
pub(in crate::upstream) enum DispatchOutcome {
    Sent,
    /// The send buffer is full, which says nothing about the server.
    Blocked,
    /// The server cannot be reached, for this reason.
    Failed(String),
}

/// How a server replied to a question, or that it did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct Response {
    /// The number of the question.
    pub(in crate::upstream) question: u64,
    /// The counts, if the server answered in time and did not refuse.
    pub(in crate::upstream) counts: Option<RecordCounts>,
}

/// What operators should know.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::upstream) enum ServerEvent {
    /// The server has become unavailable, for this reason.
    Gone(String),
    /// The server answers questions again, after an outage of this length.
    Back(Duration),
    /// The server has refused a question with this code.
    Refused(u16),
}

/// Whether a server takes a question now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::upstream) enum Readiness {
    Unready,
    /// One question, on trial.
    OneQuestion,
    Ready,
}
