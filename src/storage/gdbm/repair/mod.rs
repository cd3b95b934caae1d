//! Repairing a file that was not closed: how that is noticed, what is left in it, and how it is written anew.

mod entries;
pub(crate) mod explain;
pub(crate) mod marker;
pub(crate) mod recover;
mod remains;
pub(crate) mod rewrite;
