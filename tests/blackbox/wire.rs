//! What goes over the wire: bytes in, bytes out, compared whole.

use crate::harness::{DIGEST, Home};

#[test]
fn ping_is_answered() {
    Home::open().start().expect("Op: ping\nPV: 2.1\nThread: 3000\n\n", "Code: 200\nDiag: OK\nPV: 2.1\nThread: 3000\n\n");
    let _ = DIGEST;
}
