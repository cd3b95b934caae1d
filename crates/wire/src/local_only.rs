//! The header `Local-Only: yes` of a check that must be answered from the database of the server alone.
//!
//! A server that asks others for a second opinion sends it, so that servers that ask each other do not wait for each
//! other. It is an extension of pyzord: other servers ignore unknown headers.

/// The name of the header.
pub const LOCAL_ONLY: &str = "Local-Only";
/// The value of the header.
pub const YES: &str = "yes";
