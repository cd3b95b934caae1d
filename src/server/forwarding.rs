//! Forwarding as the loop sees it: forwarded requests are recognized, and accepted digests are gathered for other servers.
//!
//! A request with the header `Forward-Id` is counted once and passed on under its id. The established server forwards
//! without ids, so its requests are recognized by their form, and passed on only for the senders in `ForwardFrom`:
//! otherwise servers that forward to each other would count for ever.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::forward_ids::{ForwardIds, IdStatus, WaitingCopy};
use super::work::FinishedRequest;
use crate::forward::{DIGESTS_PER_REQUEST, ForwardBuffer, ForwardFrom, ForwardSink, ForwardUnit};
use crate::logging::allowance::{Allowance, withheld_note};
use crate::record::TallyKind;
use crate::storage::Batch;
use pyzor_udp::ReplyTo;
use pyzor_wire::digest::Digest;
use pyzor_wire::forward_id::{ForwardId, ForwardOrigin};
use pyzor_wire::op::Op;
use pyzor_wire::request::{ANONYMOUS, Request};

/// A valid id with its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceivedId {
    id: ForwardId,
    key: Digest,
}

impl ReceivedId {
    /// Returns the id of a request; none without one, or if it is malformed.
    pub(super) fn of(request: &Request<'_>, op: Op, digests: &[Digest]) -> Option<Self> {
        let id = ForwardId::parse(request.forward_id()?)?;
        Some(Self { id, key: id.key(op, digests) })
    }
}

/// The way on for the digests of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ForwardRoute {
    /// As reports of this server, together with others.
    Fresh,
    /// As one request with this id.
    Unit(ForwardId),
    /// To no server.
    Nowhere,
}

/// Marks a request that has an id, or whose digests are not forwarded as those of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct ForwardMark {
    key: Option<Digest>,
    route: ForwardRoute,
}

/// Recognizes forwarded requests and gathers accepted digests.
pub(super) struct Forwarding {
    sink: Option<Arc<dyn ForwardSink>>,
    origin: Option<ForwardOrigin>,
    from: ForwardFrom,
    ids: ForwardIds,
    buffer: ForwardBuffer,
    complaints: Allowance,
}

impl Forwarding {
    /// Returns forwarding to a sink. Ids are recognized without one, too.
    pub(super) fn new(
        sink: Option<Arc<dyn ForwardSink>>,
        origin: Option<ForwardOrigin>,
        from: ForwardFrom,
    ) -> Self {
        Self {
            origin,
            sink,
            from,
            ids: ForwardIds::default(),
            buffer: ForwardBuffer::default(),
            complaints: Allowance::per_minute(1),
        }
    }

    /// Looks for an earlier copy of a request. A request of this server's own origin has been counted here.
    pub(super) fn check(
        &mut self,
        received: &ReceivedId,
        request: &Request<'_>,
        reply_to: ReplyTo,
    ) -> IdStatus {
        if self.origin == Some(received.id.origin) {
            return IdStatus::Counted(Ok(()));
        }
        self.ids.check(received.key, || WaitingCopy {
            reply_to,
            thread: request.thread.into(),
            user: request.user.into(),
        })
    }

    /// Records an id as in flight, and decides on the way of the request's digests. Returns none for one that is like a
    /// client's.
    pub(super) fn admit(
        &mut self,
        received: Option<ReceivedId>,
        request: &Request<'_>,
        kind: TallyKind,
        digests: usize,
        peer: IpAddr,
    ) -> Option<ForwardMark> {
        if let Some(ReceivedId { id, key }) = received {
            self.ids.begin(key);
            let route = match id.next_hop() {
                None => ForwardRoute::Nowhere,
                Some(_) if digests > DIGESTS_PER_REQUEST => ForwardRoute::Fresh,
                Some(next) => ForwardRoute::Unit(next),
            };
            return Some(ForwardMark { key: Some(key), route });
        }
        if !self.sink.as_ref()?.wants(kind) || !request.has_form_of_forwarder() {
            return None;
        }
        let user = if request.is_anonymous() { ANONYMOUS.as_bytes() } else { request.user };
        let address = peer.to_canonical();
        if self.from.names(address, user) {
            return None;
        }
        if let Some(withheld) = self.complaints.take(Instant::now()) {
            info!(
                "a request of {} at {address} was counted, but not forwarded: it looks as if another server had \
                 forwarded it, without a Forward-Id; if this server does not forward to that one, not even by way of \
                 others, name the sender in ForwardFrom{}",
                user.escape_ascii(),
                withheld_note(withheld)
            );
        }
        Some(ForwardMark { key: None, route: ForwardRoute::Nowhere })
    }

    /// Records the outcome of a request: gathers its accepted digests, and remembers its id if there are any. Returns the
    /// copies that wait for its reply.
    pub(super) fn finish(&mut self, done: &FinishedRequest<'_>, batch: &Batch) -> Vec<WaitingCopy> {
        let Some(counted) = &done.counted else { return Vec::new() };
        let mark = done.marks.and_then(|marks| marks.forward);
        if let Some(sink) = &self.sink
            && sink.wants(counted.kind)
        {
            let accepted = counted.accepted(batch);
            match mark.map_or(ForwardRoute::Fresh, |mark| mark.route) {
                ForwardRoute::Fresh if counted.kind == TallyKind::Report => {
                    self.buffer.reports.extend(accepted);
                }
                ForwardRoute::Fresh => self.buffer.whitelists.extend(accepted),
                ForwardRoute::Unit(id) => {
                    let digests: Vec<Digest> = accepted.collect();
                    if !digests.is_empty() {
                        self.buffer.units.push(ForwardUnit { id, kind: counted.kind, digests });
                    }
                }
                ForwardRoute::Nowhere => {}
            }
        }
        let Some(key) = mark.and_then(|mark| mark.key) else { return Vec::new() };
        match counted.accepted(batch).next() {
            Some(_) => self.ids.finish(key, done.outcome.map(|_| ())),
            None => self.ids.give_up(key),
        }
    }

    /// Hands the gathered digests over, if there are any.
    pub(super) fn hand_over(&mut self) {
        if let Some(sink) = &self.sink
            && !self.buffer.is_empty()
        {
            sink.hand_over(&mut self.buffer);
        }
    }

    /// Forgets a request that was dropped uncounted. Returns the number of its copies.
    pub(super) fn give_up(&mut self, mark: ForwardMark) -> usize {
        mark.key.map_or(0, |key| self.ids.give_up(key).len())
    }

    /// Forgets all requests in flight, because their outcomes were lost.
    pub(super) fn give_up_all(&mut self) {
        self.ids.give_up_all();
    }
}
