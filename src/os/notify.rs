//! Messages to the service manager that started this process, in the protocol of sd_notify(3).
//!
//! The socket is connected once, before the process changes its user and is confined, and is kept over a detach. No
//! message waits: a change of state that the service manager has no room for is sent later.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::warn;

/// The variable that names the socket of the service manager.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// The most changes of state that wait to be sent. Of more, the newest stay.
const BACKLOG: usize = 16;
/// The longest status text, in bytes.
const LONGEST_STATUS: usize = 1024;
/// The time between two calls of a pulse.
const PULSE: Duration = Duration::from_secs(1);

/// A function that is called each second.
pub(crate) type Pulse = Box<dyn FnMut() + Send>;

/// Returns whether a service manager expects messages of this process.
pub(crate) fn is_expected() -> bool {
    env::var_os(VARIABLE).is_some_and(|name| !name.is_empty())
}

/// The service manager, if it expects messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceManager(Option<Arc<ManagerSocket>>);

#[derive(Debug)]
struct ManagerSocket {
    socket: UnixDatagram,
    address: SocketAddr,
    /// The process that the service manager started.
    process: u32,
    /// The time after which the service manager takes a silent process for hung.
    watchdog: Option<Duration>,
    /// Changes of state to be sent, oldest first.
    backlog: Mutex<VecDeque<String>>,
    is_failing: AtomicBool,
}

impl ServiceManager {
    /// Connects to the socket that the environment names, if any.
    ///
    /// # Errors
    ///
    /// The socket cannot be connected, or is of an unknown kind.
    pub(crate) fn connect() -> io::Result<Self> {
        let Some(name) = env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("{VARIABLE} = {}: {error}", name.display()))
        };
        let address = address(&name).map_err(failed)?;
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address).map_err(failed)?;
        socket.set_nonblocking(true)?;
        Ok(Self(Some(Arc::new(ManagerSocket {
            socket,
            address,
            process: process::id(),
            // Read now, because the number of the process changes with a detach.
            watchdog: sd_notify::watchdog_enabled().filter(|period| !period.is_zero()),
            backlog: Mutex::default(),
            is_failing: AtomicBool::new(false),
        }))))
    }

    /// Returns whether there is a service manager that expects messages.
    pub(crate) fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the descriptor that must stay open in a detach.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        self.0.as_ref().map(|manager| manager.socket.as_raw_fd())
    }

    /// Reports that requests are answered, after a start or a reload.
    pub(crate) fn ready(&self) {
        let Some(manager) = &self.0 else { return };
        let own = process::id();
        let detached = (own != manager.process).then_some(NotifyState::MainPid(own));
        manager.change(detached.into_iter().chain([NotifyState::Ready]));
    }

    /// Reports the begin of a reload.
    pub(crate) fn reloading(&self) {
        let Some(manager) = &self.0 else { return };
        let now = NotifyState::monotonic_usec_now().ok();
        manager.change([NotifyState::Reloading].into_iter().chain(now));
    }

    /// Reports that the server stops.
    pub(crate) fn stopping(&self) {
        let Some(manager) = &self.0 else { return };
        manager.change([NotifyState::Stopping]);
    }

    /// Sets the line that `systemctl status` shows. Returns whether it was sent.
    pub(crate) fn status(&self, text: &str) -> bool {
        let Some(manager) = &self.0 else { return true };
        let mut line = text.replace(char::is_control, " ");
        let end = (0..=LONGEST_STATUS.min(line.len())).rev().find(|end| line.is_char_boundary(*end));
        line.truncate(end.unwrap_or_default());
        manager.send_now([NotifyState::Status(&line)])
    }

    /// Asks for more time for the start or the stop, counted from now. Returns whether the request was sent.
    pub(crate) fn extend_timeout(&self, by: Duration) -> bool {
        let Some(manager) = &self.0 else { return true };
        let micros = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
        manager.send_now([NotifyState::ExtendTimeoutUsec(micros)])
    }

    /// Sends the changes of state that wait.
    pub(crate) fn flush(&self) {
        if let Some(manager) = &self.0 {
            manager.flush();
        }
    }

    /// Returns the time within which the watchdog expects a sign of life, if it is on.
    pub(crate) fn watchdog_period(&self) -> Option<Duration> {
        self.0.as_ref()?.watchdog
    }

    /// Returns a function that keeps the watchdog calm if it is called each second; none if there is no watchdog.
    pub(crate) fn watchdog(&self) -> Option<Pulse> {
        let manager = Arc::clone(self.0.as_ref()?);
        let half = manager.watchdog? / 2;
        let mut last: Option<Instant> = None;
        Some(Box::new(move || {
            // Now, if the next call would come after half of the period.
            if last.is_none_or(|last| last.elapsed() + PULSE > half)
                && manager.send_now([NotifyState::Watchdog])
            {
                last = Some(Instant::now());
            }
        }))
    }
}

