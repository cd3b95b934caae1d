//! `health`: whether a server answers over UDP, and its database with it.

use std::net::SocketAddr;
use std::time::Duration;

use pyzor_wire::op::Op;
use pyzor_wire::reply_reader::Code;
use serde::Serialize;

use super::error::NoAnswer;
use super::exit_code;
use super::host_port::HostPort;
use super::output::{self, Outcome};
use super::probe::{Probe, ProbeFailure, ProbeReply, TRIES};
use crate::control::figures::micros;
use crate::control::reply::Health;

/// The result of the test.
#[derive(Debug, Serialize)]
pub(super) struct HealthReport {
    /// Well or critical.
    health: Health,
    /// The server as named.
    server: String,
    /// The result in words.
    text: String,
    /// The time that the reply to the ping took; none without a reply.
    ping_micros: Option<u128>,
    /// The time that the reply to the check took; none without a reply.
    check_micros: Option<u128>,
}

impl HealthReport {
    /// The output and the exit code.
    pub(super) fn outcome(&self, json: bool) -> Outcome {
        let text = match (json, serde_json::to_value(self)) {
            (true, Ok(value)) => output::json_line(&value),
            _ => format!("{}: {}\n", self.health.name(), self.text),
        };
        Outcome { text, code: exit_code(self.health) }
    }
}

/// Pings a server, and then lets it look up a digest, so that an unavailable database is found.
///
/// # Errors
///
/// The name of the server has no address.
pub(super) fn run(server: &HostPort, timeout: Duration) -> Result<HealthReport, NoAnswer> {
    let addresses =
        server.resolve().map_err(|error| NoAnswer::Unresolved { server: server.clone(), error })?;
    let mut report = HealthReport {
        health: Health::Critical,
        server: server.to_string(),
        text: String::new(),
        ping_micros: None,
        check_micros: None,
    };
    let mut failures = Vec::new();
    for address in addresses {
        match pinged(address, timeout) {
            Ok((probe, ping)) => {
                report.ping_micros = Some(ping.took.as_micros());
                let result = test(&probe, ping, timeout);
                report.check_micros = result.check.map(|check| check.took.as_micros());
                (report.health, report.text) = (result.health, format!("{address} {}", result.text));
                return Ok(report);
            }
            Err(failure) => failures.push(format!("{address}: {}", explain(&failure, timeout))),
        }
    }
    report.text = failures.join("; ");
    Ok(report)
}

fn pinged(address: SocketAddr, timeout: Duration) -> Result<(Probe, ProbeReply), ProbeFailure> {
    let probe = Probe::open(address, timeout).map_err(ProbeFailure::System)?;
    let ping = probe.ask(Op::Ping)?;
    Ok((probe, ping))
}

/// The result of the test of a server that answers pings.
struct TestResult {
    health: Health,
    check: Option<ProbeReply>,
    text: String,
}

fn test(probe: &Probe, ping: ProbeReply, timeout: Duration) -> TestResult {
    let critical = |check, text: String| TestResult { health: Health::Critical, check, text };
    match ping.code {
        Code::Echo => return critical(None, "sends requests back: it is not a Pyzor server".to_owned()),
        Code::Number(200 | 403) | Code::WithoutCount => {}
        Code::Number(code) => return critical(None, format!("answers a ping with code {code}")),
    }
    let check = match probe.ask(Op::Check) {
        Ok(check) => check,
        Err(failure) => {
            let why = explain(&failure, timeout);
            let text = format!("answers a ping, but not a check, which needs the database: {why}");
            return critical(None, text);
        }
    };
    let [ping_time, check_time] = [ping, check].map(|reply| took(reply.took));
    let (health, text) = match check.code {
        Code::Number(200) => {
            (Health::Well, format!("answers a ping in {ping_time} and a check in {check_time}"))
        }
        Code::Number(403) => (
            Health::Well,
            "answers, but a check is forbidden to the anonymous user: the database was not tested".to_owned(),
        ),
        Code::Number(500) => {
            (Health::Critical, "answers, but its database is unavailable (code 500)".to_owned())
        }
        Code::Number(code) => (Health::Critical, format!("answers a check with code {code}")),
        Code::Echo => (Health::Critical, "sends requests back: it is not a Pyzor server".to_owned()),
        Code::WithoutCount => (Health::Critical, "answers a check without counts".to_owned()),
    };
    TestResult { health, check: Some(check), text }
}

fn took(duration: Duration) -> String {
    micros(duration.as_micros().try_into().unwrap_or(u64::MAX))
}

fn explain(failure: &ProbeFailure, timeout: Duration) -> String {
    match failure {
        ProbeFailure::Silent => format!("no reply to {TRIES} requests, each within {}", took(timeout)),
        ProbeFailure::PortClosed => "no server listens on this port".to_owned(),
        ProbeFailure::System(error) => error.to_string(),
    }
}
