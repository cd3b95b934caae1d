//! Servers under strace, which makes system calls slow or lets them fail, and under a tracer of our own, which kills
//! them at every one.

mod confinement;
mod floods;
mod kills;
mod repairs;
mod starts;
