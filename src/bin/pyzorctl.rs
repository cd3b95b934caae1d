//! The executable that asks a running server. All code is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pyzord::pyzorctl_main()
}
