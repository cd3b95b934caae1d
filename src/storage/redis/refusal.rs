//! Classification of the errors with which a server refuses a command.

use redis::ServerError;

/// The meaning of an error reply, for any command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RedisRefusal {
    /// The key holds another type of value.
    WrongType,
    /// The server does not have the script, and has changed nothing.
    NoScript,
    /// Another node owns the key's slot.
    Moved,
    /// Another node takes this command if `ASKING` precedes it, because the slot is moving.
    Ask,
    /// No node of the cluster owns the key's slot; other keys are served.
    NoSlot,
    /// The server is loading, busy or a replica, and refuses all other commands for now, too.
    Temporary,
    /// The server refuses changes, for example because its memory or disk is full.
    ReadOnly,
    /// The account or the server's configuration does not permit the command.
    Forbidden,
    /// The account may not access some key of the command; other keys may be permitted.
    ForbiddenKey,
    Other,
}

impl RedisRefusal {
    /// Classifies an error that a server replied.
    pub(super) fn of(error: &ServerError) -> Self {
        let says = |text: &str| error.details().is_some_and(|details| details.contains(text));
        match error.code() {
            "WRONGTYPE" => Self::WrongType,
            "NOSCRIPT" => Self::NoScript,
            "MOVED" => Self::Moved,
            "ASK" => Self::Ask,
            "CLUSTERDOWN" if says("slot not served") => Self::NoSlot,
            "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "READONLY" | "BUSY" | "TRYAGAIN" => Self::Temporary,
            "MISCONF" | "NOREPLICAS" | "OOM" => Self::ReadOnly,
            "NOPERM" if says(" key") => Self::ForbiddenKey,
            "NOPERM" | "NOAUTH" => Self::Forbidden,
            // Within a script, Redis and Valkey have texts of their own.
            "ERR"
                if ["unknown command", "can't run this command", "ACL failure in script"]
                    .into_iter()
                    .any(says) =>
            {
                Self::Forbidden
            }
            _ => Self::Other,
        }
    }
}
