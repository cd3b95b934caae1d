//! The result of a reload, for operators.

use crate::control::figures::printable;
use crate::control::reply::ReloadReport;

/// Returns what changed, one line each, and the warnings about the files.
pub(super) fn render(report: &ReloadReport) -> String {
    let mut text = match report.changes.as_slice() {
        [] => "reloaded: nothing has changed\n".to_owned(),
        [one] => format!("reloaded: {}\n", printable(one)),
        [_, ..] => "reloaded:\n".to_owned(),
    };
    if report.changes.len() > 1 {
        text.extend(report.changes.iter().map(|change| format!("  {}\n", printable(change))));
    }
    text.extend(report.warnings.iter().map(|warning| format!("warning: {}\n", printable(warning))));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_and_warnings_have_a_line_each() {
        let rendered = |changes: &[&str], warnings: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
            render(&ReloadReport { changes: owned(changes), warnings: owned(warnings) })
        };
        assert_eq!(rendered(&[], &[]), "reloaded: nothing has changed\n");
        assert_eq!(rendered(&["one"], &["a\x1bb"]), "reloaded: one\nwarning: a\\u{1b}b\n");
        assert_eq!(rendered(&["one", "two"], &[]), "reloaded:\n  one\n  two\n");
    }
}
