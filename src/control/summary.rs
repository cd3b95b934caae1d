//! The state of a server in one line.

use super::figures::{grouped, period, printable, rate};
use super::reply::{Health, StatusReport};
use crate::storage::Availability;

impl Health {
    /// The name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Degraded => "degraded",
            Self::Critical => "critical",
        }
    }
}

/// Names the availability of a database.
pub(crate) const fn availability_name(availability: Availability) -> &'static str {
    match availability {
        Availability::Available => "available",
        Availability::ReadOnly => "read-only",
        Availability::Partial => "partly unavailable",
        Availability::Unavailable => "unavailable",
    }
}

impl StatusReport {
    /// Returns the first line of `pyzorctl status`, which is also the status that systemd shows: the health, the worst
    /// problem, the load, the database and the time since the start.
    pub(crate) fn summary(&self) -> String {
        let problem = self.problems.first().map(|worst| {
            let more = match self.problems.len() - 1 {
                0 => String::new(),
                more => format!(" (and {} more)", grouped(more as u64)),
            };
            format!("{worst}{more}; ")
        });
        printable(&format!(
            "{}: {}{} requests/s, {} {}, up {}",
            self.health.name(),
            problem.unwrap_or_default(),
            rate(self.requests_per_second),
            self.engine,
            availability_name(self.storage.availability),
            period(self.uptime_seconds)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::EngineStatus;

    #[test]
    fn summary_names_load_database_and_the_worst_problem() {
        let mut status = StatusReport {
            engine: "gdbm".to_owned(),
            requests_per_second: 1234.4,
            uptime_seconds: 300_000,
            ..StatusReport::default()
        };
        assert_eq!(status.summary(), "well: 1,234 requests/s, gdbm available, up 3 days");
        status.health = Health::Critical;
        status.storage = EngineStatus { availability: Availability::Unavailable, ..EngineStatus::default() };
        status.problems = vec!["the disk\nis gone".to_owned(), "x".to_owned(), "y".to_owned()];
        assert_eq!(
            status.summary(),
            r"critical: the disk\nis gone (and 2 more); 1,234 requests/s, gdbm unavailable, up 3 days"
        );
    }
}
