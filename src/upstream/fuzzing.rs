//! Fuzz target for questions to other servers: a slow model without hash tables and states of its own knows which replies
//! belong to which requests, and what each answer is.

mod model;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pyzor_wire::digest::Digest;
use pyzor_wire::request_writer::Signer;

use self::model::{Model, ModelRequest};
use super::asked::{Dispatch, DispatchOutcome, ServerId};
use super::questions::Questions;
use crate::fuzz_models::FuzzInput;
use crate::remotes::{RemoteDirectory, RemoteServer};

const TIMEOUT: Duration = Duration::from_millis(1500);
const STEPS: [u64; 12] = [0, 1, 100, 249, 250, 500, 1499, 1500, 2000, 2001, 10_000, 60_000];
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Questions beside their model.
struct Pair {
    questions: Questions,
    model: Model,
    now: Instant,
    /// The time at which silence was last judged.
    polled: Instant,
    asked: u32,
}

/// Asserts that each question has one answer, with the largest counts of the replies in time that match it.
pub(crate) fn target(bytes: &[u8]) {
    let mut input = FuzzInput::new(bytes);
    let now = Instant::now();
    let (questions, model) = (Questions::new(TIMEOUT), Model::new(TIMEOUT));
    let mut pair = Pair { questions, model, now, polled: now, asked: 0 };
    pair.replace(input.byte() | 1);
    while !input.is_empty() {
        match input.byte() % 16 {
            0..=3 => pair.ask(&mut input),
            4..=6 => pair.advance(&mut input),
            7..=11 => pair.reply(&mut input),
            12 => pair.receive(&mut input),
            13 => pair.pause(&mut input),
            14 => pair.fail(&mut input),
            _ => pair.replace(input.byte()),
        }
        pair.check();
    }
    pair.now += TIMEOUT;
    pair.poll(false);
    pair.check();
    assert!(pair.model.is_finished(), "a question has no answer");
}

