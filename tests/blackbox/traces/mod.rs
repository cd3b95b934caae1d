//! Servers under strace, which makes system calls slow or lets them fail.

mod confinement;
mod floods;
mod repairs;
mod starts;
