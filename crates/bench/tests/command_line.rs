//! The program's command line. What it does with a server is tested beside the server.

use std::process::Command;

#[test]
fn the_version_is_that_of_the_workspace() {
    let output = Command::new(env!("CARGO_BIN_EXE_pyzor-bench")).arg("--version").output();
    let told = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    assert_eq!(told.ok().as_deref(), Some(concat!("pyzor-bench ", env!("CARGO_PKG_VERSION"), "\n")));
}
