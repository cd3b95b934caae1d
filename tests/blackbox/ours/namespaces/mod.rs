//! Servers and clients in separate namespaces, for tests that a single host with its loopback device cannot run.

mod absent;
mod init;
mod links;
mod neighbor_table;
mod sources;
