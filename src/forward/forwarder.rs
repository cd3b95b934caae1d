//! The forwarder: what the server and operators see of forwarding.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use pyzor_wire::forward_id::ForwardOrigin;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::channel::{Channel, Phase};
use super::intake::Intake;
use super::tasks::{Command, run_tasks};
use super::{ForwardBuffer, ForwardCounts, ForwardSettings, ForwardSink, ForwardStatus};
use crate::record::TallyKind;
use crate::remotes::RemoteDirectory;

/// The longest time in which a removed server is sent what waits for it.
const LEAVING: Duration = Duration::from_secs(60);
/// How much longer than agreed a stop waits for the thread.
const PATIENCE: Duration = Duration::from_millis(500);

/// Sends accepted digests to other servers, from a thread of its own.
pub(crate) struct Forwarder {
    settings: ForwardSettings,
    origin: ForwardOrigin,
    intake: Arc<Intake>,
    commands: mpsc::UnboundedSender<Command>,
    /// The servers that were removed and whose tasks may go on.
    leaving: Mutex<Vec<Weak<Channel>>>,
    /// Reports the end of the thread. Taken by the first stop.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Forwarder {
    /// Starts the thread. `listening` is the address of this server, to which nothing is forwarded.
    ///
    /// # Errors
    ///
    /// The thread or its runtime cannot be started.
    pub(crate) fn start(
        settings: ForwardSettings,
        directory: RemoteDirectory,
        origin: ForwardOrigin,
        listening: SocketAddr,
    ) -> io::Result<Arc<Self>> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let intake = Arc::new(Intake::new(origin, settings.delay));
        let (commands, received) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let forwarder = Arc::new(Self {
            settings,
            origin,
            intake: Arc::clone(&intake),
            commands,
            leaving: Mutex::default(),
            ended: Mutex::new(Some(ended)),
        });
        forwarder.replace(directory);
        thread::Builder::new().name("forward".to_owned()).spawn(move || {
            runtime.block_on(run_tasks(&intake, received, listening));
            drop(end);
        })?;
        Ok(forwarder)
    }

    /// Replaces the servers. A server with the same host and port keeps its queue and its state, also with another account;
    /// one that is removed is sent what waits for it for a while, and is the same one if it is added again meanwhile. All names
    /// are looked up again.
    /// Returns a line for each change.
    pub(crate) fn replace(&self, directory: RemoteDirectory) -> Vec<String> {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|channel| channel.strong_count() > 0);
        let mut lines = Vec::new();
        let timeout = directory.timeout;
        self.intake.replace(|channels| {
            let mut old = std::mem::take(channels);
            for server in directory.servers {
                if let Some(index) = old.iter().position(|channel| channel.is_for(&server)) {
                    let channel = old.remove(index);
                    channel.delivery().set_timeout(timeout);
                    channel.renewal.notify_one();
                    lines.extend(channel.set_account(server.signer));
                    channels.push(channel);
                    continue;
                }
                let is_it = |channel: &Arc<Channel>| channel.is_for(&server) && channel.revive();
                if let Some(channel) = leaving.iter().filter_map(Weak::upgrade).find(is_it) {
                    channel.delivery().set_timeout(timeout);
                    channel.renewal.notify_one();
                    let account = channel.set_account(server.signer);
                    let queued = channel.queue().digests();
                    lines.push(format!(
                        "Forwarding to {} begins again, with {queued} digests that are queued",
                        channel.describe()
                    ));
                    lines.extend(account);
                    channels.push(channel);
                    continue;
                }
                lines.push(format!("Forwarding to {} begins", server.describe()));
                let channel = Arc::new(Channel::new(server, &self.settings, timeout));
                // Fails only after the end of the thread.
                let _ = self.commands.send(Command::Serve(Arc::clone(&channel)));
                channels.push(channel);
            }
            leaving.retain(|left| !channels.iter().any(|channel| left.ptr_eq(&Arc::downgrade(channel))));
            for channel in old {
                lines.push(format!("Forwarding to {} ends", channel.describe()));
                channel.phase.send_replace(Phase::Leaving(Instant::now() + LEAVING));
                leaving.push(Arc::downgrade(&channel));
            }
        });
        lines
    }

    /// Sends everything that waits, then waits for replies until this time. Logs what is left, and ends the thread.
    pub(crate) async fn stop(&self, by: Instant) {
        // Distributes what waits for a request to be filled.
        self.intake.replace(|_| ());
        let _ = self.commands.send(Command::Stop(by));
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(ended) = ended else { return };
        // The sender is dropped without a message.
        if tokio::time::timeout_at((by + PATIENCE).into(), ended).await.is_err() {
            warn!("Forwarding: its thread does not end");
        }
        self.report_shortfalls();
    }

    /// Logs what servers have not counted since the last call.
    pub(crate) fn report_shortfalls(&self) {
        let channels = self.intake.channels();
        channels.iter().filter_map(|channel| channel.shortfall()).for_each(|line| warn!("{line}"));
    }

    /// Returns the state of each server, in the order of the servers file.
    pub(crate) fn status(&self) -> Vec<ForwardStatus> {
        let now = Instant::now();
        let pending = self.intake.pending();
        let status = |channel: &Arc<Channel>| {
            let status = channel.status(now);
            ForwardStatus { queued: status.queued + pending, ..status }
        };
        self.intake.channels().iter().map(status).collect()
    }

    /// Returns the counters of each server.
    pub(crate) fn counts(&self) -> BTreeMap<String, ForwardCounts> {
        let channels = self.intake.channels();
        channels.iter().map(|channel| (channel.name.clone(), channel.counts())).collect()
    }
}

impl ForwardSink for Forwarder {
    fn origin(&self) -> ForwardOrigin {
        self.origin
    }

    fn has_sent(&self, number: u64) -> bool {
        self.intake.has_sent(number)
    }

    fn wants(&self, kind: TallyKind) -> bool {
        match kind {
            TallyKind::Report => self.settings.reports,
            TallyKind::Whitelist => self.settings.whitelists,
        }
    }

    fn hand_over(&self, buffer: &mut ForwardBuffer) {
        if !buffer.is_empty() {
            self.intake.take(buffer, Instant::now());
        }
    }
}
