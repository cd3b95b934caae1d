//! The control socket, and the peers that it permits.

use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::Mode;
use nix::unistd::Uid;

use crate::os::local_socket::{LocalSocket, LocalSocketError};

/// Creates the control socket with mode 0600.
///
/// # Errors
///
/// The path is in use or cannot be created.
pub(crate) fn bind(path: &Path) -> Result<LocalSocket, LocalSocketError> {
    LocalSocket::bind(path, Mode::S_IRUSR | Mode::S_IWUSR)
}

/// Whether the peer of a connection is root or the user of this process. The mode of the file says the same, but an
/// operator may change the mode.
pub(crate) fn is_permitted(connection: &impl AsFd) -> bool {
    getsockopt(&connection.as_fd(), PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == Uid::effective().as_raw())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn own_user_is_permitted() {
        let (one, other) = UnixStream::pair().unwrap();
        assert!(is_permitted(&one) && is_permitted(&other));
    }
}
