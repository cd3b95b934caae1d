//! Servers and clients on hosts of their own, or with a view of their own of processes and files: what a single
//! host with its loopback device cannot show.

mod absent;
mod init;
mod links;
mod neighbor_table;
mod sources;
