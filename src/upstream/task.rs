//! The thread of second opinions: sockets, timers and names around [`Questions`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::select_all;
use pyzor_wire::digest::Digest;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::asked::{Dispatch, Readiness, ServerId};
use super::lane::Lane;
use super::questions::Questions;
use super::{UpstreamAnswer, UpstreamNews};
use crate::record::Timestamp;
use crate::remotes::LookUpResult;

/// The most commands that are taken before what has arrived is received again.
const COMMANDS_AT_ONCE: usize = 64;

/// Returns answers without counts.
pub(super) fn without_counts(digests: impl IntoIterator<Item = Digest>) -> Vec<UpstreamAnswer> {
    digests.into_iter().map(|digest| UpstreamAnswer { digest, counts: None, is_complete: false }).collect()
}

/// What the thread must do.
#[derive(Debug)]
pub(super) enum Command {
    /// Asks about these digests.
    Ask(Vec<Digest>),
    /// Takes notice of other servers.
    TakeNotice,
    Stop,
}

/// What the thread shares with the server loop and operators.
#[derive(Debug)]
pub(super) struct Shared {
    /// Locked while datagrams are sent and received, but not while the thread waits.
    questions: Mutex<Questions>,
    /// A [`Readiness`].
    readiness: AtomicU8,
    news: mpsc::UnboundedSender<UpstreamNews>,
}

impl Shared {
    pub(super) fn new(timeout: Duration, news: mpsc::UnboundedSender<UpstreamNews>) -> Self {
        let readiness = AtomicU8::new(Readiness::Unready as u8);
        Self { questions: Mutex::new(Questions::new(timeout)), readiness, news }
    }

    pub(super) fn questions(&self) -> MutexGuard<'_, Questions> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any server takes a question.
    pub(super) fn is_ready(&self) -> bool {
        self.readiness.load(Ordering::Relaxed) > Readiness::Unready as u8
    }

    /// A question is on its way: a server on trial takes no other.
    pub(super) fn use_trial(&self) {
        let (from, to) = (Readiness::OneQuestion as u8, Readiness::Unready as u8);
        let _ = self.readiness.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Publishes what has changed.
    pub(super) fn publish(&self, questions: &mut Questions) {
        self.readiness.store(questions.readiness() as u8, Ordering::Relaxed);
        self.answer(questions.take_answers());
    }

    /// Passes answers on.
    pub(super) fn answer(&self, answers: Vec<UpstreamAnswer>) {
        if !answers.is_empty() {
            self.tell(UpstreamNews::Answers(answers));
        }
    }

    /// Tells the server loop.
    pub(super) fn tell(&self, news: UpstreamNews) {
        // Fails only after the end of the server loop.
        let _ = self.news.send(news);
    }

    /// Ends all questions without an answer, and takes no others: the thread has ended.
    pub(super) fn close(&self) {
        let mut questions = self.questions();
        questions.give_up(Instant::now());
        self.answer(questions.take_answers());
        self.readiness.store(Readiness::Unready as u8, Ordering::Relaxed);
    }
}

/// The task of the thread.
pub(super) struct AskTask {
    shared: Arc<Shared>,
    /// The address of this server itself.
    listening: SocketAddr,
    lanes: Vec<Lane>,
    /// Commands that were received. Empty, but keeps its capacity.
    commands: Vec<Command>,
    /// Digests that the loop asks about.
    asked: VecDeque<Digest>,
}

impl AskTask {
    /// Returns the task. Servers without a name are ready afterwards.
    pub(super) fn new(shared: Arc<Shared>, listening: SocketAddr) -> Self {
        let mut task =
            Self { shared, listening, lanes: Vec::new(), commands: Vec::new(), asked: VecDeque::new() };
        let shared = Arc::clone(&task.shared);
        let (now, mut questions) = (Instant::now(), shared.questions());
        task.follow(&mut questions, now);
        for lane in &mut task.lanes {
            if let Some(result) = lane.try_result() {
                lane.take_addresses(result, &mut questions, now);
            }
        }
        shared.publish(&mut questions);
        drop(questions);
        task
    }

