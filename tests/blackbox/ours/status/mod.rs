//! The state of the database in the reply to `status`, beside what the database's own tools say.

mod gdbm;
mod mysql;
mod redis;
