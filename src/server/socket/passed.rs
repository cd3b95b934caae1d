//! A socket that a service manager has bound and keeps: it holds the requests while no server runs.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::stat::fstat;
use nix::unistd::Uid;

use super::options::SocketOptions;
use super::spares::Sharing;
use super::{Listener, finish};

/// The values of the settings that a passed socket makes useless, as far as the operator has set them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UnusedSettings<'a> {
    pub(crate) listen_address: Option<&'a str>,
    pub(crate) port: Option<u16>,
    pub(crate) reuse_port: bool,
}

impl UnusedSettings<'_> {
    /// Returns a warning for each setting that differs from the socket.
    fn warnings(&self, address: SocketAddr, is_shared: bool) -> Vec<String> {
        let of_socket =
            format!("has no effect: the service manager passed a socket that is bound to {address}");
        let mut warnings = Vec::new();
        if let Some(configured) = self.listen_address
            && !is_same(configured, address)
        {
            warnings.push(format!("ListenAddress = {configured} {of_socket}"));
        }
        if let Some(port) = self.port.filter(|port| *port != address.port()) {
            warnings.push(format!("Port = {port} {of_socket}"));
        }
        if self.reuse_port && !is_shared {
            warnings.push(format!("ReusePort {of_socket}: set ReusePort=yes in the socket unit"));
        }
        warnings
    }
}

/// Whether `ListenAddress` names the address of a socket.
fn is_same(configured: &str, address: SocketAddr) -> bool {
    let name = if configured.is_empty() { "0.0.0.0" } else { configured.trim_matches(['[', ']']) };
    let name = name.split_once('%').map_or(name, |(name, _)| name);
    name.parse() == Ok(address.ip())
}

