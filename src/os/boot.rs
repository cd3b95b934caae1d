//! Which boot of the machine this is.

use std::fs;
use std::sync::LazyLock;

static BOOT: LazyLock<String> = LazyLock::new(|| {
    // As in random(4).
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
});

/// A name that the kernel has made up for this boot, and that no other one has; empty where it cannot be
/// read. It is read once, which is to be before the process is confined.
pub(crate) fn id() -> &'static str {
    &BOOT
}
