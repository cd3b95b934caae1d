//! What this server alone does with Redis.

mod addresses;
mod clusters;
mod connections;
mod records;
mod rights;
mod sentinels;
mod texts;
mod tls;
mod topologies;
