//! Requests with their outcomes.

use super::admission::RequestMarks;
use super::forward_ids::WaitingCopy;
use crate::record::TallyKind;
use crate::storage::batch::Increment;
use crate::storage::{Batch, StorageError};
use pyzor_udp::ReplyTo;
use pyzor_wire::digest::Digest;
use pyzor_wire::op::Op;
use pyzor_wire::reply::{Answer, RecordCounts, Refusal};

/// The digest of a check or an info request.
#[derive(Clone, Copy, Debug)]
pub(super) struct LookedUpDigest {
    pub(super) digest: Digest,
    /// Whether no other server may be asked about it.
    pub(super) is_local_only: bool,
}

/// The user and the digests of a request, for the usage log.
pub(super) struct UsageFields<'a> {
    pub(super) user: &'a [u8],
    pub(super) digests: &'a [u8],
}

impl<'a> UsageFields<'a> {
    /// The digests are separated by line ends.
    pub(super) fn new(user: &'a [u8], digests: &'a [u8]) -> Self {
        Self { user, digests }
    }

    /// The digests, separated by line ends.
    pub(super) fn joined_digests(&self) -> &'a [u8] {
        self.digests
    }

    /// The digests as the client sent them.
    pub(super) fn digests(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        self.digests.split(|byte| *byte == b'\n')
    }
}

/// A request with its outcome.
pub(super) struct FinishedRequest<'a> {
    pub(super) reply_to: ReplyTo,
    pub(super) op: Op,
    pub(super) thread: &'a [u8],
    pub(super) outcome: Result<Answer, Refusal>,
    pub(super) usage: Option<UsageFields<'a>>,
    pub(super) marks: Option<&'a RequestMarks>,
    /// The digests of a report or a whitelisting.
    pub(super) counted: Option<CountedDigests<'a>>,
    /// The digest of a check or an info request that the engine has answered.
    pub(super) looked_up: Option<&'a LookedUpDigest>,
}

impl<'a> FinishedRequest<'a> {
    /// Returns a request of which nothing is left to do but the reply.
    pub(super) fn without_operation(
        reply_to: ReplyTo,
        op: Op,
        thread: &'a [u8],
        outcome: Result<Answer, Refusal>,
        usage: Option<UsageFields<'a>>,
    ) -> Self {
        Self { reply_to, op, thread, outcome, usage, marks: None, counted: None, looked_up: None }
    }

    /// Returns the digest of a check of which the database has no count.
    pub(super) fn missed(&self) -> Option<LookedUpDigest> {
        let is_miss = self.op == Op::Check && self.outcome == Ok(Answer::Counts(RecordCounts::default()));
        self.looked_up.filter(|_| is_miss).copied()
    }

    /// The number of bytes of the request that are kept for its reply.
    pub(super) fn text_len(&self) -> usize {
        self.thread.len() + self.usage.as_ref().map_or(0, |usage| usage.user.len() + usage.digests.len())
    }

    /// Returns the outcome for a copy of the request that came on another way.
    pub(super) fn for_copy<'b>(&'b self, copy: &'b WaitingCopy) -> FinishedRequest<'b> {
        let usage = self.usage.as_ref().map(|usage| UsageFields { user: &copy.user, digests: usage.digests });
        FinishedRequest::without_operation(copy.reply_to, self.op, &copy.thread, self.outcome, usage)
    }
}

/// The digests of a report or a whitelisting, with the tokens of their outcomes.
#[derive(Clone, Copy)]
pub(super) struct CountedDigests<'a> {
    pub(super) kind: TallyKind,
    /// The digests in the order received.
    pub(super) digests: &'a [Digest],
    pub(super) increments: &'a [Increment],
}

impl<'a> CountedDigests<'a> {
    /// The digests that the engine has accepted, in the order received. Those in doubt are not among them.
    pub(super) fn accepted(&self, batch: &'a Batch) -> impl Iterator<Item = Digest> + use<'a> {
        let outcomes = self.digests.iter().zip(self.increments);
        outcomes.filter(|(_, increment)| batch.counted(**increment).is_ok()).map(|(digest, _)| *digest)
    }

    /// Whether the engine may have counted a digest that it has not accepted.
    pub(super) fn is_in_doubt(&self, batch: &Batch) -> bool {
        self.increments.iter().any(|increment| batch.counted(*increment) == Err(StorageError::InDoubt))
    }
}
