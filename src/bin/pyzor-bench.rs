//! The executable that measures a server; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pyzord::bench::main()
}
