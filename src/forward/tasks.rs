//! The thread of forwarding: a task for each server, and the timer of partial requests.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tracing::error;

use super::channel::{Channel, Phase};
use super::intake::Intake;
use super::task::ServerTask;

/// What the thread must do.
pub(super) enum Command {
    /// Begins to serve a server.
    Serve(Arc<Channel>),
    /// Ends at this time at the latest.
    Stop(Instant),
}

/// Runs the task of each server until the forwarder is stopped. `listening` is the address of this server.
pub(super) async fn run_tasks(
    intake: &Intake,
    mut commands: mpsc::UnboundedReceiver<Command>,
    listening: SocketAddr,
) {
    let mut tasks = JoinSet::new();
    let mut channels: Vec<Weak<Channel>> = Vec::new();
    let mut timer = std::pin::pin!(intake.run_timer());
    let by = loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Serve(channel)) => {
                    channels.retain(|other| other.strong_count() > 0);
                    channels.push(Arc::downgrade(&channel));
                    tasks.spawn(ServerTask::new(channel, listening).run());
                }
                Some(Command::Stop(by)) => break by,
                None => break Instant::now(),
            },
            Some(ended) = tasks.join_next() => report_panic(ended),
            () = &mut timer => {}
        }
    };
    for channel in channels.iter().filter_map(Weak::upgrade) {
        channel.phase.send_replace(Phase::Stopping(by));
    }
    while let Some(ended) = tasks.join_next().await {
        report_panic(ended);
    }
}

/// Reports a task that has panicked: nothing is sent to its server any more.
fn report_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!("Forwarding: the task of a server panicked: {error}; restart pyzord to forward to it again");
    }
}
