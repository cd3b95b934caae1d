//! What this server alone does with MySQL and MariaDB.

mod logins;
mod slow_tables;
mod table_changes;
