//! Servers that become another user, for which root must start them.

mod confinement;
mod privileges;
mod repairs;
mod shared_port;
