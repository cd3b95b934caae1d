//! The options of forwarding.

use std::path::Path;
use std::time::Duration;

use super::Home;
use crate::remotes::DirectorySource;

#[test]
fn forwarding_is_off_by_default_and_with_an_empty_path() {
    for config in ["[server]\n", "[server]\nForwardClientHomeDir =\n"] {
        assert!(Home::new(Some(config)).settings(&[]).forward.is_none(), "{config}");
    }
    let home = Home::new(Some("[server]\nForwardClientHomeDir = /x\n"));
    assert!(home.settings(&["--forward-client-homedir="]).forward.is_none());
}

#[test]
fn forwarding_has_its_defaults() {
    let home = Home::new(None);
    let forward = home.settings(&["--forward-client-homedir", "~/x"]).forward.unwrap();
    let path = Path::new("/work dir/~/x").to_owned();
    assert_eq!(forward.source, DirectorySource { path, home: Some(home.directory.path().to_owned()) });
    assert!(forward.reports && forward.whitelists && forward.origin.is_none());
    assert_eq!((forward.delay, forward.retries), (Duration::from_secs(1), 0));
    assert_eq!((forward.queue, forward.rate), (10_000, 100));
}

#[test]
fn forwarding_has_the_values_of_the_file() {
    let home = Home::new(Some(
        "[server]\nForwardClientHomeDir = /x\nForwardOps = whitelist\nForwardDelay = 0\nForwardRetries = 3\nForwardQueue = 77\nForwardRate = 5\nForwardFrom = bob, 192.0.2.0/24\nForwardOrigin = 00000000000000FF\n",
    ));
    let settings = home.settings(&[]);
    let forward = settings.forward.clone().unwrap();
    assert!(!forward.reports && forward.whitelists);
    assert_eq!((forward.delay, forward.retries), (Duration::ZERO, 3));
    assert_eq!((forward.queue, forward.rate), (77, 5));
    assert_eq!(forward.origin.unwrap().to_string(), "00000000000000ff");
    assert_eq!(settings.forward_origin, forward.origin);
    assert!(settings.forward_from.names("192.0.2.9".parse().unwrap(), b""));
    assert!(settings.forward_from.names("::1".parse().unwrap(), b"bob"));
    assert_eq!(settings.access_sources().forward_from, ["bob"]);
    assert_eq!(settings.warnings, [""; 0]);
}

#[test]
fn options_without_forwarding_cause_a_notice() {
    let home =
        Home::new(Some("[server]\nForwardRate = 5\nForwardFrom = bob\nForwardOrigin = 00000000000000ff\n"));
    assert_eq!(home.settings(&[]).access_sources().forward_from, [""; 0]);
    assert_eq!(
        home.settings(&[]).notices,
        ["ForwardRate, ForwardFrom: no effect, because ForwardClientHomeDir is not set"]
    );
}
