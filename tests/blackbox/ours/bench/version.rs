//! The version that `pyzor-bench` prints.

use std::process::Command;

use crate::harness::finish;

#[test]
fn version_is_that_of_the_workspace() {
    let mut command = Command::new(crate::harness::generator());
    command.arg("--version");
    assert_eq!(finish(command).stdout, concat!("pyzor-bench ", env!("CARGO_PKG_VERSION"), "\n"));
}
