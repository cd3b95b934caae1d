//! Which datagrams are accepted, and how often: networks that are allowed or denied, and rates a source prefix.
//!
//! Looked at before anything of a datagram is parsed. Knows addresses and a clock, no sockets and no
//! protocol. An IPv4 address within IPv6 (`::ffff:192.0.2.1`, as a socket on `::` sees IPv4) is the
//! IPv4 address, for every rule and limit.

mod networks;
mod table;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::warn;

pub(crate) use self::networks::{Networks, NetworksError};
use self::table::{BucketSlot, BucketTable};
use crate::logging::allowance::{Allowance, withheld_note};

/// What is limited, each by a rate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RateLimit {
    /// All datagrams.
    Requests,
    /// Replies that refuse something for which the request is to blame.
    Errors,
    /// Reports and whitelistings of the anonymous user.
    Writes,
}

impl RateLimit {
    const fn option(self) -> &'static str {
        match self {
            Self::Requests => "RateLimit",
            Self::Errors => "RateLimitErrors",
            Self::Writes => "RateLimitWrites",
        }
    }
}

/// Which datagrams an operator wants to be accepted.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionRules {
    /// The networks whose datagrams are accepted; empty: all.
    pub(crate) allow: Networks,
    /// The networks whose datagrams are refused, even if allowed.
    pub(crate) deny: Networks,
    /// How many of each limit a second and prefix, in the order of [`RateLimit`]; 0 is no limit.
    pub(crate) rates: [u32; 3],
    /// How many seconds' worth may come at once.
    pub(crate) burst: u32,
    /// The networks that no rate limits.
    pub(crate) exempt: Networks,
    /// Whether what exceeds a rate is only reported.
    pub(crate) log_only: bool,
    /// How many leading bits of an IPv4 address, up to 32, and of an IPv6 address, up to 64, make a prefix.
    pub(crate) prefix: (u8, u8),
    /// How many prefixes are remembered.
    pub(crate) table: usize,
}

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is accepted.
    Admitted(AdmittedSource),
    /// It comes from a network that is denied, or not among the allowed ones.
    Denied,
    /// It is one too many.
    Exceeds,
}

/// Where an admitted datagram came from, for the limits that are known later only. Holds until the next
/// datagram enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AdmittedSource {
    address: IpAddr,
    slot: Option<BucketSlot>,
}

impl AdmittedSource {
    /// Returns a source without limits.
    pub(crate) fn unlimited(address: IpAddr) -> Self {
        Self { address, slot: None }
    }
}

/// Applies the rules to one datagram after the other.
#[derive(Debug)]
pub(crate) struct Gate {
    rules: AdmissionRules,
    allows_all: bool,
    /// None: nothing is limited.
    rates: Option<RateState>,
}

#[derive(Debug)]
struct RateState {
    table: BucketTable,
    /// How many nanoseconds one takes of each limit; 0 is no limit.
    intervals: [u64; 3],
    burst: u64,
    start: Instant,
    /// Nanoseconds since the start.
    now: u64,
    exceeded: u64,
    complaints: Allowance,
}

impl Gate {
    /// A gate for these rules; none if they say nothing.
    pub(crate) fn new(rules: AdmissionRules) -> Option<Self> {
        let intervals = rules.rates.map(|rate| if rate == 0 { 0 } else { 1_000_000_000 / u64::from(rate) });
        let limits = intervals.iter().any(|interval| *interval > 0);
        let allows_all = rules.allow.is_empty();
        if !limits && allows_all && rules.deny.is_empty() {
            return None;
        }
        let rates = limits.then(|| RateState {
            table: BucketTable::new(rules.table),
            intervals,
            burst: Duration::from_secs(rules.burst.into()).as_nanos().try_into().unwrap_or(u64::MAX),
            start: Instant::now(),
            now: 0,
            exceeded: 0,
            complaints: Allowance::per_minute(10),
        });
        Some(Self { rules, allows_all, rates })
    }

    /// Learns what time it is. Once a batch is enough.
    pub(crate) fn set_time(&mut self, now: Instant) {
        if let Some(rates) = &mut self.rates {
            let since = now.saturating_duration_since(rates.start).as_nanos();
            rates.now = since.try_into().unwrap_or(u64::MAX);
        }
    }

    /// Decides on a datagram from this address.
    pub(crate) fn enter(&mut self, address: IpAddr) -> Admission {
        let address = address.to_canonical();
        if self.rules.deny.contains(address) || !(self.allows_all || self.rules.allow.contains(address)) {
            return Admission::Denied;
        }
        let Some(rates) = &mut self.rates else {
            return Admission::Admitted(AdmittedSource::unlimited(address));
        };
        if self.rules.exempt.contains(address) {
            return Admission::Admitted(AdmittedSource::unlimited(address));
        }
        let slot = rates.table.find(prefix(address, self.rules.prefix), rates.now);
        let source = AdmittedSource { address, slot: Some(slot) };
        if self.exceeds(source, RateLimit::Requests) {
            Admission::Exceeds
        } else {
            Admission::Admitted(source)
        }
    }

    /// Whether one more of this limit exceeds it and is to be dropped. In the mode that only reports,
    /// nothing is.
    pub(crate) fn exceeds(&mut self, source: AdmittedSource, limit: RateLimit) -> bool {
        let (Some(rates), Some(slot)) = (&mut self.rates, source.slot) else { return false };
        let interval = rates.intervals[limit as usize];
        if interval == 0 || rates.table.take(slot, limit as usize, rates.now, interval, rates.burst) {
            return false;
        }
        rates.exceeded += 1;
        if rates.table.is_report_due(slot, rates.now) {
            self.report_exceeded(source.address, limit);
        }
        !self.rules.log_only
    }

    /// Whether what exceeds a limit is only reported.
    pub(crate) fn only_reports(&self) -> bool {
        self.rules.log_only
    }

    /// How often a limit was exceeded so far.
    pub(crate) fn exceeded(&self) -> u64 {
        self.rates.as_ref().map_or(0, |rates| rates.exceeded)
    }

    #[cold]
    fn report_exceeded(&mut self, address: IpAddr, limit: RateLimit) {
        let Some(withheld) = self.rates.as_mut().and_then(|rates| rates.complaints.take(Instant::now()))
        else {
            return;
        };
        let width = if address.is_ipv4() { self.rules.prefix.0 } else { self.rules.prefix.1 };
        warn!(
            "{}: {} exceeds {} a second: what is beyond {} no reply{}",
            limit.option(),
            networks::network(address, width),
            self.rules.rates[limit as usize],
            if self.rules.log_only { "would get" } else { "gets" },
            withheld_note(withheld)
        );
    }
}

/// The leading bits of an address as a number that no other prefix of either family has.
fn prefix(address: IpAddr, widths: (u8, u8)) -> u64 {
    match address {
        IpAddr::V4(address) => {
            let bits = u64::from(address.to_bits());
            let dropped = 32 - u32::from(widths.0.min(32));
            // No IPv6 sender has such an address: it is one of a group.
            0xff00 << 48 | bits >> dropped << dropped
        }
        IpAddr::V6(address) => {
            let bits = (address.to_bits() >> 64) as u64;
            let dropped = 64 - u32::from(widths.1.min(64));
            bits.checked_shr(dropped).map_or(0, |kept| kept << dropped)
        }
    }
}

#[cfg(test)]
mod tests;
