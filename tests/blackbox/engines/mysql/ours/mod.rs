//! Behaviour with MySQL and MariaDB that only this server has.

mod logins;
mod slow_tables;
mod table_changes;
