//! The log lines about one server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use pyzor_home::loggable::loggable_name;
use tracing::{error, info, warn};

use super::delivery::Event;
use crate::logging::allowance::Allowance;
use crate::remotes::OutageLines;

/// Writes the log lines about one server, of which the frequent ones once a minute.
#[derive(Debug)]
pub(super) struct ServerLines {
    /// The server, as host and port.
    server: String,
    /// One line a minute for each code. Their number is bounded by that of different codes.
    refusals: BTreeMap<u16, Allowance>,
    drops: Allowance,
    outages: OutageLines,
    /// The addresses of this server itself that were reported.
    own: Vec<SocketAddr>,
    /// One line a minute on these addresses, because a name may have others each time.
    own_lines: Allowance,
}

impl ServerLines {
    pub(super) fn new(server: String) -> Self {
        Self {
            server,
            refusals: BTreeMap::new(),
            drops: Allowance::per_minute(1),
            outages: OutageLines::default(),
            own: Vec::new(),
            own_lines: Allowance::per_minute(1),
        }
    }

    /// Reports an event. `queued` is the number of digests that wait.
    pub(super) fn event(&mut self, event: Event, queued: u64, now: Instant) {
        let server = &self.server;
        match event {
            Event::Gone(reason) => self.outages.begin(reason),
            Event::Back(outage) => {
                if self.outages.end() {
                    info!(
                        "Forwarding: {server} is available again after {} s; {queued} digests are queued",
                        outage.as_secs()
                    );
                }
            }
            Event::Refused(code, signer) => {
                let allowance = self.refusals.entry(code).or_insert(const { Allowance::per_minute(1) });
                if let Some(withheld) = allowance.take(now) {
                    let more = match withheld {
                        0 => String::new(),
                        number => format!(" (and {number} more since the last such line)"),
                    };
                    let meaning = refusal(code, loggable_name(signer.user()));
                    warn!("Forwarding: {server} refused a request: {meaning}{more}");
                }
            }
        }
    }

    /// Reports an outage, unless another one was reported in the last minute: then later, if it lasts.
    pub(super) fn outage(&mut self, now: Instant) {
        if let Some(reason) = self.outages.due(now) {
            warn!(
                "Forwarding: {} is unavailable: {reason}; digests are queued until it replies",
                self.server
            );
        }
    }

    /// Reports digests that were dropped because the queue was full, unless a line was written in the last minute. Sets
    /// their number to 0 if it did.
    pub(super) fn dropped(&mut self, digests: &mut u64, limit: usize, now: Instant) {
        if *digests > 0 && self.drops.take(now).is_some() {
            warn!(
                "Forwarding: {} digests for {} were dropped: its queue is full (ForwardQueue is {limit})",
                std::mem::take(digests),
                self.server
            );
        }
    }

    /// Reports that the server has addresses of this server itself, once.
    pub(super) fn own_addresses(&mut self, own: &[SocketAddr], now: Instant) {
        if self.own != own {
            self.own = own.to_vec();
            if let Some(address) = own.first()
                && self.own_lines.take(now).is_some()
            {
                error!(
                    "Forwarding: {} has the address {address} of this server itself, to which nothing is forwarded: \
                     remove it from the servers file",
                    self.server
                );
            }
        }
    }

    /// Reports that a reload could not look the name up.
    pub(super) fn not_renewed(&self, reason: &str) {
        warn!(
            "Forwarding: {}: {reason}; the address in use stays: reload again when the name is resolved",
            self.server
        );
    }

    /// Reports what is left at the end.
    pub(super) fn left(&self, unsent: u64, unanswered: u64) {
        if unsent > 0 {
            warn!("Forwarding: {unsent} digests were not sent to {}", self.server);
        }
        if unanswered > 0 {
            warn!("Forwarding: {} did not reply to requests with {unanswered} digests", self.server);
        }
    }
}

/// Returns what a code means, and what to do.
pub(super) fn refusal(code: u16, user: &str) -> String {
    match code {
        400 => "400, it does not understand the request".to_owned(),
        401 => format!("401, it does not accept the account {user}: check the accounts file and the clocks"),
        403 => {
            format!("403, it does not permit the operation to {user}: ask its operator, or set ForwardOps")
        }
        500 => "500, it has failed to count some of the digests".to_owned(),
        505 => "505, it does not support the version of the protocol".to_owned(),
        0 => "the reply has no known code: it may not be a Pyzor server".to_owned(),
        code => code.to_string(),
    }
}
