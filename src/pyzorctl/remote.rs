//! Other servers, as their lines and columns name them.

use std::fmt;

use crate::control::figures::long_period;
use crate::forward::ForwardStatus;
use crate::stats::OTHER_CODE;
use crate::upstream::UpstreamServerStatus;

/// The state of another server in words: its address and account, and whether it takes requests.
pub(super) struct RemoteState<'a> {
    server: &'a str,
    address: Option<&'a str>,
    user: &'a str,
    state: &'static str,
    since_seconds: u64,
    reason: Option<&'a str>,
}

impl<'a> From<&'a ForwardStatus> for RemoteState<'a> {
    fn from(status: &'a ForwardStatus) -> Self {
        Self {
            server: &status.server,
            address: status.address.as_deref(),
            user: &status.user,
            state: status.state.name(),
            since_seconds: status.since_seconds,
            reason: status.reason.as_deref(),
        }
    }
}

impl<'a> From<&'a UpstreamServerStatus> for RemoteState<'a> {
    fn from(status: &'a UpstreamServerStatus) -> Self {
        Self {
            server: &status.server,
            address: status.address.as_deref(),
            user: &status.user,
            state: status.state.name(),
            since_seconds: status.since_seconds,
            reason: status.reason.as_deref(),
        }
    }
}

impl fmt::Display for RemoteState<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.server)?;
        if let Some(address) = self.address.filter(|address| *address != self.server) {
            write!(f, " ({address})")?;
        }
        write!(f, " as {}: {} for {}", self.user, self.state, long_period(self.since_seconds))?;
        self.reason.map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// Names the code of a refusal.
pub(super) fn code_name(code: u16) -> String {
    if code == OTHER_CODE { "other".to_owned() } else { code.to_string() }
}
