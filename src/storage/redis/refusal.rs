//! What it means when a server refuses a command.

use redis::ServerError;

/// What a refusal means, for whatever was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RedisRefusal {
    /// The key holds another type of value.
    WrongType,
    /// The server does not know the script, and has done nothing.
    NoScript,
    /// Another server has the key.
    Moved,
    /// Another server has the key for now, and must be told so with `ASKING`.
    Ask,
    /// No node of the cluster has the key's slot; other keys are served.
    NoSlot,
    /// The server is loading, busy or a replica, and refuses other commands as well.
    Passing,
    /// The server looks up, but changes nothing.
    ReadOnly,
    /// The account or the server's configuration does not permit the command.
    Forbidden,
    /// The account may not touch some key of the command, which says nothing of other keys.
    ForbiddenKey,
    /// Anything else.
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
            "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "READONLY" | "BUSY" | "TRYAGAIN" => Self::Passing,
            "MISCONF" | "NOREPLICAS" | "OOM" => Self::ReadOnly,
            "NOPERM" if says(" key") => Self::ForbiddenKey,
            "NOPERM" | "NOAUTH" => Self::Forbidden,
            // The others are said within a script, by Redis and by Valkey.
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
