//! Labels of other servers.

use std::collections::BTreeMap;

use crate::stats::{CODES, OTHER_CODE};

/// The label of a server.
pub(super) type ServerLabel<'a> = [(&'static str, &'a str); 1];
/// The label of a code of refusal.
type CodeLabel = [(&'static str, String); 1];

/// Returns the label of a server.
pub(super) fn label(server: &str) -> ServerLabel<'_> {
    [("server", server)]
}

/// Labels what a server refused by code. Each code is there, so that a rate sees the first event.
pub(super) fn refusals<'a>(
    server: &'a str,
    refused: &BTreeMap<u16, u64>,
) -> impl Iterator<Item = ((ServerLabel<'a>, CodeLabel), u64)> {
    let codes = CODES.into_iter().filter(|code| *code != 200).chain([OTHER_CODE]);
    codes.map(move |code| {
        let name = if code == OTHER_CODE { "other".to_owned() } else { code.to_string() };
        ((label(server), [("code", name)]), refused.get(&code).copied().unwrap_or(0))
    })
}
