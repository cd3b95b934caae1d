//! What the engines share whose store is a server: its name, a connection's security, and how its absence is dealt with.

pub(crate) mod dsn;
pub(crate) mod presence;
pub(crate) mod refusals;
pub(crate) mod start;
pub(crate) mod tls;