    /// Asks until the stop.
    pub(super) async fn run(mut self, commands: &mut mpsc::UnboundedReceiver<Command>) {
        loop {
            let (wake_up, is_more) = self.turn();
            if is_more {
                // The runtime sees no other events otherwise.
                tokio::task::yield_now().await;
            }
            tokio::select! {
                (server, result) = event(&mut self.lanes) => self.take_result(server, result),
                received = commands.recv_many(&mut self.commands, COMMANDS_AT_ONCE) => {
                    if self.take_commands() || received == 0 {
                        return;
                    }
                }
                () = sleep_until(wake_up.unwrap_or_else(Instant::now).into()), if wake_up.is_some() => {}
            }
        }
    }

    /// Takes all received commands. Returns whether the thread must stop.
    fn take_commands(&mut self) -> bool {
        let mut must_stop = false;
        for command in self.commands.drain(..) {
            match command {
                Command::Ask(digests) => self.asked.extend(digests),
                Command::TakeNotice => {}
                Command::Stop => must_stop = true,
            }
        }
        must_stop
    }

    /// Receives what has arrived, and sends what is due. Returns the time at which more is due, and whether more may have
    /// arrived.
    fn turn(&mut self) -> (Option<Instant>, bool) {
        let shared = Arc::clone(&self.shared);
        let mut questions = shared.questions();
        // Replies may have waited while the process was stopped: they are not silence. What has arrived before this time
        // is received first.
        let (now, time) = (Instant::now(), Timestamp::now().seconds());
        let is_judgement = questions.next_time().is_some_and(|due| due <= now);
        let mut is_more = false;
        for lane in &self.lanes {
            is_more |= lane.receive(&mut questions, is_judgement);
        }
        for ping in questions.poll(now, time) {
            self.send(&mut questions, &ping);
        }
        while let Some(digest) = self.asked.pop_front() {
            for dispatch in questions.ask(digest, Instant::now(), time) {
                self.send(&mut questions, &dispatch);
            }
        }
        self.follow(&mut questions, Instant::now());
        shared.publish(&mut questions);
        (questions.next_time(), is_more)
    }

    fn send(&mut self, questions: &mut Questions, dispatch: &Dispatch) {
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.server == dispatch.server) {
            let outcome = lane.send(dispatch);
            questions.dispatched(dispatch, outcome, Instant::now());
        }
    }

    /// Does what the states of the servers demand.
    fn follow(&mut self, questions: &mut Questions, now: Instant) {
        let servers = questions.servers();
        self.lanes.retain(|lane| servers.iter().any(|server| server.id() == lane.server));
        for server in servers {
            let position = self.lanes.iter().position(|lane| lane.server == server.id());
            let index = position.unwrap_or_else(|| {
                self.lanes.push(Lane::new(server.id(), server.remote()));
                self.lanes.len() - 1
            });
            self.lanes[index].follow(server, self.listening, now);
        }
    }

    fn take_result(&mut self, server: ServerId, result: Option<LookUpResult>) {
        let lane = self.lanes.iter_mut().find(|lane| lane.server == server);
        if let Some((lane, result)) = lane.zip(result) {
            lane.take_addresses(result, &mut self.shared.questions(), Instant::now());
        }
    }
}

impl Drop for AskTask {
    fn drop(&mut self) {
        self.shared.answer(without_counts(self.asked.drain(..)));
    }
}

/// Waits for an event of any server: an arrival, or the result of a look-up. Never returns without a server.
async fn event(lanes: &mut [Lane]) -> (ServerId, Option<LookUpResult>) {
    let events = lanes.iter_mut().map(|lane| Box::pin(async { (lane.server, lane.event().await) }));
    let events: Vec<_> = events.collect();
    match events.is_empty() {
        true => std::future::pending().await,
        false => select_all(events).await.0,
    }
}
