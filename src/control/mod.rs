//! The control socket: requests of operators to the running server, for `pyzorctl` and scripts.
//!
//! A request and its reply are one JSON object per line each. The server answers any number of requests on a
//! connection, one after the other.

pub(crate) mod figures;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod health;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod serve;
pub(crate) mod socket;
pub(crate) mod summary;
