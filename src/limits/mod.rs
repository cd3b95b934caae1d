//! Access control by source address: allowed and denied networks, and rate limits per source prefix.
//!
//! Applied before a datagram is parsed. Depends on addresses and a clock, not on sockets or the protocol. Every rule
//! and limit treats an IPv4-mapped IPv6 address (`::ffff:192.0.2.1`, as a socket on `::` reports IPv4 clients) as the
//! IPv4 address.

mod excess;
mod networks;
mod table;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::warn;

use self::excess::ExcessTable;
pub(crate) use self::networks::{Networks, NetworksError};
use self::table::{BucketSlot, BucketTable};
use crate::logging::allowance::{Allowance, withheld_note};

/// The number of prefixes that a report on the excess names.
const NAMED_PREFIXES: usize = 3;

/// The rate limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RateLimit {
    /// All datagrams.
    Requests,
    /// Replies that refuse a request the handler rejects.
    Errors,
    /// Reports and whitelistings by the anonymous user.
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

/// The configured rules for sources.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionRules {
    /// Networks whose datagrams are accepted; empty: all.
    pub(crate) allow: Networks,
    /// Networks whose datagrams are dropped, even if they are in `allow`.
    pub(crate) deny: Networks,
    /// Rates per second and prefix, in the order of [`RateLimit`]; 0: no limit.
    pub(crate) rates: [u32; 3],
    /// The size of a burst, in seconds of the rate.
    pub(crate) burst: u32,
    /// Networks without rate limits.
    pub(crate) exempt: Networks,
    /// Whether datagrams beyond a limit are only logged, not dropped.
    pub(crate) log_only: bool,
    /// The length of a prefix in bits: for IPv4, up to 32, and for IPv6, up to 64.
    pub(crate) prefix: (u8, u8),
    /// The number of prefixes in the table.
    pub(crate) table: usize,
}

impl AdmissionRules {
    /// Returns the prefix of an address as text.
    fn prefix_of(&self, address: IpAddr) -> String {
        let width = if address.is_ipv4() { self.prefix.0 } else { self.prefix.1 };
        networks::network(address, width)
    }
}

/// The decision on a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The datagram is accepted.
    Admitted(AdmittedSource),
    /// Its network is denied, or not among the allowed ones.
    Denied,
    /// It exceeds the limit on requests.
    Exceeds,
}

/// The source of an admitted datagram, for the limits that apply after parsing. Valid until the next datagram.
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

/// Applies the rules to datagrams.
#[derive(Debug)]
pub(crate) struct Gate {
    rules: AdmissionRules,
    allows_all: bool,
    /// The state of the rate limits; none without a limit.
    rates: Option<RateState>,
}

#[derive(Debug)]
struct RateState {
    table: BucketTable,
    /// Nanoseconds per datagram, for each limit; 0: no limit.
    intervals: [u64; 3],
    /// The size of a burst, in nanoseconds.
    burst: u64,
    start: Instant,
    /// Nanoseconds since `start`.
    now: u64,
    /// The number of times each limit was exceeded.
    exceeded: [u64; 3],
    excess: ExcessTable,
    complaints: Allowance,
}

impl Gate {
    /// Returns a gate for the rules, or none if they accept everything.
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
            exceeded: [0; 3],
            excess: ExcessTable::default(),
            complaints: Allowance::per_minute(10),
        });
        Some(Self { rules, allows_all, rates })
    }

    /// Sets the time used for the limits. Once per batch is enough.
    pub(crate) fn set_time(&mut self, now: Instant) {
        if let Some(rates) = &mut self.rates {
            let since = now.saturating_duration_since(rates.start).as_nanos();
            rates.now = since.try_into().unwrap_or(u64::MAX);
        }
    }

    /// Decides whether to accept a datagram from this address.
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

    /// Counts one more towards a limit, and returns whether it must be dropped: if it exceeds the limit, unless limits
    /// are only logged.
    pub(crate) fn exceeds(&mut self, source: AdmittedSource, limit: RateLimit) -> bool {
        let (Some(rates), Some(slot)) = (&mut self.rates, source.slot) else { return false };
        let interval = rates.intervals[limit as usize];
        if interval == 0 || rates.table.take(slot, limit as usize, rates.now, interval, rates.burst) {
            return false;
        }
        rates.exceeded[limit as usize] += 1;
        rates.excess.add(prefix(source.address, self.rules.prefix), source.address);
        if rates.table.is_report_due(slot, limit as usize, rates.now) {
            self.report_exceeded(source.address, limit);
        }
        !self.rules.log_only
    }

    /// Whether datagrams beyond a limit are only logged, not dropped.
    pub(crate) fn only_reports(&self) -> bool {
        self.rules.log_only
    }

    /// The number of times each limit was exceeded so far, in the order of [`RateLimit`].
    pub(crate) fn exceeded(&self) -> [u64; 3] {
        self.rates.as_ref().map_or([0; 3], |rates| rates.exceeded)
    }

    /// Returns the prefixes that have exceeded their limits the most since the last call, highest first, and how often
    /// each has at least.
    pub(crate) fn take_highest_excess(&mut self) -> Vec<(String, u64)> {
        let Some(rates) = &mut self.rates else { return Vec::new() };
        let highest = rates.excess.take_highest(NAMED_PREFIXES);
        highest.into_iter().map(|(address, count)| (self.rules.prefix_of(address), count)).collect()
    }

    #[cold]
    fn report_exceeded(&mut self, address: IpAddr, limit: RateLimit) {
        let Some(withheld) = self.rates.as_mut().and_then(|rates| rates.complaints.take(Instant::now()))
        else {
            return;
        };
        warn!(
            "{}: {} exceeds {} per second: the excess {} dropped{}",
            limit.option(),
            self.rules.prefix_of(address),
            self.rules.rates[limit as usize],
            if self.rules.log_only { "would be" } else { "is" },
            withheld_note(withheld)
        );
    }
}

/// Returns the prefix of an address as a number that is unique across both families.
fn prefix(address: IpAddr, widths: (u8, u8)) -> u64 {
    match address {
        IpAddr::V4(address) => {
            let bits = u64::from(address.to_bits());
            let dropped = 32 - u32::from(widths.0.min(32));
            // ff00::/16 is multicast, which no IPv6 sender has as its address.
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
