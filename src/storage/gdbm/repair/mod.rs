//! Repair of a database file after a kill, an error or damage. Uses `file`, which does not depend on it.

mod entries;
pub(crate) mod error;
pub(crate) mod explain;
pub(crate) mod recover;
mod remains;
mod replace;
pub(crate) mod rewrite;
mod unreadable;
