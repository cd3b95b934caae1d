//! Shared code of the fuzz targets: conversion of bytes to choices and records, slow models written independently of
//! the real code, and properties of texts.
//!
//! Depends on the protocol and on records only.

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
