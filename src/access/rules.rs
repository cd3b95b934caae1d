//! The access file: lines `commands : usernames : allow|deny`. The first matching line decides, or the last, as in the
//! Python server.

use pyzor_home::lines::{SignificantLine, significant};
use pyzor_home::loggable::{loggable_name, may_hold_key, quoted};
use pyzor_wire::op::Op;
use pyzor_wire::request::ANONYMOUS;

/// The matching line of an access file that decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessOrder {
    /// The first, as documented.
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
    /// The names of `users` in their original case.
    pub(super) written_users: Vec<String>,
    pub(super) allow: bool,
}

/// A user name, prepared for matching.
#[derive(Debug)]
pub(super) struct RuleUser {
    folded: String,
    anonymous: bool,
}

impl RuleUser {
    /// Prepares a name, which is in the case of the accounts file.
    pub(super) fn new(name: &str) -> Self {
        Self { folded: name.to_lowercase(), anonymous: name == ANONYMOUS }
    }
}

/// The effect, in warnings, of granting rights that the Python server denies.
const WIDER: &str = "WIDER than under the Python server";

/// The default rules, used if there is no access file.
pub(super) const DEFAULT: &[u8] = b"check report ping pong info : anonymous : allow\n";

impl AccessRule {
    fn names_op(&self, op: &str) -> bool {
        self.ops.iter().any(|name| name == op) || self.all_ops && Op::from_name(op.as_bytes()).is_some()
    }

    fn names_user(&self, user: &RuleUser) -> bool {
        // An account named `Anonymous` is not the anonymous user.
        let named =
            self.users.iter().any(|name| *name == user.folded && (name == ANONYMOUS) == user.anonymous);
        named || self.all_users && !user.anonymous
    }
}

/// Reads the text of an access file, which warnings call `name`. Every skipped line causes a warning.
pub(super) fn parse(file: &[u8], name: &str, warnings: &mut Vec<String>) -> Vec<AccessRule> {
    let mut rules = Vec::new();
    for line in significant(file) {
        let mut warn = |text: String| warnings.push(format!("{name}:{}: {text}", line.number));
        match parse_line(&line) {
            Ok(rule) => {
                warn_of_lists(&rule, warn);
                rules.push(rule);
            }
            Err(why) => {
                // A line of the wrong file may hold a key, which must not be logged.
                let shown = match line.text {
                    Some(text) if !may_hold_key(text) => format!(" {}", quoted(text.trim())),
                    _ => String::new(),
                };
                warn(format!("Invalid ACL line{shown}, skipped: {why}"));
            }
        }
    }
    rules
}

fn parse_line(line: &SignificantLine<'_>) -> Result<AccessRule, String> {
    let text = line.text.ok_or("it is not UTF-8")?;
    let parts: Vec<&str> = text.split(':').collect();
    let [ops, users, verb] = parts[..] else {
        return Err(
            "expected 'commands : usernames : allow|deny', three parts separated by colons".to_owned()
        );
    };
    let allow = match verb.trim().to_lowercase().as_str() {
        "allow" => true,
        "deny" => false,
        other if other.starts_with("allow") || other.starts_with("deny") => {
            return Err(format!("expected nothing after 'allow' or 'deny', but found {}", quoted(other)));
        }
        other => return Err(format!("expected 'allow' or 'deny', not {}", quoted(other))),
    };
    let (all_ops, ops) = list(ops);
    let (all_users, written_users) = list(users);
    let folded = |names: &[String]| names.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>();
    let (ops, users) = (folded(&ops), folded(&written_users));
    Ok(AccessRule { line: line.number, all_ops, ops, all_users, users, written_users, allow })
}

/// Warns of lists that are empty, or that the Python server reads differently.
fn warn_of_lists(rule: &AccessRule, mut warn: impl FnMut(String)) {
    if rule.allow && (rule.all_ops && !rule.ops.is_empty() || rule.all_users && !rule.users.is_empty()) {
        warn(format!(
            "'all' in a list of several words means all, but is an ordinary name in the Python server: the rights are \
             {WIDER}"
        ));
    }
    if !rule.all_ops && rule.ops.is_empty() {
        warn("the list of commands is empty, so this line has no effect".to_owned());
    }
    if !rule.all_users && rule.users.is_empty() {
        warn("the list of usernames is empty, so this line has no effect".to_owned());
    }
}

/// Splits a list at white space; returns whether it has the keyword `all`, in any case, and its other words.
fn list(text: &str) -> (bool, Vec<String>) {
    let (all, names): (Vec<&str>, Vec<&str>) =
        text.split_whitespace().partition(|name| name.eq_ignore_ascii_case("all"));
    (!all.is_empty(), names.into_iter().map(str::to_owned).collect())
}

/// Returns the rule that decides whether the user may use the operation; none if no rule matches, which denies it.
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

/// Returns all operations on which the rules can decide: the six of the protocol, and others that the rules name.
pub(super) fn ops_named(rules: &[AccessRule]) -> Vec<&str> {
    let mut ops: Vec<&str> = Op::ALL.iter().map(|op| op.name()).collect();
    for op in rules.iter().flat_map(|rule| &rule.ops) {
        if !ops.contains(&op.as_str()) {
            ops.push(op);
        }
    }
    ops
}

/// Returns a warning for every pair of rules through which the two orders decide differently.
///
/// `users` are the names of all users, in the case of the accounts file.
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
                "{name}:{}: {} {verb} to {} by this line, the first match, but {other} by line {}, the last match, \
                 which decides in the Python server: the rights are {effect}; set AccessOrder to first or last",
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
