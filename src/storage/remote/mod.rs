//! Shared code of the engines whose store is a server: names of databases, TLS, connecting, and outages.

pub(crate) mod changes;
pub(crate) mod condition;
pub(crate) mod dsn;
pub(crate) mod findings;
pub(crate) mod presence;
pub(crate) mod refusals;
pub(crate) mod start;
pub(crate) mod tls;
