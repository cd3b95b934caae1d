//! Second opinions as the server and operators see them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use pyzor_wire::digest::Digest;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;
use tracing::error;

use super::task::{AskTask, Command, Shared, without_counts};
use super::{QuestionSink, UpstreamNews, UpstreamReceiver, UpstreamServerStatus, UpstreamSettings};
use crate::remotes::RemoteDirectory;
use crate::stats::UpstreamServerCounts;

/// Asks other servers, from a thread of its own.
pub(crate) struct Upstream {
    pub(super) shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
    /// The thread. Taken by the first stop.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Upstream {
    /// Starts the thread. `listening` is the address of this server, which is not asked.
    ///
    /// # Errors
    ///
    /// The thread or its runtime cannot be started.
    pub(crate) fn start(
        settings: &UpstreamSettings,
        directory: RemoteDirectory,
        listening: SocketAddr,
    ) -> io::Result<(Arc<Self>, UpstreamReceiver)> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let (news, receiver) = mpsc::unbounded_channel();
        let (commands, received) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(settings.timeout, news));
        shared.questions().replace(directory, Instant::now());
        let task = AskTask::new(Arc::clone(&shared), listening);
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("upstream".to_owned())
            .spawn(move || run_thread(&runtime, task, received, &of_thread))?;
        Ok((Arc::new(Self { shared, commands, thread: Mutex::new(Some(thread)) }), receiver))
    }

    /// Replaces the servers. A server with the same host and port keeps its state. Returns a line for each change.
    pub(crate) fn replace(&self, directory: RemoteDirectory) -> Vec<String> {
        let mut questions = self.shared.questions();
        let before = questions.ids();
        let lines = questions.replace(directory, Instant::now());
        if questions.ids() != before {
            self.shared.tell(UpstreamNews::ServersChanged);
        }
        self.shared.publish(&mut questions);
        drop(questions);
        // Fails only after the end of the thread.
        let _ = self.commands.send(Command::TakeNotice);
        lines
    }

    /// Ends the thread. Questions under way are answered without counts.
    pub(crate) fn stop(&self) {
        let _ = self.commands.send(Command::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic was reported. The thread never waits for anything but its events.
        thread.into_iter().for_each(|thread| drop(thread.join()));
    }

    /// Keeps the thread from its work.
    #[cfg(test)]
    pub(super) fn hold(&self) -> std::sync::MutexGuard<'_, super::questions::Questions> {
        self.shared.questions()
    }

    /// Returns the state of each server, in the order of the servers file.
    pub(crate) fn status(&self) -> Vec<UpstreamServerStatus> {
        self.shared.questions().status(Instant::now())
    }

    /// Returns the counters of each server.
    pub(crate) fn counts(&self) -> BTreeMap<String, UpstreamServerCounts> {
        self.shared.questions().counts()
    }
}

impl QuestionSink for Upstream {
    fn is_available(&self) -> bool {
        self.shared.is_ready()
    }

    fn ask(&self, digests: &mut Vec<Digest>) {
        if digests.is_empty() {
            return;
        }
        self.shared.use_trial();
        let unsent = self.commands.send(Command::Ask(std::mem::take(digests))).err();
        if let Some(SendError(Command::Ask(digests))) = unsent {
            self.shared.answer(without_counts(digests));
        }
    }
}

/// Runs the task of the thread. Each question that was asked before its end has an answer afterwards.
fn run_thread(
    runtime: &Runtime,
    task: AskTask,
    mut commands: mpsc::UnboundedReceiver<Command>,
    shared: &Shared,
) {
    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(task.run(&mut commands))));
    if outcome.is_err() {
        error!("Second opinions: their thread panicked; restart pyzord to ask other servers again");
    }
    shared.close();
    commands.close();
    while let Ok(command) = commands.try_recv() {
        if let Command::Ask(digests) = command {
            shared.answer(without_counts(digests));
        }
    }
}
