//! The fuzz target for replies of the control socket.

use std::path::Path;

use serde_json::Value;

use super::connection::understand;
use super::{interval, output, reload, stats, status};
use crate::control::figures::is_unprintable;
use crate::control::reply::ControlReply;
use crate::stats::StatsReport;

/// Reads any reply. What is printed of it controls no terminal, and is a line each as JSON.
pub(crate) fn target(line: &[u8]) {
    let check = |text: &str| {
        let found = text.chars().find(|character| *character != '\n' && is_unprintable(*character));
        assert_eq!(found, None, "{}", text.escape_debug());
    };
    let received = match understand(Path::new("/socket"), line) {
        Ok(received) => received,
        Err(error) => return check(&crate::control::figures::printable(&error.to_string())),
    };
    match &received.reply {
        ControlReply::Status(report) => {
            let text = status::render(report);
            check(&text);
            assert_eq!(text.lines().next(), Some(report.summary().as_str()));
            let lines = text.lines().filter(|line| line.starts_with("  upstream ")).count();
            assert_eq!(
                lines,
                report.upstream.as_ref().map_or(0, |upstream| upstream.servers.len() + 1),
                "{text}"
            );
        }
        ControlReply::Stats(report) => {
            let text = stats::render(report);
            check(&text);
            let tables = text.matches("\n  checks that missed here ").count();
            assert_eq!(tables, usize::from(report.upstream.is_some()), "{text}");
            for earlier in [&StatsReport::default(), report.as_ref()] {
                let row = interval::row("12:34:56", &report.since(earlier));
                check(&row);
                assert_eq!(row.lines().count(), 1, "{row}");
            }
        }
        ControlReply::Reloaded(report) => {
            let text = reload::render(report);
            check(&text);
            assert!(text.lines().count() <= 1 + report.changes.len() + report.warnings.len(), "{text}");
        }
        ControlReply::Error(text) | ControlReply::Unavailable(text) => {
            panic!("an error is not a reply: {text}")
        }
    }
    let line = output::json_line(&received.json);
    check(&line);
    let again = serde_json::from_str::<Value>(&line);
    assert!(again.is_ok() && line.lines().count() == 1, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply that lacks a field is refused as a whole: fuzzing would then print nothing of it.
    #[test]
    fn stored_reports_are_understood() {
        for name in ["stats", "status", "upstream_stats", "upstream_status", "well"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/control_reply").join(name);
            let understood = understand(Path::new("/socket"), &std::fs::read(path).unwrap());
            assert!(understood.is_ok(), "{name}: {}", understood.unwrap_err());
        }
    }
}
