//! The usage log: formats one line per request.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use super::line::{LineStamp, push_escaped};
use super::operator::OperatorLog;
use super::sink::Sink;
use crate::record::Timestamp;
use pyzor_wire::number::push_number;
use pyzor_wire::request::ANONYMOUS;

/// The usage log of a server loop. Lines are collected in a local buffer, which is handed over once per batch.
#[derive(Debug)]
pub(crate) struct UsageLog {
    sinks: Vec<Arc<Sink>>,
    /// The log whose stderr gets a copy.
    stderr: Option<Arc<OperatorLog>>,
    lines: Vec<u8>,
    stamp: LineStamp,
    /// The time of the first collected line, used for all: they are handed over within milliseconds.
    since: Option<Timestamp>,
}

impl UsageLog {
    /// Creates a log that writes to all of these sinks, and to the stderr of this operator log; without any, it does
    /// nothing.
    pub(super) fn new(sinks: Vec<Arc<Sink>>, stderr: Option<Arc<OperatorLog>>) -> Self {
        Self { sinks, stderr, lines: Vec::new(), stamp: LineStamp::here(), since: None }
    }

    /// Creates a log without sinks.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::new(Vec::new(), None)
    }

    /// Whether there is any sink.
    pub(crate) fn enabled(&self) -> bool {
        !self.sinks.is_empty() || self.stderr.is_some()
    }

    /// Adds the line of an executed request: user, peer, operation, digests as a Python list or `None`, and the code
    /// 200.
    pub(crate) fn executed<'a>(
        &mut self,
        user: &[u8],
        peer: IpAddr,
        op: &str,
        digests: impl Iterator<Item = &'a [u8]>,
    ) {
        if !self.enabled() {
            return;
        }
        let now = *self.since.get_or_insert_with(Timestamp::now);
        let out = &mut self.lines;
        self.stamp.push(out, now, "INFO");
        push_escaped(out, if user.is_empty() { ANONYMOUS.as_bytes() } else { user }, None);
        out.push(b',');
        push_address(out, peer);
        out.push(b',');
        out.extend_from_slice(op.as_bytes());
        out.push(b',');
        push_list(out, digests);
        out.extend_from_slice(b",200\n");
    }

    /// Adds the line of a refused request: code and diagnosis.
    pub(crate) fn refused(&mut self, code: u16, diagnosis: &str) {
        if !self.enabled() {
            return;
        }
        let now = *self.since.get_or_insert_with(Timestamp::now);
        let out = &mut self.lines;
        self.stamp.push(out, now, "ERROR");
        push_number(out, i64::from(code));
        out.extend_from_slice(b": ");
        out.extend_from_slice(diagnosis.as_bytes());
        out.push(b'\n');
    }

    /// Hands the collected lines over to the sinks.
    pub(crate) fn hand_over(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        for sink in &self.sinks {
            sink.append(&self.lines);
        }
        if let Some(stderr) = &self.stderr {
            stderr.copy_usage(&self.lines);
        }
        self.lines.clear();
        self.since = None;
    }
}

fn push_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                push_number(out, i64::from(octet));
            }
        }
        // Writing into a vector cannot fail.
        IpAddr::V6(address) => {
            let _ = write!(out, "{address}");
        }
    }
}

/// Appends the texts formatted as a Python list, or `None` if there are none.
fn push_list<'a>(out: &mut Vec<u8>, texts: impl Iterator<Item = &'a [u8]>) {
    let mut separator: &[u8] = b"[";
    for text in texts {
        out.extend_from_slice(separator);
        separator = b", ";
        let quote = if text.contains(&b'\'') && !text.contains(&b'"') { b'"' } else { b'\'' };
        out.push(quote);
        push_escaped(out, text, Some(quote));
        out.push(quote);
    }
    out.extend_from_slice(if separator == b"[" { b"None" } else { b"]" });
}
