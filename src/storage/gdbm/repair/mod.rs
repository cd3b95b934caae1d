//! Repairing a file that was not closed: how that is noticed, what is left in it, and how it is written anew.

mod entries;
pub(crate) mod error;
pub(crate) mod explain;
pub(crate) mod leftovers;
pub(crate) mod marker;
mod marker_page;
pub(crate) mod recover;
mod remains;
mod replace;
pub(crate) mod rewrite;
mod unreadable;
