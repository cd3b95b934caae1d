//! Forms of `DigestDB` that only this server supports.

mod dsns;
mod tls;

use crate::engines::mysql::PASSWORD;
use crate::harness::Home;

/// Checks that a server exits with code 1 and prints one line with these texts and without the password. Returns the
/// line.
#[track_caller]
fn refused(home: &Home, texts: &[&str]) -> String {
    let Err(status) = home.try_start() else { panic!("the server has started") };
    let line = home.stderr();
    let whole = line.ends_with('\n') && line.lines().count() == 1;
    let all = texts.iter().all(|text| line.contains(text));
    assert!(status.code() == Some(1) && whole && all, "{status}, expected one line with {texts:?}: {line}");
    assert!(!home.everything_said().contains(PASSWORD), "{}", home.everything_said());
    line
}
