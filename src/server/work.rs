//! The requests of one received batch that need the engine, with the data for their replies.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use tracing::debug;

use super::admission::RequestMarks;
use super::finished::{CountedDigests, FinishedRequest, LookedUpDigest, UsageFields};
use crate::handler::{Decision, NextStep, counted, looked_up};
use crate::record::TallyKind;
use crate::storage::Batch;
use crate::storage::batch::{Increment, LookUp};
use pyzor_udp::ReplyTo;
use pyzor_wire::digest::Digest;
use pyzor_wire::op::Op;
use pyzor_wire::request::Request;

/// Requests that wait for the engine. The data for their replies is copied into reused buffers, because the received
/// datagrams are overwritten in the meantime.
#[derive(Debug)]
pub(super) struct EngineWork {
    /// The start of the wait for the engine.
    waiting: Instant,
    text: Vec<u8>,
    digests: Vec<Digest>,
    requests: Vec<EngineRequest>,
    /// The marks of signed and forwarded requests, by ascending index of the request.
    marks: Vec<(usize, RequestMarks)>,
    positions: Vec<OutcomePosition>,
    increments: Vec<Increment>,
}

#[derive(Debug)]
struct EngineRequest {
    reply_to: ReplyTo,
    op: Op,
    thread: Range<usize>,
    operation: EngineOperation,
    usage: Option<UsageRanges>,
}

#[derive(Debug)]
enum EngineOperation {
    LookUp(LookedUpDigest),
    Count(TallyKind, Range<usize>),
}

/// The position of a request's outcome in a batch.
#[derive(Debug)]
enum OutcomePosition {
    LookUp(LookUp),
    Count(Range<usize>),
}

#[derive(Debug)]
struct UsageRanges {
    user: Range<usize>,
    digests: Range<usize>,
}

impl Default for EngineWork {
    fn default() -> Self {
        Self {
            waiting: Instant::now(),
            text: Vec::new(),
            digests: Vec::new(),
            requests: Vec::new(),
            marks: Vec::new(),
            positions: Vec::new(),
            increments: Vec::new(),
        }
    }
}

impl EngineWork {
    /// Removes all requests and keeps the buffers.
    pub(super) fn restart(&mut self) {
        self.text.clear();
        self.digests.clear();
        self.requests.clear();
        self.marks.clear();
    }

    /// Records the start of the wait for the engine.
    pub(super) fn wait_from(&mut self, now: Instant) {
        self.waiting = now;
    }

