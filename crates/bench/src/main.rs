//! The executable that measures a server; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pyzor_bench::main()
}
