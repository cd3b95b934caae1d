//! Storage engines: where records are kept. Speaks of digests and records, never of requests.

pub mod batch;
pub mod bulk;
mod drivers;
mod engine;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod gdbm;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod memory;
pub mod mysql;
pub mod redis;
mod remote;

pub use batch::{Batch, Entry};
pub use drivers::{
    NAMES, OpenError, Options, Properties, Recovery, authorities, check, listed, open, properties, recovery,
};
use drivers::{Opened, OpenedBulk};
pub use engine::{BoxFuture, Engine, Progress, StorageError};
pub use gdbm::Cancel;
