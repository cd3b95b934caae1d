//! The executable that moves records between databases. All code is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pyzord::pyzor_migrate_main()
}
