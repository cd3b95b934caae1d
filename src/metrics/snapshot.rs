//! The metrics of one moment.

use std::fmt;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::Observed;
use super::families::Families;
use super::{forwarding, upstream};
use crate::control::reply::{Health, StatusReport};
use crate::stats::StatsReport;
use crate::storage::Availability;

/// The state and the counters of the server, as metrics. No text of the engine is among them: it could name hosts,
/// paths and accounts. The servers that reports are forwarded to and that are asked for second opinions are named, but not
/// their addresses and accounts.
#[derive(Debug)]
pub(super) struct Snapshot {
    status: StatusReport,
    stats: StatsReport,
}

impl Snapshot {
    pub(super) fn of(observed: &dyn Observed) -> Self {
        Self { status: observed.status(), stats: observed.stats() }
    }

    fn server(&self, families: &mut Families<'_>) -> fmt::Result {
        let Self { status, .. } = self;
        let labels = [("version", status.version.as_str()), ("engine", status.engine.as_str())];
        families.info(("pyzord_build", "The version and the engine of the server"), &labels)?;
        let started = ("process_start_time", "The time when the service started, since 1970");
        families.gauge(started, Some(Unit::Seconds), unix_seconds(&status.started))?;
        if let Ok(time) = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID) {
            let cpu = ("process_cpu", "The CPU time of the process, in user and system mode");
            families.seconds_counter(cpu, Duration::from(time).as_secs_f64())?;
        }
        let health = match status.health {
            Health::Well => 0,
            Health::Degraded => 1,
            Health::Critical => 2,
        };
        families.gauge(("pyzord_health", "0 if all is well, 1 degraded, 2 critical"), None, health)?;
        let accounts = ("pyzord_accounts", "The number of accounts in force");
        families.gauge(accounts, None, status.accounts as u64)?;
        let loaded = ("pyzord_access_loaded_timestamp", "The time when accounts and rights were last loaded");
        families.gauge(loaded, Some(Unit::Seconds), unix_seconds(&status.loaded))
    }

    fn requests(&self, families: &mut Families<'_>) -> fmt::Result {
        let Self { stats, .. } = self;
        let replies = stats.requests.iter().flat_map(|(op, codes)| {
            codes.iter().map(move |(code, count)| (([("op", op.as_str())], [("code", *code)]), *count))
        });
        families.counters(("pyzord_requests", "Replies by operation and code"), replies)?;
        let users = [("anonymous", stats.anonymous), ("account", stats.accounts)];
        let by_user = ("pyzord_requests_by_user", "Requests of the anonymous user and of accounts");
        families.counters(by_user, users.map(|(user, count)| ([("user", user)], count)))?;
        let hits = ("pyzord_check_hits", "Checks that found a report or a whitelisting");
        families.counter(hits, stats.check_hits)?;
        families.counter(("pyzord_check_misses", "Checks that found neither"), stats.check_misses)?;
        let replays = ("pyzord_replays", "Copies of signed requests that were not counted again");
        families.counter(replays, stats.replays)?;
        let duration = ("pyzord_request_duration", "The time from the receipt of a request to its reply");
        families.durations(duration, &stats.latency_micros)?;
        let received = ("pyzord_receive_batch_datagrams", "Datagrams that were received at once");
        families.sizes(received, &stats.received)
    }

    fn drops(&self, families: &mut Families<'_>) -> fmt::Result {
        let Self { stats, .. } = self;
        let causes = stats.drops.iter().map(|(cause, count)| ([("cause", cause.as_str())], *count));
        families.counters(("pyzord_dropped", "Dropped datagrams and replies by cause"), causes)?;
        let limits = stats.exceeded.iter().map(|(limit, count)| ([("limit", limit.as_str())], *count));
        let exceeded =
            ("pyzord_rate_limit_exceeded", "Datagrams beyond a rate limit, also those not dropped");
        families.counters(exceeded, limits)
    }

    fn engine(&self, families: &mut Families<'_>) -> fmt::Result {
        let (engine, stats) = (&self.status.storage, &self.stats);
        let is = |state: Availability| u64::from(engine.availability == state);
        let up = ("pyzord_engine_up", "1 if the database answers, 0 if it is unavailable");
        families.gauge(up, None, 1 - is(Availability::Unavailable))?;
        let read_only = ("pyzord_engine_read_only", "1 if the database refuses changes");
        families.gauge(read_only, None, is(Availability::ReadOnly))?;
        let partial = ("pyzord_engine_partial", "1 if some of the database's servers are unavailable");
        families.gauge(partial, None, is(Availability::Partial))?;
        let problems = ("pyzord_engine_problems", "Other problems of the database; see pyzorctl status");
        families.gauge(problems, None, engine.problems.len() as u64)?;
        families.gauge(("pyzord_engine_records", "Records, possibly estimated"), None, engine.records)?;
        let size = ("pyzord_engine_size", "The size of the database");
        families.gauge(size, Some(Unit::Bytes), engine.bytes)?;
        let unsynced = ("pyzord_engine_unsynced_age", "The age of the oldest change that a crash could undo");
        families.gauge(unsynced, Some(Unit::Seconds), engine.synced_seconds_ago)?;
        let duration = ("pyzord_engine_batch_duration", "The duration of a batch of requests in the engine");
        families.durations(duration, &stats.engine_micros)?;
        let requests = ("pyzord_engine_batch_requests", "Requests in a batch for the engine");
        families.sizes(requests, &stats.batches)?;
        families.counter(
            ("pyzord_engine_panics", "Batches that failed by a fault of pyzord"),
            stats.engine_panics,
        )
    }

    fn expiry(&self, families: &mut Families<'_>) -> fmt::Result {
        let engine = &self.status.storage;
        let next = ("pyzord_expiry_next", "The time until the next expiry");
        families.gauge(next, Some(Unit::Seconds), engine.next_expiry_in_seconds)?;
        let Some(last) = &engine.last_expiry else {
            return Ok(());
        };
        let age = ("pyzord_expiry_last_age", "The time since the end of the last expiry");
        families.gauge(age, Some(Unit::Seconds), last.seconds_ago)?;
        let failed = ("pyzord_expiry_last_failed", "1 if the last expiry failed");
        families.gauge(failed, None, u64::from(last.error.is_some()))?;
        let visited = ("pyzord_expiry_last_visited_records", "Records that the last expiry looked at");
        families.gauge(visited, None, last.visited)?;
        let removed = ("pyzord_expiry_last_removed_records", "Records that the last expiry removed");
        families.gauge(removed, None, last.removed)
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.server(&mut families)?;
        self.requests(&mut families)?;
        self.drops(&mut families)?;
        self.engine(&mut families)?;
        self.expiry(&mut families)?;
        forwarding::write(&mut families, &self.status.forwarding, &self.stats)?;
        match (&self.status.upstream, &self.stats.upstream) {
            (Some(status), Some(counts)) => upstream::write(&mut families, status, counts),
            _ => Ok(()),
        }
    }
}

/// Parses a time of a report; none if it is empty.
fn unix_seconds(time: &str) -> Option<u64> {
    time.parse::<jiff::Timestamp>().ok()?.as_second().try_into().ok()
}
