//! The files of a Pyzor home directory: the rules of config files, and the lines of accounts files. Servers and
//! clients share them. Reads texts, and opens no files.

pub mod ini;
pub mod lines;
pub mod loggable;
pub mod passwd;
pub mod problem;
