//! Servers under strace, which makes system calls slow or lets them fail.

mod floods;
mod starts;
