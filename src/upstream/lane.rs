//! The sockets to one server and its name, around [`AskedServer`].

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use pyzor_wire::MAX_DATAGRAM;

use super::asked::{AskedServer, Dispatch, DispatchOutcome, ServerId, SocketId};
use super::lines::ServerLines;
use super::questions::Questions;
use crate::remotes::{
    Addresses, ConnectedSocket, LookUp, LookUpResult, RemoteServer, has_route, is_congestion, socket_reason,
};

/// The most datagrams that are received from a socket in a turn.
const RECEIVED_AT_ONCE: usize = 64;
/// The most datagrams that are received from a socket before questions are taken to be silent: more than wait in the
/// receive buffer of a socket by default.
const RECEIVED_BEFORE_JUDGEMENT: usize = 512;

/// What the thread has of one server.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) server: ServerId,
    /// Host and port, for messages.
    name: String,
    sockets: Vec<(SocketId, ConnectedSocket)>,
    look_up: LookUp,
    lines: ServerLines,
}

impl Lane {
    pub(super) fn new(server: ServerId, remote: &RemoteServer) -> Self {
        let (look_up, lines) = (LookUp::default(), ServerLines::default());
        Self { server, name: remote.to_string(), sockets: Vec::new(), look_up, lines }
    }

    /// Sends a datagram, from a new socket if necessary.
    pub(super) fn send(&mut self, dispatch: &Dispatch) -> DispatchOutcome {
        let outcome = self.try_send(dispatch);
        match outcome {
            Ok(()) => DispatchOutcome::Sent,
            Err(error) if is_congestion(&error) => DispatchOutcome::Blocked,
            Err(error) => DispatchOutcome::Failed(socket_reason(&error)),
        }
    }

    fn try_send(&mut self, dispatch: &Dispatch) -> io::Result<()> {
        if let Some((_, socket)) = self.sockets.iter().find(|(id, _)| *id == dispatch.socket) {
            return socket.send(&dispatch.datagram);
        }
        let socket = ConnectedSocket::open(dispatch.address)?;
        let outcome = socket.send(&dispatch.datagram);
        self.sockets.push((dispatch.socket, socket));
        outcome
    }

    /// Takes what has arrived. `is_judgement`: also what the runtime has not noticed, because questions are taken to be
    /// silent next. Returns whether more may wait.
    pub(super) fn receive(&self, questions: &mut Questions, is_judgement: bool) -> bool {
        let mut buffer = [0; MAX_DATAGRAM];
        let mut is_more = false;
        let limit = if is_judgement { RECEIVED_BEFORE_JUDGEMENT } else { RECEIVED_AT_ONCE };
        for (id, socket) in &self.sockets {
            let mut received = 0;
            while received < limit {
                received += 1;
                let outcome = match is_judgement {
                    true => socket.receive_now(&mut buffer),
                    false => socket.receive(&mut buffer),
                };
                let now = Instant::now();
                match outcome {
                    Ok(length) => questions.with_server(self.server, |server| {
                        server.received(*id, &buffer[..length], now);
                    }),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => questions.with_server(self.server, |server| {
                        server.socket_failed(*id, socket_reason(&error), now);
                    }),
                }
            }
            is_more |= received == limit;
        }
        is_more
    }

    /// Does what the state of the server demands: closes sockets, begins a look-up, writes log lines.
    pub(super) fn follow(&mut self, server: &mut AskedServer, listening: SocketAddr, now: Instant) {
        self.sockets.retain(|(id, _)| server.uses(*id));
        // A look-up that has begun before would miss what has changed since.
        if !self.look_up.is_under_way() && server.take_look_up() {
            let RemoteServer { host, port, .. } = server.remote();
            self.look_up.begin(host, *port, listening);
        }
        for event in server.take_events() {
            self.lines.event(event, &self.name, server.remote().signer.user(), now);
            self.lines.outage(&self.name, now);
        }
        self.lines.outage(&self.name, now);
    }

    /// Returns the result of the look-up under way, if there is one already.
    pub(super) fn try_result(&mut self) -> Option<LookUpResult> {
        self.look_up.try_result()
    }

    /// Waits until something arrives, or for the result of the look-up under way, which is returned.
    pub(super) async fn event(&mut self) -> Option<LookUpResult> {
        let arrivals = self.sockets.iter().map(|(_, socket)| Box::pin(socket.arrival()));
        tokio::select! {
            () = any(arrivals.collect()) => None,
            result = self.look_up.result() => Some(result),
        }
    }

    /// Takes the result of a look-up.
    pub(super) fn take_addresses(&mut self, result: LookUpResult, questions: &mut Questions, now: Instant) {
        let Addresses { mut usable, own } = match result {
            Ok(addresses) => addresses,
            Err(reason) => {
                return questions.with_server(self.server, |server| server.unresolved(reason, now));
            }
        };
        self.lines.own_addresses(&own, &self.name);
        // The first address may be one of IPv6, to which there is no way.
        usable.sort_by_cached_key(|address| !has_route(*address));
        questions.with_server(self.server, |server| match (usable.is_empty(), own.is_empty()) {
            (true, true) => server.unresolved("its name has no address".to_owned(), now),
            (true, false) => server.is_own(now),
            (false, _) => server.resolved(usable, now),
        });
    }
}

/// Waits for any of these. Never returns without one.
async fn any<F: Future<Output = ()> + Unpin>(futures: Vec<F>) {
    match futures.is_empty() {
        true => std::future::pending().await,
        false => drop(futures_util::future::select_all(futures).await),
    }
}
