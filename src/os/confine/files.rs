//! Restriction of file access, by landlock.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::sys::stat::{SFlag, fstat};

use super::{NotConfined, ReachablePaths};

/// The newest landlock version that the rules below are designed for.
const NEWEST: ABI = ABI::V6;

/// The extent of the applied restriction.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RestrictedFiles {
    /// Whether all rights are restricted; older kernels restrict fewer.
    pub(super) is_complete: bool,
    /// Existing paths that have no rule and cannot be opened any more, each with the reason.
    pub(super) left_out: Vec<String>,
}

/// Restricts this thread to these paths. A path that does not exist is skipped.
///
/// # Errors
///
/// No restriction has been applied.
pub(super) fn restrict(places: &ReachablePaths) -> Result<RestrictedFiles, NotConfined> {
    let (status, left_out) = restrict_self(places).map_err(|error| NotConfined::Failed(error.to_string()))?;
    let is_complete = match status {
        RulesetStatus::FullyEnforced => true,
        RulesetStatus::PartiallyEnforced => false,
        RulesetStatus::NotEnforced => {
            return Err(NotConfined::Unsupported(
                "this kernel does not support landlock, or it is disabled".to_owned(),
            ));
        }
    };
    Ok(RestrictedFiles { is_complete, left_out })
}

fn restrict_self(places: &ReachablePaths) -> Result<(RulesetStatus, Vec<String>), RulesetError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let written = read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        // Requests arrive by UDP: no TCP port is ever opened.
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::Signal)?
        .create()?;
    let mut left_out = Vec::new();
    let removed = AccessFs::RemoveFile.into();
    for (paths, rights) in [(&places.read, read), (&places.written, written), (&places.removed, removed)] {
        for path in paths {
            if let Err(why) = allow(&mut rules, path, rights) {
                left_out.push(format!("{}: {why}", path.display()));
            }
        }
    }
    Ok((rules.restrict_self()?.ruleset, left_out))
}

/// Adds a rule for this path alone, so that a failure affects no other path.
fn allow(rules: &mut RulesetCreated, path: &Path, rights: BitFlags<AccessFs>) -> Result<(), String> {
    let place = match PathFd::new(path) {
        Ok(place) => place,
        Err(PathFdError::OpenCall { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(());
        }
        Err(PathFdError::OpenCall { source, .. }) => return Err(source.to_string()),
        Err(error) => return Err(error.to_string()),
    };
    let kind = SFlag::from_bits_truncate(fstat(&place).map_err(|error| error.to_string())?.st_mode);
    let is_directory = kind & SFlag::S_IFMT == SFlag::S_IFDIR;
    // The kernel refuses the other rights for files, since they apply to directories only.
    let rights = if is_directory { rights } else { rights & AccessFs::from_file(NEWEST) };
    rules.add_rule(PathBeneath::new(place, rights)).map(drop).map_err(|error| error.to_string())
}
