//! The tasks that answer operators and log for them, beside the server loop.

use std::io;
use std::os::unix::net;
use std::sync::{Arc, OnceLock};

use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::forwarding::log_shortfalls;
use super::operation::Operation;
use super::operator_sockets::{OperatorListeners, remove_file};
use crate::control;
use crate::control::reply::ControlReply;
use crate::control::request::ControlRequest;
use crate::control::serve::Operated;
use crate::metrics;
use crate::os::local_socket::{LocalSocket, SocketFile};
use crate::os::stream_listener::StreamListener;
use crate::storage::BoxFuture;

/// The tasks that answer operators and log for them.
pub(super) struct Operators {
    tasks: JoinSet<()>,
    /// The file of the control socket.
    file: Option<SocketFile>,
    metrics: Option<StreamListener>,
    server: Arc<StartedServer>,
}

/// The server, once it serves.
#[derive(Default)]
struct StartedServer(OnceLock<Arc<Operation>>);

impl Operators {
    /// Starts to answer on the control socket. The metrics follow when the server serves.
    ///
    /// # Errors
    ///
    /// The socket cannot be registered with the runtime.
    pub(super) fn start(listeners: OperatorListeners) -> io::Result<Self> {
        let OperatorListeners { control, metrics, .. } = listeners;
        let mut operators = Self { tasks: JoinSet::new(), file: None, metrics, server: Arc::default() };
        if let Some(LocalSocket { file, listener }) = control {
            operators.serve_control(listener)?;
            operators.file = Some(file);
        }
        Ok(operators)
    }

    fn serve_control(&mut self, listener: net::UnixListener) -> io::Result<()> {
        let server: Arc<dyn Operated> = Arc::clone(&self.server) as _;
        self.tasks.spawn(control::serve::serve(UnixListener::from_std(listener)?, server));
        Ok(())
    }

    /// Answers for this server from now on.
    pub(super) fn serving(&mut self, operation: &Arc<Operation>) {
        // Called once: later calls would change nothing.
        let _ = self.server.0.set(Arc::clone(operation));
        if let Some(forwarder) = &operation.forwarder {
            self.tasks.spawn(log_shortfalls(Arc::clone(forwarder)));
        }
        if let Some(listener) = self.metrics.take() {
            self.tasks.spawn(metrics::serve(listener, Arc::clone(operation) as _));
        }
    }

    /// Ends all tasks, and removes the files of the sockets before the sockets are closed.
    pub(super) async fn end(mut self) {
        self.file.take().into_iter().for_each(remove_file);
        self.tasks.shutdown().await;
    }
}

impl Operated for StartedServer {
    fn answer(&self, request: ControlRequest) -> BoxFuture<'_, ControlReply> {
        match self.0.get() {
            Some(operation) => operation.answer(request),
            None => {
                let text = "the server is starting and does not serve yet: see its log".to_owned();
                Box::pin(std::future::ready(ControlReply::Unavailable(text)))
            }
        }
    }
}
