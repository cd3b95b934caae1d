//! The id of the current boot.

use std::fs;
use std::sync::LazyLock;

static BOOT: LazyLock<String> = LazyLock::new(|| {
    // See random(4).
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
});

/// Returns the kernel's unique id of this boot, or an empty string if it cannot be read. It is read once: call this
/// before the process is confined.
pub(crate) fn id() -> &'static str {
    &BOOT
}
