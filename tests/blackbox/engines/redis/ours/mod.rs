//! Behaviour with Redis in which this server differs from the Python server.

mod addresses;
mod clusters;
mod connections;
mod records;
mod rights;
mod sentinels;
mod texts;
mod tls;
mod topologies;
