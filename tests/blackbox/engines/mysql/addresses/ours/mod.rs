//! Ways to a table that this server alone knows.

mod dsns;
mod tls;

use crate::engines::mysql::PASSWORD;
use crate::harness::Home;

/// Starts a server that must end with exit code 1 and one line, with these texts in it and no password;
/// returns the line.
#[track_caller]
fn refused(home: &Home, texts: &[&str]) -> String {
    let Err(status) = home.try_start() else { panic!("it serves") };
    let line = home.stderr();
    let whole = line.ends_with('\n') && line.lines().count() == 1;
    let all = texts.iter().all(|text| line.contains(text));
    assert!(status.code() == Some(1) && whole && all, "{status}, expected one line with {texts:?}: {line}");
    assert!(!home.everything_said().contains(PASSWORD), "{}", home.everything_said());
    line
}
