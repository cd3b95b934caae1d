//! Starting, detaching, signals and stopping, where this server differs from the Python server.

mod detaching;
mod failures;
mod reloads;
mod stops;
