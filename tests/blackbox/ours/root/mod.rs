//! Servers that root starts, and that change to another user.

mod confinement;
mod control;
mod forwarding;
mod operator_sockets;
mod privileges;
mod repairs;
mod shared_port;

pub(super) use self::confinement::{NOBODY, home_of};
