//! The requests that have been written but not sent.

use nix::errno::Errno;

use super::choice::op_index;
use super::request::Encoder;
use super::sockets::Sockets;
use pyzor_wire::digest::Digest;
use pyzor_wire::op::Op;

/// The longest wait for room in a socket's send buffer, in nanoseconds.
const LONGEST_WAIT: u64 = 2_000_000_000;
/// The most attempts to send the same request.
const TRIES: usize = 100;

/// Unsent requests, grouped by operation because those of one operation have the same length.
#[derive(Debug)]
pub(super) struct RequestOutbox {
    batches: [RequestBatch; Op::ALL.len()],
    sent: Vec<u64>,
}

#[derive(Debug)]
struct RequestBatch {
    length: usize,
    bytes: Vec<u8>,
    threads: Vec<u64>,
}

impl RequestOutbox {
    /// Creates an empty outbox for requests of this encoder.
    pub(super) fn new(encoder: &Encoder) -> Self {
        let empty = |op| RequestBatch { length: encoder.length(op), bytes: Vec::new(), threads: Vec::new() };
        Self { batches: Op::ALL.map(empty), sent: Vec::new() }
    }

    /// Adds a request.
    pub(super) fn push(&mut self, encoder: &Encoder, op: Op, digest: &Digest, thread: u64) {
        let batch = &mut self.batches[op_index(op)];
        encoder.encode(op, digest, thread, &mut batch.bytes);
        batch.threads.push(thread);
    }

    /// Sends all requests and returns the threads of those that were sent.
    ///
    /// If the send buffer is full, waits for room if `is_patient`, otherwise calls `cancel` for the threads of the
    /// rest. Adds to `refusals` how often the server's host has reported that its port is closed.
    ///
    /// # Errors
    ///
    /// Fails if the system cannot send.
    pub(super) fn flush(
        &mut self,
        sockets: &mut Sockets,
        socket: usize,
        is_patient: bool,
        refusals: &mut u64,
        mut cancel: impl FnMut(u64),
    ) -> nix::Result<&[u64]> {
        self.sent.clear();
        for RequestBatch { length, bytes, threads } in &mut self.batches {
            let (mut next, mut tries) = (0, 0);
            while next < threads.len() {
                let (sent, outcome) = sockets.send(socket, &bytes[next * *length..], *length);
                next += sent;
                tries = if sent > 0 { 0 } else { tries + 1 };
                match outcome {
                    Ok(()) => {}
                    Err(error) if tries == TRIES => return Err(error),
                    // The error is about an earlier request; this one has not been sent.
                    Err(Errno::ECONNREFUSED) => *refusals += 1,
                    Err(Errno::EAGAIN | Errno::ENOBUFS) if !is_patient => break,
                    Err(Errno::EAGAIN | Errno::ENOBUFS) if sockets.wait_for_room(socket, LONGEST_WAIT) => {}
                    Err(error) => return Err(error),
                }
            }
            threads.drain(next..).for_each(&mut cancel);
            self.sent.append(threads);
            bytes.clear();
        }
        Ok(&self.sent)
    }
}
