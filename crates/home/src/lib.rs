//! The formats of the files in a Pyzor home directory, shared by servers and clients: config files, passwd files, servers
//! and accounts files of clients, and lines of text in general. Functions here parse text and open no files.

pub mod accounts;
pub mod address;
pub mod ini;
pub mod lines;
pub mod loggable;
pub mod passwd;
pub mod problem;
pub mod servers;
