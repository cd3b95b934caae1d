//! Forwarding as the loop sees it: forwarded requests are recognized, and accepted digests are gathered for other servers.
//!
//! A request with the header `Forward-Id` is counted once and passed on under its id. The established server forwards
//! without ids, so its requests are recognized by their form, and passed on only for the senders in `ForwardFrom`:
//! otherwise servers that forward to each other would count for ever.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::finished::{CountedDigests, FinishedRequest};
use super::forward_ids::{Arrival, ForwardIds, IdStatus, WaitingCopy};
use crate::forward::{DIGESTS_PER_REQUEST, ForwardBuffer, ForwardFrom, ForwardSink, ForwardUnit};
use crate::logging::allowance::{Allowance, withheld_note};
use crate::record::TallyKind;
use crate::storage::Batch;
use pyzor_udp::ReplyTo;
use pyzor_wire::digest::Digest;
use pyzor_wire::forward_id::{ForwardId, ForwardOrigin};
use pyzor_wire::op::Op;
use pyzor_wire::request::{ANONYMOUS, Request};

/// The origin of the requests that have been counted in the database of this server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnOrigin {
    pub(crate) origin: ForwardOrigin,
    /// Whether `ForwardOrigin` sets it: other processes on this database may have it, too.
    pub(crate) is_configured: bool,
}

/// A report or whitelisting with a valid id.
pub(super) struct ForwardedRequest<'a> {
    request: &'a Request<'a>,
    pub(super) op: Op,
    kind: TallyKind,
    digests: &'a [Digest],
    received: ReceivedId,
}

impl<'a> ForwardedRequest<'a> {
    /// Returns a request with its id; none without one, or if it is malformed.
    pub(super) fn of(
        request: &'a Request<'a>,
        op: Op,
        kind: TallyKind,
        digests: &'a [Digest],
    ) -> Option<Self> {
        let id = ForwardId::parse(request.forward_id()?)?;
        let received = ReceivedId { id, key: id.key(op, digests), is_account: !request.is_anonymous() };
        Some(Self { request, op, kind, digests, received })
    }
}

/// A valid id with its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceivedId {
    id: ForwardId,
    key: Digest,
    is_account: bool,
}

impl ReceivedId {
    fn arrival(&self) -> Arrival {
        Arrival { hops: self.id.hops, is_account: self.is_account }
    }
}

/// Marks a request whose digests are not forwarded as those of a client.
#[derive(Clone, Copy, Debug)]
pub(super) enum ForwardMark {
    /// It has an id, under which it is passed on.
    Id(ReceivedId),
    /// It looks as if a server that knows no ids had forwarded it. It is not passed on.
    Form,
}

/// Recognizes forwarded requests and gathers accepted digests.
pub(super) struct Forwarding {
    sink: Option<Arc<dyn ForwardSink>>,
    own: Option<OwnOrigin>,
    from: ForwardFrom,
    ids: ForwardIds,
    buffer: ForwardBuffer,
    form_lines: Allowance,
    origin_lines: Allowance,
}

impl Forwarding {
    /// Returns forwarding to a sink. Ids are recognized without one, too.
    pub(super) fn new(sink: Option<Arc<dyn ForwardSink>>, own: Option<OwnOrigin>, from: ForwardFrom) -> Self {
        Self {
            own,
            sink,
            from,
            ids: ForwardIds::default(),
            buffer: ForwardBuffer::default(),
            form_lines: Allowance::per_minute(1),
            origin_lines: Allowance::per_minute(1),
        }
    }

    /// Looks for an earlier copy of a request, and passes the request on if too many hops have kept that from it.
    pub(super) fn check(&mut self, forwarded: &ForwardedRequest<'_>, reply_to: ReplyTo) -> IdStatus {
        let ReceivedId { id, key, .. } = forwarded.received;
        if self.has_counted_as_own(id, reply_to.peer.ip()) {
            return IdStatus::Counted { outcome: Ok(()), goes_on: false };
        }
        let status = self.ids.check(key, forwarded.received.arrival(), || WaitingCopy {
            reply_to,
            thread: forwarded.request.thread.into(),
            user: forwarded.request.user.into(),
        });
        if let IdStatus::Counted { outcome, goes_on: true } = status {
            // Which digests of a refused request have been counted is not known any more.
            let accepted = if outcome.is_ok() { forwarded.digests } else { &[] };
            self.pass_on(id, forwarded.kind, forwarded.digests, accepted.iter().copied());
        }
        status
    }

