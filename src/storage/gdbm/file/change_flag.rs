//! The two bytes of a marker that change while the database is open: "a change is under way" and "a repair is owed".

use std::sync::atomic::{AtomicBool, Ordering};

use super::marker_page::MarkerPage;

/// Offset of the byte that is set while a change is under way.
const CHANGE: usize = "change: ".len();
/// Offset of the byte that is set while a repair is owed.
const OWED: usize = "change: 0\nowed: ".len();
pub(super) const NO: u8 = b'0';
pub(super) const YES: u8 = b'1';

/// Records in the marker whether a change is under way and whether a repair is owed.
///
/// [`Handle`](super::handle::Handle) calls [`begin`](Self::begin) before every library call that changes the file, and
/// [`end`](Self::end) once the call has succeeded. A store into the mapped page costs no system call and survives a
/// kill of the process, as the pages of the database itself do.
#[derive(Debug, Default)]
pub(crate) struct ChangeFlag {
    /// The mapped marker; none if it cannot be mapped: changes are then not recorded.
    page: Option<MarkerPage>,
    needs_repair: AtomicBool,
}

impl ChangeFlag {
    pub(super) fn new(page: Option<MarkerPage>, needs_repair: bool) -> Self {
        Self { page, needs_repair: AtomicBool::new(needs_repair) }
    }

    /// Records that a change begins. Must be called before each change.
    pub(crate) fn begin(&self) {
        self.set(CHANGE, YES);
    }

    /// Records that a change has succeeded. Must be called after each one that has. Does nothing while a repair is owed.
    pub(crate) fn end(&self) {
        if !self.needs_repair() {
            self.set(CHANGE, NO);
        }
    }

    /// Makes the next start repair the file. Cannot be undone in this process.
    pub(crate) fn require_repair(&self) {
        self.needs_repair.store(true, Ordering::Relaxed);
        self.set(OWED, YES);
        self.set(CHANGE, YES);
    }

    /// Returns whether a repair is owed.
    pub(crate) fn needs_repair(&self) -> bool {
        self.needs_repair.load(Ordering::Relaxed)
    }

    fn set(&self, offset: usize, value: u8) {
        if let Some(page) = &self.page {
            // A kill falls between two instructions of this process. So it is enough that the compiler keeps this
            // store in order with the library's writes, which `SeqCst` ensures.
            page.byte(offset).store(value, Ordering::SeqCst);
        }
    }
}
