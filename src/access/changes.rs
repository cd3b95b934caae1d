//! The differences between two snapshots of accounts and rights, for the operator who reloads.

use std::collections::BTreeSet;

use super::{Account, Authorizer, Rights};
use pyzor_home::loggable::loggable_name;
use pyzor_wire::op::Op;

/// The most names in one line.
const MOST_NAMES: usize = 20;

impl Authorizer {
    /// Describes the changes from this snapshot to `new`: one line each, without keys. Empty if both are equal.
    pub fn changes_to(&self, new: &Self) -> Vec<String> {
        let both = |differ: fn(&Account, &Account) -> bool| {
            let accounts =
                self.accounts.iter().filter_map(|(user, old)| Some((user, old, new.accounts.get(user)?)));
            accounts
                .filter(|(_, old, new)| differ(old, new))
                .map(|(user, ..)| &**user)
                .collect::<BTreeSet<_>>()
        };
        let only = |these: &Self, others: &Self| {
            let names = these.accounts.keys().filter(|user| !others.accounts.contains_key(*user));
            names.map(|user| user.to_vec()).collect::<BTreeSet<_>>()
        };
        let (added, removed) = (only(new, self), only(self, new));
        let mut lines = Vec::new();
        for (what, users) in [
            ("accounts added", added.iter().map(Vec::as_slice).collect()),
            ("accounts removed", removed.iter().map(Vec::as_slice).collect()),
            ("accounts with a new key", both(|old, new| old.key != new.key)),
            ("accounts with other rights", both(|old, new| old.rights != new.rights)),
        ] {
            lines.extend(line(what, &users));
        }
        if self.anonymous != new.anonymous {
            lines.push(format!("the anonymous user may use: {} (before: {})", new.anonymous, self.anonymous));
        }
        lines
    }
}

/// Returns a line with the number and the first names; none without names.
fn line(what: &str, users: &BTreeSet<&[u8]>) -> Option<String> {
    let shown: Vec<String> = users
        .iter()
        .take(MOST_NAMES)
        .map(|user| loggable_name(&String::from_utf8_lossy(user)).to_owned())
        .collect();
    let more = if users.len() > MOST_NAMES { ", …" } else { "" };
    (!users.is_empty()).then(|| format!("{what}: {} ({}{more})", users.len(), shown.join(", ")))
}

impl std::fmt::Display for Rights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ops: Vec<&str> = Op::ALL
            .into_iter()
            .filter(|op| self.operation(op.name().as_bytes()).is_ok())
            .map(Op::name)
            .collect();
        f.write_str(if ops.is_empty() { "nothing".to_owned() } else { ops.join(" ") }.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::load_texts;
    use super::super::{AccessOrder, AccessSources, PresentFiles};
    use super::*;

    fn authorizer(passwd: &str, access: &str) -> Authorizer {
        let sources = AccessSources {
            passwd: "passwd".into(),
            access: "access".into(),
            order: AccessOrder::First,
            order_chosen: true,
            forward_from: Vec::new(),
        };
        let text = |text: &str| Some(text.as_bytes().to_vec());
        load_texts(&sources, PresentFiles::default(), text(passwd), text(access)).authorizer
    }

    #[test]
    fn every_kind_of_change_is_named() {
        let key = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        let other = key.replace('d', "e");
        let old = authorizer(
            &format!("alice : {key}\nbob : {key}\ncarol : {key}\n"),
            "check : anonymous : allow\nall : alice : allow\n",
        );
        let new = authorizer(
            &format!("alice : {key}\nbob : {other}\ndave : {key}\n"),
            "check ping : anonymous : allow\nping : alice : allow\n",
        );
        assert_eq!(
            old.changes_to(&new),
            [
                "accounts added: 1 (dave)",
                "accounts removed: 1 (carol)",
                "accounts with a new key: 1 (bob)",
                "accounts with other rights: 1 (alice)",
                "the anonymous user may use: ping check (before: check)",
            ]
        );
        assert!(old.changes_to(&old).is_empty());
    }

    #[test]
    fn many_names_are_cut() {
        let key = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        let accounts: String = (0..100).map(|number| format!("user{number:03} : {key}\n")).collect();
        let lines = Authorizer::default().changes_to(&authorizer(&accounts, ""));
        assert!(lines[0].starts_with("accounts added: 100 (user000, "), "{lines:?}");
        assert!(lines[0].ends_with("user019, …)"), "{lines:?}");
    }
}
