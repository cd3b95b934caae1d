//! The server's executable. All code is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pyzord::pyzord_main()
}
