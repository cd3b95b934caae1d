//! pyzord: the counting end of Pyzor, a collaborative spam filter.

pub mod access;
pub mod allowance;
pub mod daemon;
pub mod digest;
pub mod handler;
pub mod logging;
pub mod os;
pub mod protocol;
pub mod record;
pub mod server;
pub mod settings;
pub mod storage;
