//! One database file: the C library's handle on it, its layout, its lock, and its room on the disk.

pub(crate) mod directory;
pub(crate) mod disk_note;
pub(crate) mod extents;
pub(crate) mod handle;
pub(crate) mod header;
pub(crate) mod location;
pub(crate) mod open_file;
pub(crate) mod reserve;
pub(crate) mod tail;
