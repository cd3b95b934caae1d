//! The protocol: bytes in, bytes out, compared as a whole. Signatures are tested in `accounts`.

mod addresses;
mod operations;
mod ours;
mod requests;

/// Returns a successful reply to `Thread: 3000` with the headers of an operation.
fn ok(headers: &str) -> String {
    format!("Code: 200\nDiag: OK\nPV: 2.1\nThread: 3000\n{headers}\n")
}

/// Returns a refusal of `Thread: 3000`.
fn refusal(code: u16, diag: &str) -> String {
    format!("Code: {code}\nDiag: {diag}\nPV: 2.1\nThread: 3000\n\n")
}

const BAD_VERSION: &str = "Bad request: Invalid Protocol Version";

const UNKNOWN_USER: &str = "Unauthorized: Signature Error: Unknown user.";

const FORBIDDEN: &str = "Forbidden: User is not authorized to request the operation.";

const NOT_IMPLEMENTED: &str = "Not implemented: Requested operation is not implemented.";

const VERSION_NOT_SUPPORTED: &str = "Version Not Supported: ";
