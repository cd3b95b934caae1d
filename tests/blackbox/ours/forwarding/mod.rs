//! Forwarding of reports and whitelistings to other servers.

mod directory;
mod established;
mod ids;
mod observed;
mod operations;
mod wiring;
