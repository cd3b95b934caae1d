//! The life of this server, where it differs from that of the established one.

mod detaching;
mod failures;
mod reloads;
mod stops;
