//! The executable of the load generator; its code is in the package `pyzor-bench`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pyzor_bench::main()
}
