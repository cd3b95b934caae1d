//! The file system, by landlock.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use super::Places;

/// The newest form that what is below has been thought through for.
const NEWEST: ABI = ABI::V6;

/// Whether all that is asked for is in force; an older kernel has less.
///
/// # Errors
///
/// Nothing of it is.
pub(super) fn restrict(places: &Places) -> Result<bool, String> {
    match try_to(places).map_err(|error| error.to_string())? {
        RulesetStatus::FullyEnforced => Ok(true),
        RulesetStatus::PartiallyEnforced => Ok(false),
        RulesetStatus::NotEnforced => Err("this kernel has no landlock, or it is switched off".to_owned()),
    }
}

fn try_to(places: &Places) -> Result<RulesetStatus, RulesetError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let written = read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        // Requests come by UDP: no TCP port is ever opened.
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::Signal)?
        .create()?
        // What is not there is passed over.
        .add_rules(path_beneath_rules(&places.read, read))?
        .add_rules(path_beneath_rules(&places.written, written))?
        .restrict_self()?;
    Ok(status.ruleset)
}
