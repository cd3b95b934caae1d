//! The log lines about one server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use pyzor_home::loggable::loggable_name;
use tracing::{error, info, warn};

use super::asked::ServerEvent;
use crate::logging::allowance::Allowance;
use crate::remotes::OutageLines;

/// Writes the log lines about one server, of which the frequent ones once a minute.
#[derive(Debug, Default)]
pub(super) struct ServerLines {
    /// One line a minute for each code. Their number is bounded by that of different codes.
    refusals: BTreeMap<u16, Allowance>,
    outages: OutageLines,
    /// The addresses of this server itself that were reported.
    own: Vec<SocketAddr>,
}

impl ServerLines {
    /// Reports an event. `server` is host and port, `user` the account.
    pub(super) fn event(&mut self, event: ServerEvent, server: &str, user: &str, now: Instant) {
        match event {
            ServerEvent::Gone(reason) => self.outages.begin(reason),
            ServerEvent::Back(outage) => {
                if self.outages.end() {
                    info!("Second opinions: {server} is available again after {} s", outage.as_secs());
                }
            }
            ServerEvent::Refused(code) => {
                let allowance = self.refusals.entry(code).or_insert(const { Allowance::per_minute(1) });
                if let Some(withheld) = allowance.take(now) {
                    let more = match withheld {
                        0 => String::new(),
                        number => format!(" (and {number} more since the last such line)"),
                    };
                    let meaning = refusal(code, loggable_name(user));
                    warn!("Second opinions: {server} refused a question: {meaning}{more}");
                }
            }
        }
    }

    /// Reports an outage, unless another one was reported in the last minute: then later, if it lasts.
    pub(super) fn outage(&mut self, server: &str, now: Instant) {
        if let Some(reason) = self.outages.due(now) {
            warn!("Second opinions: {server} is unavailable: {reason}; it is not asked until it replies");
        }
    }

    /// Reports that the server has addresses of this server itself, once.
    pub(super) fn own_addresses(&mut self, own: &[SocketAddr], server: &str) {
        if self.own != own {
            self.own = own.to_vec();
            if let Some(address) = own.first() {
                error!(
                    "Second opinions: {server} has the address {address} of this server itself, which is not asked: \
                     remove it from the servers file"
                );
            }
        }
    }
}

/// Returns what a code means, and what to do.
pub(super) fn refusal(code: u16, user: &str) -> String {
    match code {
        400 => "400, it does not understand the request".to_owned(),
        401 => format!("401, it does not accept the account {user}: check the accounts file and the clocks"),
        403 => format!("403, it does not permit checks to {user}: ask its operator"),
        500 => "500, its database has failed: ask its operator if this goes on".to_owned(),
        505 => "505, it does not support the version of the protocol".to_owned(),
        0 => "the reply has no known code or no counts: it may not be a Pyzor server".to_owned(),
        code => code.to_string(),
    }
}
