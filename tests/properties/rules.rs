//! Access files in both orders: the handler's decisions are compared with those of a model of the rules.

use std::fs;
use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use pyzor_wire::reply::Refusal;
use pyzor_wire::signature::KeyHash;
use pyzord::access::{AccessOrder, AccessSources, LoadedAccess, PresentFiles, load};
use pyzord::fuzzing::model_grants;
use pyzord::handler::{Handler, NextStep};
use pyzord::record::Timestamp;

use crate::cases;

const OPS: [&str; 6] = ["ping", "pong", "check", "info", "report", "whitelist"];
/// Accounts and the anonymous user. No two accounts differ only in case.
const USERS: [&str; 4] = ["alice", "Bob", "J\u{f6}rg", "anonymous"];
const KEY: &str = "227bfb58efaba7c582d9dcb66ab2063d38df2923";
const NOW: i64 = 1_795_343_270;

/// One line of an access file.
#[derive(Clone, Debug)]
struct Rule {
    ops: Vec<&'static str>,
    users: Vec<&'static str>,
    allow: bool,
    /// Whether the line is written in upper case.
    upper: bool,
    /// The white space around words.
    blanks: &'static str,
}

impl Rule {
    fn matches(&self, user: &str, op: &str) -> bool {
        let is_op = self.ops.contains(&op) || self.ops.contains(&"all") && OPS.contains(&op);
        let is_user = self.users.contains(&user) || self.users.contains(&"all") && user != "anonymous";
        is_op && is_user
    }

    fn line(&self) -> String {
        let line = format!(
            "{0}{1}{0}:{0}{2}{0}:{0}{3}{0}",
            self.blanks,
            self.ops.join(" "),
            self.users.join(" "),
            if self.allow { "allow" } else { "deny" }
        );
        if self.upper { line.to_uppercase() } else { line }
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let words = ["ping", "pong", "check", "info", "report", "whitelist", "all", "train"];
    let users = ["alice", "Bob", "J\u{f6}rg", "anonymous", "all", "mallory"];
    (
        subsequence(words.to_vec(), 0..4),
        subsequence(users.to_vec(), 0..4),
        any::<bool>(),
        any::<bool>(),
        select(vec!["", " ", "\t", "  \u{a0}"]),
    )
        .prop_map(|(ops, users, allow, upper, blanks)| Rule { ops, users, allow, upper, blanks })
}

/// Lines without effect.
fn noise() -> impl Strategy<Value = &'static str> {
    select(vec!["", "# all : all : allow", "all : all", "all : all anonymous : allow really", "a:b:c:d", " "])
}

/// Whether the rules grant the operation: the first or the last matching rule decides.
fn granted(rules: &[Rule], order: AccessOrder, user: &str, op: &str) -> bool {
    let mut decision = false;
    let mut is_decided = false;
    for rule in rules.iter().filter(|rule| rule.matches(user, op)) {
        if order == AccessOrder::Last || !is_decided {
            decision = rule.allow;
        }
        is_decided = true;
    }
    decision
}

fn loaded(directory: &tempfile::TempDir, text: &str, order: AccessOrder) -> LoadedAccess {
    let (passwd, access) = (directory.path().join("passwd"), directory.path().join("access"));
    let accounts: String = USERS[..3].iter().map(|user| format!("{user} : {KEY}\n")).collect();
    fs::write(&passwd, accounts).unwrap();
    fs::write(&access, text).unwrap();
    load(
        &AccessSources { passwd, access, order, order_chosen: false, forward_from: Vec::new() },
        PresentFiles::default(),
    )
    .unwrap()
}

/// Returns the handler's decision on a request.
fn decision(loaded: &LoadedAccess, user: &str, op: &str) -> Result<(), Refusal> {
    let signed = format!("Op: {op}\nPV: 2.1\nUser: {user}\nTime: {NOW}");
    let signature = KeyHash::new(user, KEY).sign(signed.as_bytes(), NOW);
    let datagram = format!("{signed}\nSig: {}\n", String::from_utf8_lossy(&signature));
    let peer = SocketAddr::from(([127, 0, 0, 1], 24441));
    let mut handler = Handler::default();
    let now = Timestamp::from_seconds(NOW);
    match handler.decide(datagram.as_bytes(), peer, now, &loaded.authorizer).unwrap().step {
        NextStep::Refuse(refusal) => Err(refusal),
        _ => Ok(()),
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn every_user_may_use_exactly_the_granted_operations(
        lines in prop::collection::vec((rule(), noise()), 0..8),
        end in select(vec!["\n", "\r\n", "\r"]),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let text: String = lines.iter().map(|(rule, noise)| format!("{}{end}{noise}{end}", rule.line())).collect();
        let rules: Vec<Rule> = lines.into_iter().map(|(rule, _)| rule).collect();
        let mut is_ambiguous = false;
        for order in [AccessOrder::First, AccessOrder::Last] {
            let loaded = loaded(&directory, &text, order);
            for user in USERS {
                for op in OPS.into_iter().chain(["train"]) {
                    let is_granted = granted(&rules, order, user, op);
                    let expected = match (is_granted, op) {
                        (false, _) => Err(Refusal::Forbidden),
                        (true, "train") => Err(Refusal::NotImplemented),
                        (true, _) => Ok(()),
                    };
                    prop_assert_eq!(decision(&loaded, user, op), expected, "{} and {} in\n{}", user, op, text);
                    // Checks the model of the fuzz targets, too.
                    prop_assert_eq!(model_grants(text.as_bytes(), order, user, op), is_granted);
                    let other = if order == AccessOrder::First { AccessOrder::Last } else { AccessOrder::First };
                    is_ambiguous |= granted(&rules, other, user, op) != is_granted;
                }
            }
            let has_warning = loaded.warnings.iter().any(|warning| warning.contains("set AccessOrder"));
            prop_assert_eq!(has_warning, is_ambiguous, "{:?}", loaded.warnings);
        }
    }
}
