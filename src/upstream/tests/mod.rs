//! Tests of second opinions: with times that are chosen and without sockets, and with sockets.

mod answers;
mod outages;
mod replies;
mod service;
mod trials;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pyzor_wire::digest::Digest;
use pyzor_wire::reply::RecordCounts;
use pyzor_wire::request_writer::Signer;

use super::asked::{Dispatch, DispatchOutcome, Readiness, ServerEvent, ServerId};
use super::questions::Questions;
use super::{UpstreamAnswer, UpstreamServerStatus, UpstreamState};
use crate::remotes::{RemoteDirectory, RemoteServer};
use crate::stats::UpstreamServerCounts;

const TIME: i64 = 1_795_791_819;
const TIMEOUT: Duration = Duration::from_secs(1);
const PING_PAUSE: Duration = Duration::from_secs(2);
const REFUSED: &str = "no process uses its port";

fn digest(number: u8) -> Digest {
    Digest::from_bytes([number; 20])
}

fn answer(number: u8, counts: Option<(i64, i64)>) -> UpstreamAnswer {
    let counts = counts.map(|(reports, whitelists)| RecordCounts { reports, whitelists });
    UpstreamAnswer { digest: digest(number), counts, is_complete: counts.is_some() }
}

/// An answer that not all servers have given.
fn partial(number: u8, counts: Option<(i64, i64)>) -> UpstreamAnswer {
    UpstreamAnswer { is_complete: false, ..answer(number, counts) }
}

fn server(index: u8, signer: Signer) -> RemoteServer {
    RemoteServer { host: format!("192.0.2.{index}"), port: 9, signer }
}

/// The servers with these numbers.
fn directory(indexes: &[u8]) -> RemoteDirectory {
    let servers = indexes.iter().map(|index| server(*index, Signer::anonymous())).collect();
    RemoteDirectory { servers, timeout: TIMEOUT }
}

fn addresses(last: &[u8]) -> Vec<SocketAddr> {
    last.iter().map(|byte| SocketAddr::from(([192, 0, 2, *byte], 9))).collect()
}

/// Questions with a clock.
struct Bench {
    questions: Questions,
    now: Instant,
}

impl Bench {
    /// Servers that have one address each.
    fn new(servers: u8) -> Self {
        Self::with_timeout(servers, TIMEOUT)
    }

    fn with_timeout(servers: u8, timeout: Duration) -> Self {
        let now = Instant::now();
        let mut questions = Questions::new(timeout);
        let indexes: Vec<u8> = (0..servers).collect();
        questions.replace(directory(&indexes), now);
        for index in indexes {
            let id = questions.servers()[usize::from(index)].id();
            questions.with_server(id, |server| server.resolved(addresses(&[index]), now));
        }
        Self { questions, now }
    }

    fn id(&mut self, index: usize) -> ServerId {
        self.questions.servers()[index].id()
    }

    fn after(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    /// Asks about a digest. Returns what was sent, in the order of the servers.
    fn ask(&mut self, number: u8) -> Vec<Dispatch> {
        let dispatches = self.questions.ask(digest(number), self.now, TIME);
        self.send(dispatches)
    }

    /// Ends what has waited long enough. Returns the pings that were sent.
    fn poll(&mut self) -> Vec<Dispatch> {
        let pings = self.questions.poll(self.now, TIME);
        self.send(pings)
    }

    fn send(&mut self, dispatches: Vec<Dispatch>) -> Vec<Dispatch> {
        for dispatch in &dispatches {
            self.questions.dispatched(dispatch, DispatchOutcome::Sent, self.now);
        }
        dispatches
    }

    /// Lets something arrive at the socket from which `dispatch` was sent.
    fn receive(&mut self, dispatch: &Dispatch, text: &str) {
        let now = self.now;
        self.questions.with_server(dispatch.server, |server| {
            server.received(dispatch.socket, text.as_bytes(), now);
        });
    }

    fn reply(&mut self, dispatch: &Dispatch, code: u16) {
        self.receive(dispatch, &format!("Code: {code}\nThread: {}\n\n", thread(dispatch)));
    }

    fn reply_counts(&mut self, dispatch: &Dispatch, reports: i64, whitelists: i64) {
        let counts = format!("Count: {reports}\nWL-Count: {whitelists}");
        self.receive(dispatch, &format!("Code: 200\nThread: {}\n{counts}\n\n", thread(dispatch)));
    }

    /// Asks a question that gets no reply.
    fn ask_in_vain(&mut self) {
        self.ask(0);
        self.after(TIMEOUT).poll();
    }

    /// Makes the first server unavailable with an error of the socket.
    fn fail(&mut self) {
        let (id, now) = (self.id(0), self.now);
        self.questions.with_server(id, |server| server.failed(REFUSED.to_owned(), now));
    }

    /// Lets the first server reply to the next ping.
    fn pong(&mut self) {
        self.now = self.questions.next_time().unwrap();
        let pings = self.poll();
        self.reply(&pings[0], 200);
    }

    fn answers(&mut self) -> Vec<UpstreamAnswer> {
        self.questions.take_answers()
    }

    fn events(&mut self) -> Vec<ServerEvent> {
        self.questions.servers()[0].take_events()
    }

    fn status(&self) -> UpstreamServerStatus {
        self.questions.status(self.now)[0].clone()
    }

    fn state(&self) -> UpstreamState {
        self.status().state
    }

    fn readiness(&self) -> Readiness {
        self.questions.readiness()
    }

    fn counts(&self) -> UpstreamServerCounts {
        self.questions.counts()["192.0.2.0:9"].clone()
    }

    /// The time until something is due.
    fn wait(&self) -> Option<Duration> {
        self.questions.next_time().map(|time| time - self.now)
    }
}

fn text(dispatch: &Dispatch) -> &str {
    std::str::from_utf8(&dispatch.datagram).unwrap()
}

fn thread(dispatch: &Dispatch) -> u16 {
    let line = text(dispatch).lines().find_map(|line| line.strip_prefix("Thread: "));
    line.unwrap().parse().unwrap()
}

fn is_ping(dispatch: &Dispatch) -> bool {
    text(dispatch).starts_with("Op: ping\n")
}
