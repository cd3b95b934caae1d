//! Loading: makes an [`Authorizer`] from the passwd and access files.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::rules::{self, AccessOrder, AccessRule, RuleUser};
use super::{Account, Authorizer, Rights};
use crate::os::open::{self, FileContent};
use pyzor_home::loggable::{loggable_name, quoted};
use pyzor_home::passwd::{self, PasswdEntry};
use pyzor_wire::request::ANONYMOUS;

/// The permission bits to read and write for users who are neither the owner nor in the group.
const FOR_OTHERS: u32 = 0o006;

/// The effect of a missing passwd file, in the words of the Python server.
const NO_ACCOUNTS: &str = "Accounts file does not exist - only the anonymous user will be available.";
/// The effect of a missing access file, in the words of the Python server.
const NO_RULES: &str =
    "Using default ACL: the anonymous user may use the check, report, ping and info commands.";

/// The files of accounts and rights, and the order in which rules are applied.
#[derive(Clone, Debug)]
pub struct AccessSources {
    /// The passwd file.
    pub passwd: PathBuf,
    /// The access file.
    pub access: PathBuf,
    /// The matching rule that decides.
    pub order: AccessOrder,
    /// Whether the operator chose the order, which then needs no warning.
    pub order_chosen: bool,
    /// The accounts that `ForwardFrom` names, which should exist.
    pub forward_from: Vec<String>,
}

/// The contents of both files.
#[derive(Debug)]
pub struct LoadedAccess {
    /// The accounts with their rights.
    pub authorizer: Authorizer,
    /// Warnings for the operator, one line each.
    pub warnings: Vec<String>,
    /// Lines for the log about what was loaded.
    pub notes: Vec<String>,
    /// The files that exist.
    pub present: PresentFiles,
}

/// Whether each of the two files exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresentFiles {
    passwd: bool,
    access: bool,
}

/// A file exists, but cannot be read.
#[derive(Debug, Error)]
#[error("cannot read the {what} file {}: {error}", path.display())]
pub struct AccessLoadError {
    what: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl AccessLoadError {
    /// Whether this process may not read the file.
    pub(crate) fn is_denied(&self) -> bool {
        self.error.kind() == io::ErrorKind::PermissionDenied
    }

    /// Whether the error stays until an operator changes the file.
    pub(crate) fn is_lasting(&self) -> bool {
        open::is_lasting(&self.error)
    }
}

/// Loads both files. A missing file is not an error: without accounts there is only the anonymous user, and without
/// rules the default rules apply. A file that is in `before` and no longer exists causes a warning.
///
/// # Errors
///
/// A file exists, but cannot be read.
pub fn load(sources: &AccessSources, before: PresentFiles) -> Result<LoadedAccess, AccessLoadError> {
    let passwd = read("passwd", &sources.passwd)?;
    let access = read("access", &sources.access)?;
    let is_open = passwd.as_ref().is_some_and(|file| file.mode & FOR_OTHERS != 0);
    let text = |file: Option<FileContent>| file.map(|file| file.text);
    let mut loaded = load_texts(sources, before, text(passwd), text(access));
    if is_open {
        let path = sources.passwd.display();
        loaded.warnings.push(format!(
            "every user of this machine can read or change the keys in {path}: chmod o= {path}"
        ));
    }
    Ok(loaded)
}

/// Makes an [`Authorizer`] from the texts of both files; none is a missing file.
pub(super) fn load_texts(
    sources: &AccessSources,
    before: PresentFiles,
    passwd: Option<Vec<u8>>,
    access: Option<Vec<u8>>,
) -> LoadedAccess {
    let present = PresentFiles { passwd: passwd.is_some(), access: access.is_some() };
    let (mut warnings, mut notes) = (Vec::new(), Vec::new());
    let name = sources.access.display().to_string();
    let entries = match passwd {
        Some(text) => {
            let entries = passwd::parse(&text, &sources.passwd.display().to_string(), &mut warnings);
            let users: Vec<&str> = entries.iter().map(|entry| loggable_name(&entry.user)).collect();
            notes.push(format!("Accounts: {}", users.join(",")));
            entries
        }
        None => {
            report_missing(&sources.passwd, before.passwd, NO_ACCOUNTS, &mut warnings, &mut notes);
            Vec::new()
        }
    };
    let rules = match access {
        Some(text) => rules::parse(&text, &name, &mut warnings),
        None => {
            report_missing(&sources.access, before.access, NO_RULES, &mut warnings, &mut notes);
            rules::parse(rules::DEFAULT, &name, &mut warnings)
        }
    };
    warn_of_case(&entries, &rules, sources, &mut warnings);
    for user in &sources.forward_from {
        if !entries.iter().any(|entry| entry.user == *user) {
            warnings.push(format!(
                "ForwardFrom: there is no account {} in {}: correct the name, or add the account; name a host by its \
                 address",
                quoted(user),
                sources.passwd.display()
            ));
        }
    }
    if !sources.order_chosen {
        let users: Vec<&str> =
            entries.iter().map(|entry| entry.user.as_str()).chain(std::iter::once(ANONYMOUS)).collect();
        warnings.extend(rules::differences(&rules, &users, &name));
    }

    let ops = rules::ops_named(&rules);
    let rights = |user: &str| rights_of(&RuleUser::new(user), &rules, &ops, sources.order);
    let anonymous = rights(ANONYMOUS);
    let accounts: HashMap<Box<[u8]>, Account> = entries
        .iter()
        .map(|entry| {
            (entry.user.as_bytes().into(), Account { key: entry.key.clone(), rights: rights(&entry.user) })
        })
        .collect();
    notes.push(summary(&anonymous, &accounts));
    LoadedAccess { authorizer: Authorizer { accounts, anonymous }, warnings, notes, present }
}

/// Reports a missing file: a warning if it existed before, otherwise a note.
fn report_missing(
    path: &Path,
    existed: bool,
    effect: &str,
    warnings: &mut Vec<String>,
    notes: &mut Vec<String>,
) {
    match existed {
        true => warnings.push(format!("{} no longer exists. {effect}", path.display())),
        false => notes.push(effect.to_owned()),
    }
}

fn read(what: &'static str, path: &Path) -> Result<Option<FileContent>, AccessLoadError> {
    match open::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AccessLoadError { what, path: path.to_owned(), error }),
    }
}

