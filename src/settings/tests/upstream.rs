//! The options of second opinions.

use std::path::Path;
use std::time::Duration;

use super::Home;
use crate::remotes::DirectorySource;

#[test]
fn second_opinions_are_off_by_default_and_with_an_empty_path() {
    for config in ["[server]\n", "[server]\nUpstreamHomeDir =\n"] {
        assert!(Home::new(Some(config)).settings(&[]).upstream.is_none(), "{config}");
    }
}

#[test]
fn second_opinions_have_their_defaults() {
    let home = Home::new(Some("[server]\nUpstreamHomeDir = ~/x\n"));
    let upstream = home.settings(&[]).upstream.unwrap();
    let path = Path::new("/work dir/~/x").to_owned();
    assert_eq!(upstream.source, DirectorySource { path, home: Some(home.directory.path().to_owned()) });
    assert_eq!((upstream.timeout, upstream.cache, upstream.rate), (Duration::from_secs(1), 65_536, 200));
    assert_eq!(
        (upstream.found_age, upstream.miss_age),
        (Duration::from_secs(3600), Duration::from_secs(300))
    );
}

#[test]
fn second_opinions_have_the_values_of_the_file() {
    let home = Home::new(Some(
        "[server]\nForwardClientHomeDir = /x\nUpstreamHomeDir = /x\nUpstreamTimeout = 10\nUpstreamCache = 0\nUpstreamCacheAge = 31536000\nUpstreamMissAge = 1\nUpstreamRate = 7\n",
    ));
    let settings = home.settings(&[]);
    let upstream = settings.upstream.clone().unwrap();
    assert_eq!(upstream.source, settings.forward.unwrap().source, "one directory may serve both");
    assert_eq!((upstream.timeout, upstream.cache, upstream.rate), (Duration::from_secs(10), 0, 7));
    assert_eq!(
        (upstream.found_age, upstream.miss_age),
        (Duration::from_secs(31_536_000), Duration::from_secs(1))
    );
    assert_eq!((settings.warnings, settings.notices), (Vec::new(), Vec::new()));
}

#[test]
fn options_without_second_opinions_cause_a_notice() {
    let home = Home::new(Some("[server]\nUpstreamRate = 5\nUpstreamTimeout = 2\nForwardRate = 5\n"));
    assert_eq!(
        home.settings(&[]).notices,
        [
            "ForwardRate: no effect, because ForwardClientHomeDir is not set",
            "UpstreamTimeout, UpstreamRate: no effect, because UpstreamHomeDir is not set"
        ]
    );
}
