//! Forwarding of reports and whitelistings to other servers.

mod directory;
mod ids;
mod observed;
mod operations;
