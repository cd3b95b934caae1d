//! What became of the requests to one server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyzor_wire::reply_reader::Code;
use pyzor_wire::request_writer::Signer;

use super::flight::Flight;
use crate::forward::ForwardCounts;
use crate::stats::{CODES, LastMinute, OTHER_CODE};

/// How long a refusal is shown as the state of a server.
const SHOWN: Duration = Duration::from_secs(60);

/// Counters of one server.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: ForwardCounts,
    accepted_recently: LastMinute,
    silent_recently: LastMinute,
    refused_recently: LastMinute,
    /// The code, the account and the time of the last refusal.
    last_refusal: Option<(u16, Arc<Signer>, Instant)>,
}

impl Tally {
    /// Counts a sending.
    pub(super) fn sent(&mut self, is_first: bool) {
        *(if is_first { &mut self.counts.requests } else { &mut self.counts.resent }) += 1;
    }

    /// Counts a reply. Returns the code if the request was refused.
    pub(super) fn answered(&mut self, flight: &Flight, code: Code, now: Instant) -> Option<u16> {
        let code = match code {
            Code::Number(200) => {
                self.counts.accepted += flight.digests();
                self.accepted_recently.add(flight.digests(), now);
                return None;
            }
            // The number of different codes is bounded, because the other server chooses them.
            Code::Number(code) if CODES.contains(&code) => code,
            Code::Number(_) | Code::Echo | Code::WithoutCount => OTHER_CODE,
        };
        self.counts.refuse(code, flight.digests());
        self.refused_recently.add(flight.digests(), now);
        self.last_refusal = Some((code, Arc::clone(&flight.signer), now));
        Some(code)
    }

    /// Counts a request that was not answered.
    pub(super) fn silent(&mut self, flight: &Flight, now: Instant) {
        self.counts.silent += flight.digests();
        self.silent_recently.add(flight.digests(), now);
    }

    /// The counters, without dropped digests.
    pub(super) fn counts(&self) -> &ForwardCounts {
        &self.counts
    }

    /// Digests accepted in the last minute.
    pub(super) fn accepted_recently(&self, now: Instant) -> u64 {
        self.accepted_recently.sum(now)
    }

    /// Digests without a reply in the last minute.
    pub(super) fn silent_recently(&self, now: Instant) -> u64 {
        self.silent_recently.sum(now)
    }

    /// Digests refused in the last minute.
    pub(super) fn refused_recently(&self, now: Instant) -> u64 {
        self.refused_recently.sum(now)
    }

    /// The code and the account of the last refusal, if it was in the last minute.
    pub(super) fn last_refusal(&self, now: Instant) -> Option<(u16, &Signer)> {
        let recent = |at: &Instant| now.saturating_duration_since(*at) < SHOWN;
        self.last_refusal.as_ref().filter(|(.., at)| recent(at)).map(|(code, signer, _)| (*code, &**signer))
    }
}
