//! One database file: the C library's handle on it, its layout, its lock, its marker, and its room on the disk.
//! Does not depend on records, the cache or repairs.

pub(crate) mod change_flag;
pub(crate) mod directory;
pub(crate) mod disk_note;
pub(crate) mod extents;
pub(crate) mod handle;
pub(crate) mod header;
pub(crate) mod key_count;
pub(crate) mod leftovers;
pub(crate) mod location;
pub(crate) mod marker;
mod marker_page;
pub(crate) mod reserve;
pub(crate) mod tail;
