//! Servers that a service manager starts: its messages, its journal, its exit codes and its sockets.

mod activation;
mod exit_codes;
mod journal;
mod messages;
mod root;
mod scripted;
mod traces;