impl ManagerSocket {
    /// Sends a change of state, behind those that wait.
    fn change<'a>(&self, states: impl IntoIterator<Item = NotifyState<'a>>) {
        {
            let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
            if backlog.len() == BACKLOG {
                backlog.pop_front();
            }
            backlog.push_back(message(states));
        }
        self.flush();
    }

    fn flush(&self) {
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(message) = backlog.front() {
            if !self.send(message) {
                return;
            }
            backlog.pop_front();
        }
    }

    /// Sends a message that is of no use later. Returns whether it was sent.
    fn send_now<'a>(&self, states: impl IntoIterator<Item = NotifyState<'a>>) -> bool {
        self.send(&message(states))
    }

    /// Returns whether the message was sent. Reports the first failure.
    fn send(&self, message: &str) -> bool {
        let attempt = || self.socket.send(message.as_bytes());
        // A service manager that was started again has a new socket.
        let sent = attempt().or_else(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Err(error),
            _ => self.socket.connect_addr(&self.address).and_then(|()| attempt()),
        });
        match sent {
            Ok(_) => {
                self.is_failing.store(false, Ordering::Relaxed);
                true
            }
            Err(error) => {
                let is_known = error.kind() == io::ErrorKind::WouldBlock;
                if !is_known && !self.is_failing.swap(true, Ordering::Relaxed) {
                    warn!("cannot send to the service manager ({VARIABLE}): {error}");
                }
                false
            }
        }
    }
}

/// Returns the address that a name of a socket stands for: a path, or `@` and an abstract name.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::other("it is neither an absolute path nor an abstract name (@)")),
    }
}

fn message<'a>(states: impl IntoIterator<Item = NotifyState<'a>>) -> String {
    states.into_iter().map(|state| format!("{state}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service manager, and its socket.
    fn pair(watchdog: Option<Duration>) -> (ServiceManager, UnixDatagram) {
        let (socket, theirs) = UnixDatagram::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let address = SocketAddr::from_abstract_name(b"pyzord no such socket").unwrap();
        let (backlog, is_failing) = (Mutex::default(), AtomicBool::new(false));
        let manager =
            ManagerSocket { socket, address, process: process::id(), watchdog, backlog, is_failing };
        (ServiceManager(Some(Arc::new(manager))), theirs)
    }

    fn read(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    #[test]
    fn names_are_paths_or_abstract() {
        let address = |name: &str| address(OsStr::new(name));
        assert_eq!(address("/run/x").unwrap().as_pathname().unwrap().to_str(), Some("/run/x"));
        assert_eq!(address("@x/y").unwrap().as_abstract_name(), Some(&b"x/y"[..]));
        for wrong in ["x", "vsock:2:3", "/\0", &format!("/{}", "x".repeat(200))] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn changes_of_state_wait_for_room_and_stay_in_order() {
        let (manager, theirs) = pair(None);
        while manager.status("filler") {}
        manager.reloading();
        for _ in 0..3 * BACKLOG {
            manager.ready();
        }
        manager.stopping();
        let mut seen = Vec::new();
        loop {
            manager.flush();
            match read(&theirs) {
                Some(text) if text.starts_with("STATUS=") => {}
                Some(text) => seen.push(text),
                None => break,
            }
        }
        assert_eq!(seen.len(), BACKLOG);
        assert!(seen[..BACKLOG - 1].iter().all(|text| text == "READY=1\n"), "{seen:?}");
        assert_eq!(seen[BACKLOG - 1], "STOPPING=1\n");
    }

    #[test]
    fn status_is_one_line_of_bounded_length() {
        let (manager, theirs) = pair(None);
        assert!(manager.status("one\nREADY=1\u{85}\rtwo"));
        assert_eq!(read(&theirs).unwrap(), "STATUS=one READY=1  two\n");
        assert!(manager.status(&"ä".repeat(LONGEST_STATUS)));
        assert_eq!(read(&theirs).unwrap().len(), "STATUS=\n".len() + LONGEST_STATUS);
    }

    #[test]
    fn watchdog_is_kept_calm_within_half_of_its_period() {
        for (period, signs) in [(2, 2), (60, 1)] {
            let (manager, theirs) = pair(Some(Duration::from_secs(period)));
            let mut pulse = manager.watchdog().unwrap();
            pulse();
            pulse();
            let seen: Vec<String> = std::iter::from_fn(|| read(&theirs)).collect();
            assert_eq!(seen, vec!["WATCHDOG=1\n"; signs], "{period}");
        }
        assert!(pair(None).0.watchdog().is_none());
        assert!(ServiceManager::default().watchdog().is_none());
    }

    #[test]
    fn absent_service_manager_is_no_error() {
        let (manager, theirs) = pair(None);
        drop(theirs);
        manager.ready();
        assert!(!manager.status("text"));
        assert!(ServiceManager::default().status("text"));
    }
}
