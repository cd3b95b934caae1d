//! Servers under strace, which delays system calls or makes them fail, and under a tracer that kills them at every
//! system call.

mod confinement;
mod floods;
mod journals;
mod kills;
mod operator_sockets;
mod repairs;
mod starts;
mod status;
