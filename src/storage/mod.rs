//! Storage engines. They know digests and records, but not requests and clients.

pub mod batch;
pub mod bulk;
mod drivers;
mod engine;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod gdbm;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod memory;
pub(crate) mod mysql;
pub(crate) mod redis;
mod remote;
mod status;

pub use batch::{Batch, BatchEntry};
use drivers::{BulkOpening, EngineOpening};
pub use drivers::{EngineOpenError, EngineOptions};
pub(crate) use drivers::{NAMES, authorities, check, listed, open, properties, recovery};
pub use engine::{BatchProgress, BoxFuture, Engine, StorageError};
pub(crate) use gdbm::Cancel;
pub use status::{Availability, EngineStatus, ExpiryStatus};
use status::{ExpiryTimes, one_line};
