//! Forwarding of reports and whitelistings to other servers.

mod ids;
mod observed;
