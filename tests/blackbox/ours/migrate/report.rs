//! A strict parser of the program's output.

use std::collections::BTreeSet;

use crate::harness::Finished;
use crate::ours::migrate::side::Side;

/// The parsed standard output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Numbers of records transferred and failed, or compared and different; none without a closing line.
    pub(crate) complete: Option<(u64, u64)>,
    /// Keys of the records that failed or differ.
    pub(crate) named: BTreeSet<String>,
    pub(crate) skipped: u64,
    pub(crate) expired: u64,
    pub(crate) deleted: u64,
    pub(crate) before: u64,
    /// Number of existing records that would be replaced or added to, in a dry run.
    pub(crate) met: u64,
    pub(crate) says_clamped: bool,
    pub(crate) says_no_ttl: bool,
}

/// Returns the number at the beginning of a line.
pub(crate) fn leading_number(line: &str) -> u64 {
    let digits = line.split(' ').next().unwrap_or_default();
    digits.parse().unwrap_or_else(|_| panic!("no number in {line:?}"))
}

/// Returns the two numbers in a closing line.
pub(crate) fn numbers(line: &str, frame: [&str; 3]) -> Option<(u64, u64)> {
    let (first, rest) = line.strip_prefix(frame[0])?.split_once(frame[1])?;
    Some((first.parse().ok()?, rest.strip_suffix(frame[2])?.parse().ok()?))
}

/// Asserts that a line gives the elapsed time and the rate, with a comma between thousands.
#[track_caller]
pub(crate) fn expect_rate(line: &str) {
    let (seconds, rate) = line.split_once(" s, ").unwrap();
    assert!(seconds.parse::<f64>().unwrap() >= 0.0, "{line:?}");
    let digits = rate.strip_suffix(" records a second").unwrap();
    let mut groups = digits.split(',');
    assert!(
        (1..=3).contains(&groups.next().unwrap().len()) && groups.all(|group| group.len() == 3),
        "{line:?}"
    );
}

pub(crate) const MIGRATED: [&str; 3] =
    ["Migration complete, ", " records transferred successfully, ", " records failed"];

pub(crate) const DRY: [&str; 3] =
    ["Dry run complete, ", " records would be transferred, ", " records failed"];

pub(crate) const VERIFIED: [&str; 3] = ["Verification complete, ", " records compared, ", " differ"];

impl Summary {
    /// Parses lines, each of which must be known and none repeated. `word` follows the key in lines about one record.
    #[track_caller]
    pub(crate) fn read<'a>(lines: impl Iterator<Item = &'a str>, closing: [&str; 3], word: &str) -> Self {
        let mut summary = Self::default();
        let mut seen = BTreeSet::new();
        for line in lines {
            if let Some(rest) = line.strip_prefix("Record ") {
                assert_eq!(summary.complete, None, "a record after the end: {line:?}");
                let (key, text) =
                    rest.split_once(word).unwrap_or_else(|| panic!("without{word:?}: {line:?}"));
                assert!(!text.trim().is_empty(), "no reason: {line:?}");
                // The prefix of a Redis key may be shown or not; another test checks quotes.
                let key = key.rsplit('.').next().unwrap().replace("\\'", "'");
                assert!(summary.named.insert(key), "twice: {line:?}");
                continue;
            }
            if let Some(numbers) = numbers(line, closing) {
                assert_eq!(summary.complete.replace(numbers), None, "twice: {line:?}");
                continue;
            }
            assert!(summary.complete.is_some(), "before the closing line: {line:?}");
            let kind = if line.contains("clamped") {
                summary.says_clamped = true;
                "clamped"
            } else if line.contains("no TTL") {
                summary.says_no_ttl = true;
                "no TTL"
            } else if line.ends_with("skipped: not digests") {
                summary.skipped = leading_number(line);
                "skipped"
            } else if line.ends_with("left out: expired") {
                summary.expired = leading_number(line);
                "expired"
            } else if line.ends_with("deleted from the source") {
                summary.deleted = leading_number(line);
                "deleted"
            } else if line.ends_with("transferred before") {
                summary.before = leading_number(line);
                "before"
            } else if line.ends_with(" existing ones") {
                summary.met = leading_number(line);
                "met"
            } else if line.ends_with(" records a second") {
                expect_rate(line);
                "rate"
            } else {
                panic!("an unknown line: {line:?}")
            };
            assert!(seen.insert(kind), "twice: {line:?}");
        }
        summary
    }
}

/// Parses the output of a run, and asserts that the number of failed records agrees with the records reported and with
/// the exit code.
#[track_caller]
pub(crate) fn summary_of(finished: &Finished, closing: [&str; 3], word: &str) -> Summary {
    // Notes may report a table that was created, or a journal.
    let is_note = |line: &str| {
        let note = line.strip_prefix("pyzor-migrate: note: ");
        note.is_some_and(|note| note.contains("created the table ") || note.contains("the journal is "))
    };
    assert!(finished.stderr.lines().all(is_note), "{finished:?}");
    let summary = Summary::read(finished.stdout.lines(), closing, word);
    let (_, failed) = summary.complete.unwrap_or_else(|| panic!("no closing line: {finished:?}"));
    assert_eq!(failed, summary.named.len() as u64, "{finished:?}");
    assert_eq!(finished.code, Some(i32::from(failed > 0)), "{finished:?}");
    summary
}

impl Finished {
    /// Parses the output of a complete migration.
    #[track_caller]
    pub(crate) fn migrated(&self) -> Summary {
        summary_of(self, MIGRATED, " failed: ")
    }

    /// Parses the output of a dry run.
    #[track_caller]
    pub(crate) fn dry_run(&self) -> Summary {
        summary_of(self, DRY, " failed: ")
    }

    /// Parses the output of `--verify-only`.
    #[track_caller]
    pub(crate) fn verified(&self) -> Summary {
        summary_of(self, VERIFIED, " differs: ")
    }

    /// Asserts that this number of records was transferred, and that nothing else is reported.
    #[track_caller]
    pub(crate) fn expect_plain(&self, destination: &dyn Side, transferred: u64) {
        let expected = Summary {
            complete: Some((transferred, 0)),
            says_no_ttl: destination.has_ttl(),
            ..Summary::default()
        };
        assert_eq!(self.migrated(), expected, "{self:?}");
    }

    /// Asserts that the only output is one error line that contains all these texts.
    #[track_caller]
    pub(crate) fn expect_refusal(&self, texts: &[&str]) {
        let whole = self.stderr.ends_with('\n') && self.stderr.lines().count() == 1;
        let all = texts.iter().all(|text| self.stderr.to_lowercase().contains(&text.to_lowercase()));
        let begins = self.stderr.starts_with("pyzor-migrate: error: ");
        assert!(
            self.code == Some(1) && self.stdout.is_empty() && begins && whole && all,
            "expected exit code 1 and one line with {texts:?}: {self:?}"
        );
    }
}