    /// The start of the wait for the engine.
    pub(super) fn waiting_since(&self) -> Instant {
        self.waiting
    }

    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// The number of digests in all requests, or a little more.
    pub(super) fn digests(&self) -> usize {
        // A look-up stores its digest in the request.
        self.digests.len() + self.requests.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Adds a request to look up a record.
    pub(super) fn look_up(
        &mut self,
        reply_to: ReplyTo,
        request: &Request<'_>,
        op: Op,
        digest: LookedUpDigest,
        log: bool,
    ) {
        self.push(reply_to, request, op, EngineOperation::LookUp(digest), log);
    }

    /// Adds a request to count reports or whitelistings.
    pub(super) fn count(
        &mut self,
        reply_to: ReplyTo,
        request: &Request<'_>,
        op: Op,
        kind: TallyKind,
        digests: &[Digest],
        log: bool,
    ) {
        let start = self.digests.len();
        self.digests.extend_from_slice(digests);
        self.push(reply_to, request, op, EngineOperation::Count(kind, start..self.digests.len()), log);
    }

    /// Adds the marks of the request added last.
    pub(super) fn mark(&mut self, marks: RequestMarks) {
        self.marks.push((self.requests.len() - 1, marks));
    }

    /// The marks of all requests that have any.
    pub(super) fn marks(&self) -> impl Iterator<Item = RequestMarks> {
        self.marks.iter().map(|(_, marks)| *marks)
    }

    fn push(
        &mut self,
        reply_to: ReplyTo,
        request: &Request<'_>,
        op: Op,
        operation: EngineOperation,
        log: bool,
    ) {
        let thread = self.copy(request.thread);
        let usage = log.then(|| {
            let user = self.copy(request.user);
            let start = self.text.len();
            for digest in request.digests() {
                // The separator is a line end, which a folded value may contain.
                self.text.extend(digest.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
                self.text.push(b'\n');
            }
            UsageRanges { user, digests: start..self.text.len().saturating_sub(1).max(start) }
        });
        self.requests.push(EngineRequest { reply_to, op, thread, operation, usage });
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        start..self.text.len()
    }

    /// Appends the operations of all requests to a batch.
    pub(super) fn plan(&mut self, batch: &mut Batch) {
        self.positions.clear();
        self.increments.clear();
        for request in &self.requests {
            self.positions.push(match &request.operation {
                EngineOperation::LookUp(LookedUpDigest { digest, .. }) => {
                    OutcomePosition::LookUp(match request.op {
                        Op::Info => batch.look_up(*digest),
                        _ => batch.look_up_counts(*digest),
                    })
                }
                EngineOperation::Count(kind, digests) => {
                    let start = self.increments.len();
                    let digests = &self.digests[digests.clone()];
                    self.increments.extend(digests.iter().map(|digest| batch.increment(*digest, *kind)));
                    OutcomePosition::Count(start..self.increments.len())
                }
            });
        }
    }

    /// The requests with their outcomes in a batch that the engine has completed. A request for several digests
    /// succeeds only if all of them succeed.
    pub(super) fn outcomes<'a>(
        &'a self,
        batch: &'a Batch,
        limit: i64,
    ) -> impl Iterator<Item = FinishedRequest<'a>> {
        let mut marks = self.marks.iter().peekable();
        self.requests.iter().zip(&self.positions).enumerate().map(move |(index, (request, position))| {
            let (outcome, counted_digests) = match position {
                OutcomePosition::LookUp(look_up) => {
                    (looked_up(request.op, batch.found(*look_up, limit)), None)
                }
                OutcomePosition::Count(range) => {
                    let increments = &self.increments[range.clone()];
                    let outcome = increments.iter().try_for_each(|increment| batch.counted(*increment));
                    (counted(outcome), self.counted_digests(request, increments))
                }
            };
            let usage = request.usage.as_ref().map(|ranges| UsageFields {
                user: &self.text[ranges.user.clone()],
                digests: &self.text[ranges.digests.clone()],
            });
            FinishedRequest {
                reply_to: request.reply_to,
                op: request.op,
                thread: &self.text[request.thread.clone()],
                outcome,
                usage,
                marks: marks.next_if(|(marked, _)| *marked == index).map(|(_, marks)| marks),
                counted: counted_digests,
                looked_up: match &request.operation {
                    EngineOperation::LookUp(digest) => Some(digest),
                    EngineOperation::Count(..) => None,
                },
            }
        })
    }

    fn counted_digests<'a>(
        &'a self,
        request: &EngineRequest,
        increments: &'a [Increment],
    ) -> Option<CountedDigests<'a>> {
        match &request.operation {
            EngineOperation::LookUp(_) => None,
            EngineOperation::Count(kind, digests) => {
                Some(CountedDigests { kind: *kind, digests: &self.digests[digests.clone()], increments })
            }
        }
    }
}

/// Logs a received datagram without its signature.
pub(super) fn log_received(datagram: &[u8]) {
    let mut shown = Vec::new();
    let mut in_signature = false;
    for line in datagram.split_inclusive(|byte| *byte == b'\n' || *byte == b'\r') {
        let continues = matches!(line.first(), Some(b' ' | b'\t'));
        in_signature = match line.get(..4) {
            _ if continues => in_signature,
            name => name.is_some_and(|name| name.eq_ignore_ascii_case(b"sig:")),
        };
        if !in_signature {
            shown.extend_from_slice(line);
        } else if !continues {
            shown.extend_from_slice(b"Sig: ...\n");
        }
    }
    debug!("Received: b'{}'", shown.escape_ascii());
}

/// Logs the decision on a request.
pub(super) fn log_decided(decision: &Decision<'_>, peer: SocketAddr) {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    debug!("Got a {} command from {}", text(decision.request.op), peer.ip());
    match decision.step {
        NextStep::LookUp(Op::Info, digest) => debug!("Request for information about digest {digest}"),
        NextStep::LookUp(_, digest) => debug!("Request to check digest {digest}"),
        NextStep::Count(op, _, digests) => {
            let digests: Vec<String> = digests.iter().map(|digest| format!("'{digest}'")).collect();
            debug!("Request to {op} digests [{}]", digests.join(", "));
        }
        NextStep::Answer(Op::Pong, _) => {
            debug!("Request pong for {}", decision.request.digests().next().map(text).unwrap_or_default());
        }
        NextStep::Answer(..) | NextStep::Refuse(_) => {}
    }
}