fn rights_of(user: &RuleUser, rules: &[AccessRule], ops: &[&str], order: AccessOrder) -> Rights {
    let mut rights = Rights::default();
    for op in ops {
        if rules::deciding(rules, order, user, op).is_some_and(|rule| rule.allow) {
            rights.grant(op);
        }
    }
    rights
}

/// Warns of names that differ only in case: the access file matches them, but they are probably a mistake.
fn warn_of_case(
    entries: &[PasswdEntry],
    rules: &[AccessRule],
    sources: &AccessSources,
    warnings: &mut Vec<String>,
) {
    let mut folded: HashMap<String, &PasswdEntry> = HashMap::new();
    for entry in entries {
        match folded.get(&entry.user.to_lowercase()) {
            Some(other) => warnings.push(format!(
                "{}:{}: the account '{}' differs only in case from '{}' on line {}, and the access file cannot distinguish \
                 them: rename one",
                sources.passwd.display(),
                entry.line,
                loggable_name(&entry.user),
                loggable_name(&other.user),
                other.line
            )),
            None => {
                folded.insert(entry.user.to_lowercase(), entry);
            }
        }
    }
    let mut warned = HashSet::new();
    for rule in rules {
        for written in &rule.written_users {
            let Some(entry) = folded.get(&written.to_lowercase()) else { continue };
            if entry.user != *written && warned.insert(written) {
                warnings.push(format!(
                    "{}:{}: '{}' differs in case from the account '{}': the line applies to that account",
                    sources.access.display(),
                    rule.line,
                    loggable_name(written),
                    loggable_name(&entry.user)
                ));
            }
        }
    }
}

fn summary(anonymous: &Rights, accounts: &HashMap<Box<[u8]>, Account>) -> String {
    let able = accounts.values().filter(|account| account.rights != Rights::default()).count();
    format!(
        "ACL: the anonymous user may use: {}; {able} of {} accounts may use commands",
        anonymous,
        accounts.len()
    )
}
