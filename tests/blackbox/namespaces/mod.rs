//! Servers and clients on hosts of their own: what a single host with its loopback device cannot show.

mod absent;
mod links;
mod neighbours;
mod sources;
