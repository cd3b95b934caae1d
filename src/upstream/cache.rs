//! The answers of other servers that are still fresh.
