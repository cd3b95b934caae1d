//! The file system, by landlock.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::sys::stat::{SFlag, fstat};

use super::{NotConfined, ReachablePaths};

/// The newest form that what is below has been thought through for.
const NEWEST: ABI = ABI::V6;

/// What is in force.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RestrictedFiles {
    /// Whether it is all that is asked for; an older kernel has less.
    pub(super) is_complete: bool,
    /// Each path that is there and cannot be opened any more, with the reason.
    pub(super) left_out: Vec<String>,
}

/// Keeps this thread from all files but these. A path that is not there is passed over.
///
/// # Errors
///
/// Nothing of it is in force.
pub(super) fn restrict(places: &ReachablePaths) -> Result<RestrictedFiles, NotConfined> {
    let (status, left_out) = try_to(places).map_err(|error| NotConfined::Failed(error.to_string()))?;
    let is_complete = match status {
        RulesetStatus::FullyEnforced => true,
        RulesetStatus::PartiallyEnforced => false,
        RulesetStatus::NotEnforced => {
            return Err(NotConfined::Unsupported(
                "this kernel has no landlock, or it is switched off".to_owned(),
            ));
        }
    };
    Ok(RestrictedFiles { is_complete, left_out })
}

fn try_to(places: &ReachablePaths) -> Result<(RulesetStatus, Vec<String>), RulesetError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let written = read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        // Requests come by UDP: no TCP port is ever opened.
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::Signal)?
        .create()?;
    let mut left_out = Vec::new();
    for (paths, rights) in [(&places.read, read), (&places.written, written)] {
        for path in paths {
            if let Err(why) = allow(&mut rules, path, rights) {
                left_out.push(format!("{}: {why}", path.display()));
            }
        }
    }
    Ok((rules.restrict_self()?.ruleset, left_out))
}

/// Adds a rule for this path alone, so that another one which can have none changes nothing for it.
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
    // The others make sense for directories alone, and are refused for anything else.
    let rights = if is_directory { rights } else { rights & AccessFs::from_file(NEWEST) };
    rules.add_rule(PathBeneath::new(place, rights)).map(drop).map_err(|error| error.to_string())
}
