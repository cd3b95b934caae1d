//! The log line on requests that were not answered.

use tracing::info;

use crate::limits::Gate;
use crate::stats::{DropCause, ServerStats};

/// Logs the drops since its last line. Replies lost on their way are not known.
#[derive(Debug, Default)]
pub(super) struct UnansweredLog {
    drops: [u64; DropCause::ALL.len()],
    exceeded: u64,
}

impl UnansweredLog {
    /// Logs the drops since the last call, if any.
    pub(super) fn report(&mut self, stats: &ServerStats, gate: Option<&mut Gate>) {
        let mut parts = Vec::new();
        for cause in DropCause::ALL {
            let dropped = stats.drops.get(cause);
            let number = dropped - std::mem::replace(&mut self.drops[cause as usize], dropped);
            if number > 0 {
                parts.push(format!("{number} {}", text(cause)));
            }
        }
        if !parts.is_empty() {
            info!("Not answered since the last report: {}", parts.join(", "));
        }
        let Some(gate) = gate else { return };
        let exceeded: u64 = gate.exceeded().iter().sum();
        let exceeding = exceeded - std::mem::replace(&mut self.exceeded, exceeded);
        if exceeding == 0 {
            return;
        }
        let highest: Vec<String> = gate
            .take_highest_excess()
            .iter()
            .map(|(prefix, count)| format!("{prefix} (at least {count})"))
            .collect();
        let highest = highest.join(", ");
        if gate.only_reports() {
            info!(
                "{exceeding} would have been dropped beyond a rate limit since the last report; highest: {highest}"
            );
        } else {
            info!("Highest of {exceeding} beyond a rate limit since the last report: {highest}");
        }
    }
}

/// Returns the text that follows the number of drops.
const fn text(cause: DropCause) -> &'static str {
    match cause {
        DropCause::ReceiveBuffer => "datagrams dropped by the kernel (receive buffer full)",
        DropCause::SendBuffer => "replies dropped because the send buffer was full",
        DropCause::SendError => "replies refused by the system",
        DropCause::Shed => "requests dropped because the database was too slow",
        DropCause::DeniedNetwork => "datagrams from networks that are not allowed",
        DropCause::RateLimit => "dropped beyond RateLimit",
        DropCause::RateLimitErrors => "refusals dropped beyond RateLimitErrors",
        DropCause::RateLimitWrites => "anonymous reports and whitelistings dropped beyond RateLimitWrites",
        DropCause::Reply => "datagrams ignored because they are replies",
        DropCause::Empty => "datagrams ignored because they are empty or come from port 0",
    }
}
