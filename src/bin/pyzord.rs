//! The server's executable; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pyzord::pyzord_main()
}
