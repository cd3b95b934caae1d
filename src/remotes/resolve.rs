//! Addresses of servers.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::own_address::is_own;

/// The result of a look-up without a thread.
const NO_THREAD: &str = "cannot start a thread to resolve the name";

/// The addresses of a name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// The addresses to send to, in the order of the resolver.
    pub(crate) usable: Vec<SocketAddr>,
    /// The addresses of this server itself.
    pub(crate) own: Vec<SocketAddr>,
}

/// What a look-up has found, or why it failed.
pub(crate) type LookUpResult = Result<Addresses, String>;

/// A look-up in the background, one at a time.
#[derive(Debug, Default)]
pub(crate) struct LookUp(Option<oneshot::Receiver<LookUpResult>>);

impl LookUp {
    /// Looks a host up, unless a look-up is under way.
    pub(crate) fn begin(&mut self, host: &str, port: u16, listening: SocketAddr) {
        if self.0.is_none() {
            self.0 = Some(look_up(host, port, listening));
        }
    }

    /// Whether a look-up is under way.
    pub(crate) fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the result of the look-up under way, which is over then. Never returns without one.
    pub(crate) async fn result(&mut self) -> LookUpResult {
        let Some(receiver) = &mut self.0 else { return std::future::pending().await };
        let result = receiver.await;
        self.0 = None;
        result.unwrap_or_else(|_| Err(NO_THREAD.to_owned()))
    }

    /// Returns the result of the look-up under way if there is one already. The look-up is over then.
    pub(crate) fn try_result(&mut self) -> Option<LookUpResult> {
        let result = match self.0.as_mut()?.try_recv() {
            Ok(result) => result,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Closed) => Err(NO_THREAD.to_owned()),
        };
        self.0 = None;
        Some(result)
    }
}

/// Looks a host up in a thread of its own, because the resolver may block for many seconds. Tokio's threads are not used:
/// tokio panics if it cannot start one.
fn look_up(host: &str, port: u16, listening: SocketAddr) -> oneshot::Receiver<LookUpResult> {
    let (sender, receiver) = oneshot::channel();
    // The task may have ended before an answer: then it is of no use.
    if let Ok(ip) = host.parse::<IpAddr>() {
        let _ = sender.send(Ok(sorted_out([(ip, port).into()], listening)));
        return receiver;
    }
    let host = host.to_owned();
    let work = move || {
        let _ = sender.send(resolve(&host, port, listening));
    };
    // If the thread cannot be started, the sender is dropped, which is taken for a failure.
    let _ = thread::Builder::new().name("look-up".to_owned()).spawn(work);
    receiver
}

fn resolve(host: &str, port: u16, listening: SocketAddr) -> LookUpResult {
    let failure = |error: io::Error| format!("cannot resolve the name: {error}");
    Ok(sorted_out((host, port).to_socket_addrs().map_err(failure)?, listening))
}

/// Separates the addresses of this server from others. Leaves repetitions out.
fn sorted_out(found: impl IntoIterator<Item = SocketAddr>, listening: SocketAddr) -> Addresses {
    let mut addresses = Addresses::default();
    for address in found {
        let list = match is_own(address, listening) {
            true => &mut addresses.own,
            false => &mut addresses.usable,
        };
        if !list.contains(&address) {
            list.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_and_repetitions_are_left_out() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let found = ["127.0.0.1:9", "127.0.0.2:9", "127.0.0.2:9", "127.0.0.1:9"].map(address);
        assert_eq!(
            sorted_out(found, address("127.0.0.1:9")),
            Addresses { usable: vec![address("127.0.0.2:9")], own: vec![address("127.0.0.1:9")] }
        );
    }

    #[test]
    fn literals_are_resolved_without_a_thread_and_unknown_names_fail() {
        let listening = "127.0.0.1:9".parse().unwrap();
        let found = look_up("::1", 10, listening).try_recv().unwrap().unwrap();
        assert_eq!(found.usable, ["[::1]:10".parse().unwrap()]);
        let failure = look_up("nosuch.invalid", 10, listening).blocking_recv().unwrap().unwrap_err();
        assert!(failure.starts_with("cannot resolve the name: "), "{failure}");
    }
}
