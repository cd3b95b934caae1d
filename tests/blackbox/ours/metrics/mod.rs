//! Metrics by HTTP.

mod hostile;
mod pages;
mod scrapes;

use std::net::SocketAddr;

use crate::harness::{Home, Server, eventually};

/// A homedir whose server offers metrics on a free port.
fn home(settings: &str) -> Home {
    Home::open().config(&format!("MetricsAddress = 127.0.0.1:0\n{settings}"))
}

/// Returns the address of the metrics, which the log names.
#[track_caller]
fn metrics_of(server: &Server) -> SocketAddr {
    eventually("the address of the metrics", || {
        let log = server.home().log();
        let (_, rest) = log.rsplit_once("Metrics: http://")?;
        rest.split_once("/metrics")?.0.parse().ok()
    })
}
