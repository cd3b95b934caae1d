//! Counters of unanswered requests, and their log line.

use tracing::info;

/// Counts received datagrams that were not answered, by cause. Replies lost on their way are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnansweredCounters {
    /// Datagrams that the protocol does not answer: empty ones and replies.
    pub(crate) ignored: u64,
    /// Requests dropped because they waited too long for the engine.
    pub(crate) shed: u64,
    /// Replies that the system refused to send.
    pub(crate) unsent: u64,
    /// Replies dropped because the send buffers were full.
    pub(crate) send_buffer_full: u64,
    /// Datagrams that the kernel dropped because the receive buffer was full.
    pub(crate) dropped_by_kernel: u64,
    /// Datagrams from networks that are not allowed.
    pub(crate) denied: u64,
    /// Datagrams and replies beyond a rate limit. With `RateLimitLogOnly` these were answered.
    pub(crate) exceeding: u64,
}

impl UnansweredCounters {
    /// Logs the increments since `before`, if any. With `only_reports`, rate limits only log and drop nothing.
    pub(super) fn report_since(&self, before: &Self, only_reports: bool) {
        let Self { ignored, shed, unsent, send_buffer_full, dropped_by_kernel, denied, exceeding } = before;
        let exceeding = self.exceeding - exceeding;
        let parts: Vec<String> = [
            (
                self.dropped_by_kernel - dropped_by_kernel,
                "datagrams dropped by the kernel (receive buffer full)",
            ),
            (self.shed - shed, "requests dropped because the database was too slow"),
            (self.unsent - unsent, "replies refused by the system"),
            (self.ignored - ignored, "datagrams ignored (empty or a reply)"),
            (self.send_buffer_full - send_buffer_full, "replies dropped because the send buffer was full"),
            (self.denied - denied, "datagrams from networks that are not allowed"),
            (if only_reports { 0 } else { exceeding }, "dropped beyond a rate limit"),
        ]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, cause)| format!("{number} {cause}"))
        .collect();
        if !parts.is_empty() {
            info!("Not answered since the last report: {}", parts.join(", "));
        }
        if only_reports && exceeding > 0 {
            info!("{exceeding} would have been dropped beyond a rate limit since the last report");
        }
    }
}
