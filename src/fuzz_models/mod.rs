//! What the bodies of fuzz targets share: bytes that become choices and records, slow models that were written without
//! a look at the real thing, and what holds of every text.
//!
//! Knows the protocol and records, and no other module.

mod input;
mod message;
mod numbers;
mod record;
mod reply;
mod texts;

pub(crate) use self::input::FuzzInput;
pub(crate) use self::message::ModelMessage;
pub(crate) use self::numbers::{model_integer, model_version};
pub(crate) use self::record::any_record;
pub(crate) use self::reply::check_reply;
pub(crate) use self::texts::{check_lines, check_no_secret};
