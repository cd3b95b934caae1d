//! The access file: `commands : usernames : allow|deny`, decided by the first matching line (or,
//! as in the Python server, by the last).

use pyzor_home::lines::significant;
use pyzor_home::loggable::{loggable_name, may_hold_key, quoted};
use pyzor_wire::op::Op;
use pyzor_wire::request::ANONYMOUS;

/// The matching line of an access file that decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessOrder {
    /// The first, as Pyzor's manual says.
    #[default]
    First,
    /// The last, as in the Python server.
    Last,
}

impl AccessOrder {
    /// The names of both orders in the option `AccessOrder`.
    pub(crate) const NAMES: [&'static str; 2] = ["first", "last"];

    /// The order of a name; the default one for any other name.
    pub(crate) fn named(name: &str) -> Self {
        if name == Self::NAMES[1] { Self::Last } else { Self::First }
    }
}

/// One line of an access file. Names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AccessRule {
    pub(super) line: usize,
    pub(super) all_ops: bool,
    pub(super) ops: Vec<String>,
    pub(super) all_users: bool,
    pub(super) users: Vec<String>,
    /// The names of `users` in the case in which the file has them.
    pub(super) written_users: Vec<String>,
    pub(super) allow: bool,
}

/// A user as rules look for one.
#[derive(Debug)]
pub(super) struct RuleUser {
    folded: String,
    anonymous: bool,
}

impl RuleUser {
    /// The user of this name, in the case that accounts and requests have it in.
    pub(super) fn new(name: &str) -> Self {
        Self { folded: name.to_lowercase(), anonymous: name == ANONYMOUS }
    }
}

/// What a warning says of rights that the Python server does not grant.
const WIDER: &str = "WIDER than under the Python server";

/// What holds when there is no access file.
pub(super) const DEFAULT: &[u8] = b"check report ping pong info : anonymous : allow\n";

impl AccessRule {
    fn names_op(&self, op: &str) -> bool {
        self.ops.iter().any(|name| name == op) || self.all_ops && Op::from_name(op.as_bytes()).is_some()
    }

    fn names_user(&self, user: &RuleUser) -> bool {
        // An account that is called Anonymous is not the anonymous user.
        let named =
            self.users.iter().any(|name| *name == user.folded && (name == ANONYMOUS) == user.anonymous);
        named || self.all_users && !user.anonymous
    }
}

/// Reads an access file's text. Every line that is passed over gets a warning.
pub(super) fn parse(file: &[u8], name: &str, warnings: &mut Vec<String>) -> Vec<AccessRule> {
    let mut rules = Vec::new();
    for line in significant(file) {
        let mut skip = |why: String| {
            // A line of the wrong file may hold a key, and keys are in no log.
            let told = match line.text {
                Some(text) if !may_hold_key(text) => format!(" {}", quoted(text.trim())),
                _ => String::new(),
            };
            warnings.push(format!("{name}:{}: Invalid ACL line{told}, skipped: {why}", line.number));
        };
        let Some(text) = line.text else {
            skip("it is not UTF-8".to_owned());
            continue;
        };
        let mut parts = text.split(':');
        let (Some(ops), Some(users), Some(verb), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            skip("expected 'commands : usernames : allow|deny', three parts separated by colons".to_owned());
            continue;
        };
        let allow = match verb.trim().to_lowercase().as_str() {
            "allow" => true,
            "deny" => false,
            other if other.starts_with("allow") || other.starts_with("deny") => {
                skip(format!("nothing may follow 'allow' or 'deny', but {} does", quoted(other)));
                continue;
            }
            other => {
                skip(format!("expected 'allow' or 'deny', not {}", quoted(other)));
                continue;
            }
        };
        let (all_ops, ops) = list(ops);
        let (all_users, written_users) = list(users);
        let folded = |names: &[String]| names.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>();
        let (ops, users) = (folded(&ops), folded(&written_users));
        if allow && (all_ops && !ops.is_empty() || all_users && !users.is_empty()) {
            warnings.push(format!(
                "{name}:{}: 'all' beside other words of a list means all here, but was a name like any other in the \
                 Python server: the rights are {WIDER}",
                line.number
            ));
        }
        for (what, empty) in
            [("commands", !all_ops && ops.is_empty()), ("usernames", !all_users && users.is_empty())]
        {
            if empty {
                warnings.push(format!(
                    "{name}:{}: the list of {what} is empty, so this line has no effect",
                    line.number
                ));
            }
        }
        rules.push(AccessRule { line: line.number, all_ops, ops, all_users, users, written_users, allow });
    }
    rules
}