impl Listener {
    /// Uses a bound socket that a service manager passed. Buffers that are larger than requested stay. `send_buffer`
    /// is the requested size of the send buffer in bytes.
    ///
    /// # Errors
    ///
    /// The socket cannot be used. Options that cannot be set are warnings.
    pub(crate) fn of_passed(
        socket: UdpSocket,
        send_buffer: usize,
        unused: &UnusedSettings<'_>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let descriptor = OwnedFd::from(socket);
        let is_shared = getsockopt(&descriptor, sockopt::ReusePort)?;
        let mut options = SocketOptions::of(descriptor.as_fd());
        options.count_drops();
        options.raise_buffers(send_buffer);
        let (mut warnings, mut notices) = (options.warnings, options.notices);
        warnings.extend(unused.warnings(address, is_shared));
        notices.push(format!("The service manager passed the socket {address}."));
        // Systemd sets SO_REUSEADDR, with which any user could bind the port as well and take requests.
        if getsockopt(&descriptor, sockopt::ReuseAddr)?
            && let Err(error) = setsockopt(&descriptor, sockopt::ReuseAddr, &false)
        {
            warnings.push(format!(
                "cannot switch SO_REUSEADDR off: {error}; other users can bind the port and take requests"
            ));
        }
        let sharing = if is_shared {
            None
        } else if fstat(&descriptor).is_ok_and(|status| status.st_uid == Uid::effective().as_raw()) {
            Some(Sharing::SameUser)
        } else {
            Some(Sharing::AnyUser)
        };
        let mut listener = finish(descriptor, send_buffer, sharing, warnings, notices)?;
        listener.is_passed = true;
        Ok(listener)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::super::spares::SPARES;
    use super::*;

    #[test]
    fn address_is_compared_with_the_configured_one() {
        let v6 = "[::1]:1".parse().unwrap();
        let any = "0.0.0.0:1".parse().unwrap();
        for (configured, address, same) in [
            ("::1", v6, true),
            ("[::1]", v6, true),
            ("::1%lo", v6, true),
            ("localhost", v6, false),
            ("::", v6, false),
            ("", any, true),
            ("0.0.0.0", any, true),
            ("::", any, false),
        ] {
            assert_eq!(is_same(configured, address), same, "{configured} {address}");
        }
    }

    #[test]
    fn passed_socket_gets_all_options_and_keeps_larger_buffers() {
        for any in ["0.0.0.0:0", "[::]:0"] {
            let socket = UdpSocket::bind(any).unwrap();
            setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
            let kept = socket.try_clone().unwrap();
            let before = getsockopt(&kept, sockopt::SndBuf).unwrap();
            let listener = Listener::of_passed(socket, 4096, &UnusedSettings::default()).unwrap();
            assert!(listener.is_passed && listener.warnings.is_empty(), "{:?}", listener.warnings);
            assert_eq!(listener.spares.len(), SPARES);
            assert_eq!(getsockopt(&kept, sockopt::SndBuf), Ok(before), "the send buffer has become smaller");
            assert_eq!(getsockopt(&kept, sockopt::RxqOvfl), Ok(1));
            assert_eq!(getsockopt(&kept, sockopt::ReuseAddr), Ok(false));
            assert_eq!(getsockopt(&kept, sockopt::ReusePort), Ok(false));
            let has_info = match any {
                "0.0.0.0:0" => getsockopt(&kept, sockopt::Ipv4PacketInfo),
                _ => getsockopt(&kept, sockopt::Ipv6RecvPacketInfo),
            };
            assert_eq!(has_info, Ok(true));
            let flags = nix::fcntl::fcntl(&kept, nix::fcntl::FcntlArg::F_GETFL).unwrap();
            assert_ne!(flags & nix::fcntl::OFlag::O_NONBLOCK.bits(), 0);
            assert!(listener.descriptors().any(|descriptor| descriptor != kept.as_raw_fd()));
        }
    }

    #[test]
    fn spare_sockets_are_bound_beside_the_socket_of_another_user() {
        if !Uid::effective().is_root() {
            return;
        }
        for any in ["0.0.0.0:0", "[::]:0"] {
            let socket = UdpSocket::bind(any).unwrap();
            nix::unistd::fchown(&socket, Some(Uid::from_raw(65_534)), None).unwrap();
            let listener = Listener::of_passed(socket, 100_000, &UnusedSettings::default()).unwrap();
            assert_eq!(
                (listener.spares.len(), listener.warnings.len()),
                (SPARES, 0),
                "{:?}",
                listener.warnings
            );
        }
    }

    #[test]
    fn spare_sockets_of_a_socket_without_ipv4_leave_the_port_to_ipv4() {
        let (socket, _) = super::super::tests::only_v6();
        let port = socket.local_addr().unwrap().port();
        let listener = Listener::of_passed(socket, 100_000, &UnusedSettings::default()).unwrap();
        assert_eq!((listener.spares.len(), listener.warnings.len()), (SPARES, 0), "{:?}", listener.warnings);
        UdpSocket::bind(("0.0.0.0", port)).unwrap();
    }

    #[test]
    fn settings_that_differ_are_warnings() {
        let unused = UnusedSettings { listen_address: Some("192.0.2.1"), port: Some(1), reuse_port: true };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = Listener::of_passed(socket, 100_000, &unused).unwrap();
        let names =
            ["ListenAddress = 192.0.2.1 has no effect", "Port = 1 has no effect", "ReusePort has no effect"];
        assert_eq!(listener.warnings.len(), names.len(), "{:?}", listener.warnings);
        for (warning, name) in listener.warnings.iter().zip(names) {
            assert!(warning.starts_with(name), "{warning}");
        }
    }

    #[test]
    fn shared_socket_stays_shared_and_has_no_spare_sockets() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        setsockopt(&socket, sockopt::ReusePort, &true).unwrap();
        let kept = socket.try_clone().unwrap();
        let unused = UnusedSettings { reuse_port: true, ..UnusedSettings::default() };
        let listener = Listener::of_passed(socket, 100_000, &unused).unwrap();
        assert!(listener.spares.is_empty() && listener.warnings.is_empty(), "{:?}", listener.warnings);
        assert_eq!(getsockopt(&kept, sockopt::ReusePort), Ok(true));
    }
}