    /// Whether a request has the origin of this server, and has been counted before it was forwarded.
    fn has_counted_as_own(&mut self, id: ForwardId, peer: IpAddr) -> bool {
        let Some(own) = self.own.filter(|own| own.origin == id.origin) else { return false };
        let has_sent = |sink: &Arc<dyn ForwardSink>| sink.has_sent(id.number);
        // The first hop is from the origin itself. On later ones a request may be older than this process.
        if id.hops > 1 || self.sink.as_ref().is_some_and(has_sent) {
            return true;
        }
        if let Some(withheld) = self.origin_lines.take(Instant::now()) {
            let peer = peer.to_canonical();
            let remedy = if own.is_configured {
                "its requests are answered, but not counted: set another ForwardOrigin there if it has another database, \
                 and let processes of one database not forward to each other"
            } else {
                "its homedir is probably a copy of this server's: remove pyzord.origin there, and restart it"
            };
            warn!(
                "{peer} forwards reports with the origin of this server, which has not sent them; {remedy}{}",
                withheld_note(withheld)
            );
        }
        own.is_configured
    }

    /// Records an id as in flight. Returns none for a request that is like a client's.
    pub(super) fn admit(
        &mut self,
        forwarded: Option<ForwardedRequest<'_>>,
        request: &Request<'_>,
        kind: TallyKind,
        peer: IpAddr,
    ) -> Option<ForwardMark> {
        if let Some(forwarded) = forwarded {
            self.ids.begin(forwarded.received.key, forwarded.received.arrival());
            return Some(ForwardMark::Id(forwarded.received));
        }
        if !self.sink.as_ref()?.wants(kind) || !request.has_form_of_forwarder() {
            return None;
        }
        let user = if request.is_anonymous() { ANONYMOUS.as_bytes() } else { request.user };
        let address = peer.to_canonical();
        if self.from.names(address, user) {
            return None;
        }
        if let Some(withheld) = self.form_lines.take(Instant::now()) {
            info!(
                "a request of {} at {address} was counted, but not forwarded: it looks as if another server had \
                 forwarded it, without a Forward-Id; if this server does not forward to that one, not even by way of \
                 others, name the sender in ForwardFrom{}",
                user.escape_ascii(),
                withheld_note(withheld)
            );
        }
        Some(ForwardMark::Form)
    }

    /// Records the outcome of a request: gathers its accepted digests, and remembers its id if there are any. Returns the
    /// copies that wait for its reply.
    pub(super) fn finish(&mut self, done: &FinishedRequest<'_>, batch: &Batch) -> Vec<WaitingCopy> {
        let Some(counted) = &done.counted else { return Vec::new() };
        match done.marks.and_then(|marks| marks.forward) {
            None => self.gather(counted.kind, counted.accepted(batch)),
            Some(ForwardMark::Form) => {}
            Some(ForwardMark::Id(received)) => return self.finish_forwarded(received, done, counted, batch),
        }
        Vec::new()
    }

    /// Records the outcome of a request with an id. It is remembered if a new attempt could count something again.
    fn finish_forwarded(
        &mut self,
        received: ReceivedId,
        done: &FinishedRequest<'_>,
        counted: &CountedDigests<'_>,
        batch: &Batch,
    ) -> Vec<WaitingCopy> {
        let ReceivedId { id, key, .. } = received;
        let is_counted = counted.accepted(batch).next().is_some();
        let arrival = self.ids.best_arrival(&key).unwrap_or(received.arrival());
        if is_counted {
            self.pass_on(
                ForwardId { hops: arrival.hops, ..id },
                counted.kind,
                counted.digests,
                counted.accepted(batch),
            );
        }
        if is_counted || counted.is_in_doubt(batch) {
            self.ids.finish(key, arrival, done.outcome.map(|_| ()), is_counted)
        } else {
            self.ids.give_up(key)
        }
    }

    /// Gathers the digests of a request that came with this id. It is passed on whole, also if this server has refused a
    /// part of it: other servers would not recognize the rest as a copy of the whole.
    fn pass_on(
        &mut self,
        id: ForwardId,
        kind: TallyKind,
        whole: &[Digest],
        accepted: impl Iterator<Item = Digest>,
    ) {
        let Some(id) = id.next_hop() else { return };
        if whole.len() > DIGESTS_PER_REQUEST {
            self.gather(kind, accepted);
        } else if self.sink.as_ref().is_some_and(|sink| sink.wants(kind)) {
            self.buffer.units.push(ForwardUnit { id, kind, digests: whole.to_vec() });
        }
    }

    /// Gathers digests that are forwarded as those of this server, together with others.
    fn gather(&mut self, kind: TallyKind, digests: impl Iterator<Item = Digest>) {
        if self.sink.as_ref().is_some_and(|sink| sink.wants(kind)) {
            match kind {
                TallyKind::Report => self.buffer.reports.extend(digests),
                TallyKind::Whitelist => self.buffer.whitelists.extend(digests),
            }
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
        match mark {
            ForwardMark::Id(received) => self.ids.give_up(received.key).len(),
            ForwardMark::Form => 0,
        }
    }

    /// Forgets all requests in flight, because their outcomes were lost.
    pub(super) fn give_up_all(&mut self) {
        self.ids.give_up_all();
    }
}