impl Pair {
    fn ask(&mut self, input: &mut FuzzInput<'_>) {
        self.asked += 1;
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&self.asked.to_be_bytes());
        let digest = Digest::from_bytes(bytes);
        let expected = self.model.ask(digest);
        let dispatches = self.questions.ask(digest, self.now, 0);
        let servers: Vec<ServerId> = dispatches.iter().map(|dispatch| dispatch.server).collect();
        assert_eq!(servers, expected);
        for dispatch in &dispatches {
            let text = std::str::from_utf8(&dispatch.datagram).unwrap_or_default();
            assert!(text.starts_with("Op: check\n") && text.contains("\nLocal-Only: yes\n"), "{text}");
            assert!(text.contains(&format!("\nOp-Digest: {digest}\n")), "{text}");
            self.model.sent(dispatch, Some(digest), self.now);
        }
        for dispatch in &dispatches {
            let outcome = match input.byte() {
                254 => DispatchOutcome::Blocked,
                255 => DispatchOutcome::Failed("no route".to_owned()),
                _ => DispatchOutcome::Sent,
            };
            self.model.dispatched(dispatch, &outcome);
            self.questions.dispatched(dispatch, outcome, self.now);
        }
    }

    fn advance(&mut self, input: &mut FuzzInput<'_>) {
        self.now += Duration::from_millis(input.pick(&STEPS));
        self.poll(input.byte() == 255);
    }

    /// Lets time pass without a judgement on silence, as while the process is stopped.
    fn pause(&mut self, input: &mut FuzzInput<'_>) {
        self.now += Duration::from_millis(input.pick(&STEPS));
        // The sockets that wait for replies are bounded, which the model does not know.
        if self.now - self.polled > LONGEST_PAUSE {
            self.poll(false);
        }
    }

    /// Ends what has waited long enough. `is_failure`: pings cannot be sent.
    fn poll(&mut self, is_failure: bool) {
        self.polled = self.now;
        self.model.poll(self.now);
        let pings = self.questions.poll(self.now, 0);
        for dispatch in &pings {
            assert!(dispatch.datagram.starts_with(b"Op: ping\nThread: "));
            self.model.sent(dispatch, None, self.now);
            let outcome = match is_failure {
                true => DispatchOutcome::Failed("no route".to_owned()),
                false => DispatchOutcome::Sent,
            };
            self.questions.dispatched(dispatch, outcome, self.now);
        }
    }

    /// Chooses something that was sent, the latest most often.
    fn request(&self, input: &mut FuzzInput<'_>) -> Option<ModelRequest> {
        let all = self.model.requests();
        let back = usize::from(input.byte()) % all.len().clamp(1, 64);
        all.get(all.len().checked_sub(back + 1)?).cloned()
    }

    fn reply(&mut self, input: &mut FuzzInput<'_>) {
        let Some(of) = self.request(input) else { return };
        let socket = if input.byte() < 224 { Some(of.clone()) } else { self.request(input) };
        let thread = match input.byte() {
            224.. => of.thread + u64::from(input.byte()),
            220..224 => of.thread + 65_536,
            _ => of.thread,
        };
        let counts = format!("Count: {}\nWL-Count: {}\n", input.number(), input.number());
        let start = match input.byte() {
            0..160 => format!("Code: 200\nThread: {thread}\n{counts}"),
            160..180 => format!("Code: 200\nThread: {thread}\n"),
            180..190 => format!("Op: check\nThread: {thread}\n{counts}"),
            190..200 => format!("Thread: {thread}\n{counts}"),
            _ => {
                format!(
                    "Code: {}\nThread: {thread}\n{counts}",
                    input.pick(&[400, 401, 403, 500, 501, 505, 7, 70_000])
                )
            }
        };
        let rest = input.byte();
        let rest = if rest < 192 { &[][..] } else { input.take(usize::from(rest - 192)) };
        let datagram = [start.as_bytes(), rest, b"\n\n"].concat();
        socket.into_iter().for_each(|socket| self.arrive(&socket, &datagram));
    }

    fn receive(&mut self, input: &mut FuzzInput<'_>) {
        if let Some(at) = self.request(input) {
            let length = usize::from(input.byte());
            self.arrive(&at, input.take(length));
        }
    }

    /// Lets a datagram arrive at the socket from which something was sent.
    fn arrive(&mut self, at: &ModelRequest, datagram: &[u8]) {
        let is_matched = self.model.received(at, datagram);
        let before = self.questions.status(self.now);
        self.questions.with_server(at.server, |server| server.received(at.socket, datagram, self.now));
        if !is_matched {
            assert_eq!(self.questions.status(self.now), before, "an unmatched datagram has an effect");
        }
    }

    fn fail(&mut self, input: &mut FuzzInput<'_>) {
        let Some(at) = self.request(input) else { return };
        let servers = self.questions.servers();
        let server = servers.iter().find(|server| server.id() == at.server);
        if server.is_some_and(|server| server.uses(at.socket)) {
            self.model.fail(at.server);
        }
        self.questions.with_server(at.server, |server| {
            server.socket_failed(at.socket, "no process uses its port".to_owned(), self.now);
        });
    }

    /// Uses the servers whose bits are set.
    fn replace(&mut self, bits: u8) {
        let server =
            |bit: u8| RemoteServer { host: format!("192.0.2.{bit}"), port: 9, signer: Signer::anonymous() };
        let servers = (0..3).filter(|bit| bits >> bit & 1 == 1).map(server).collect();
        self.questions.replace(RemoteDirectory { servers, timeout: TIMEOUT }, self.now);
        for id in self.questions.ids() {
            let address = |bit: u8| SocketAddr::from(([192, 0, 2, bit], 9));
            let now = self.now;
            let addresses = if bits & 8 == 0 { vec![address(1)] } else { vec![address(1), address(2)] };
            self.questions.with_server(id, |server| server.resolved(addresses, now));
        }
        let servers: Vec<ServerId> = self.questions.servers().iter().map(|server| server.id()).collect();
        self.model.replace(&servers);
    }

    /// Asserts that both have the same answers, states and counters.
    fn check(&mut self) {
        let states: Vec<_> = self.questions.status(self.now).iter().map(|status| status.state).collect();
        self.model.observe(&states);
        let mut answers = self.questions.take_answers();
        answers.sort_by_key(|answer| *answer.digest.as_bytes());
        assert_eq!(answers, self.model.take_answers());
        assert_eq!(self.questions.readiness(), self.model.readiness());
        if let Some(due) = self.model.next_time() {
            assert!(self.questions.next_time().is_some_and(|time| time <= due), "nothing ends {due:?}");
        }
        let in_flight = self.questions.status(self.now);
        for (server, status) in self.questions.servers().iter().zip(in_flight) {
            let counts = server.counts();
            let ended = counts.answered + counts.refusals() + counts.silent;
            assert_eq!(counts.sent, ended + status.in_flight, "{counts:?}");
            assert_eq!(status.in_flight, self.model.in_flight(server.id()));
            assert_eq!(counts.unmatched, self.model.unmatched(server.id()));
        }
    }
}

/// Returns the `Thread` of a request.
fn thread(dispatch: &Dispatch) -> u64 {
    let text = String::from_utf8_lossy(&dispatch.datagram).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("Thread: ")).unwrap_or_default().to_owned();
    line.parse().unwrap_or_else(|_| panic!("{text:?} has no thread"))
}