/// Splits a list at white space and takes the keyword `all`, in any case, out of it.
fn list(text: &str) -> (bool, Vec<String>) {
    let (all, names): (Vec<&str>, Vec<&str>) =
        text.split_whitespace().partition(|name| name.eq_ignore_ascii_case("all"));
    (!all.is_empty(), names.into_iter().map(str::to_owned).collect())
}

/// The rule that decides whether the user may use the operation; none: it is the implicit final
/// one, which denies.
pub(super) fn deciding<'a>(
    rules: &'a [AccessRule],
    order: AccessOrder,
    user: &RuleUser,
    op: &str,
) -> Option<&'a AccessRule> {
    let matches = |rule: &&AccessRule| rule.names_user(user) && rule.names_op(op);
    match order {
        AccessOrder::First => rules.iter().find(matches),
        AccessOrder::Last => rules.iter().rev().find(matches),
    }
}

/// Every operation that the rules can decide on: the six, and others that they name.
pub(super) fn ops_named(rules: &[AccessRule]) -> Vec<&str> {
    let mut ops: Vec<&str> = Op::ALL.iter().map(|op| op.name()).collect();
    for op in rules.iter().flat_map(|rule| &rule.ops) {
        if !ops.contains(&op.as_str()) {
            ops.push(op);
        }
    }
    ops
}

/// What both orders decide differently, one line of text for every pair of deciding lines.
///
/// `users` are all users there are, as their accounts write them.
pub(super) fn differences(rules: &[AccessRule], users: &[&str], name: &str) -> Vec<String> {
    struct Difference<'a> {
        first: &'a AccessRule,
        last: &'a AccessRule,
        users: Vec<&'a str>,
        ops: Vec<&'a str>,
    }
    let ops = ops_named(rules);
    let mut found: Vec<Difference<'_>> = Vec::new();
    for user in users {
        let who = RuleUser::new(user);
        for op in &ops {
            let first = deciding(rules, AccessOrder::First, &who, op);
            let last = deciding(rules, AccessOrder::Last, &who, op);
            let (Some(first), Some(last)) = (first, last) else { continue };
            if first.allow == last.allow {
                continue;
            }
            let index = found
                .iter()
                .position(|known| known.first.line == first.line && known.last.line == last.line)
                .unwrap_or_else(|| {
                    found.push(Difference { first, last, users: Vec::new(), ops: Vec::new() });
                    found.len() - 1
                });
            let difference = &mut found[index];
            if difference.users.last() != Some(user) {
                difference.users.push(user);
            }
            if !difference.ops.contains(op) {
                difference.ops.push(op);
            }
        }
    }
    found
        .into_iter()
        .map(|Difference { first, last, users, ops }| {
            let (verb, other, effect) = if first.allow {
                ("allowed", "denied", WIDER)
            } else {
                ("denied", "allowed", "narrower than under the Python server")
            };
            format!(
                "{name}:{}: {} {verb} to {} by this line, the first that matches, but was {other} by line {}, the \
                 last, which decides in the Python server: the rights are {effect}; set AccessOrder = first or last \
                 to choose",
                first.line,
                several(&ops),
                several(&users),
                last.line,
            )
        })
        .collect()
}

fn several(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let listed = names.iter().take(SHOWN).map(|name| loggable_name(name)).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}
