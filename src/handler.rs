//! Decides on one datagram: refuse it, answer it, or pass an operation to the engine.
//!
//! The order of the checks is part of the protocol, because it determines which of several errors is reported to the
//! client: user, time, signature, version, operation, digests. Refusals are chosen here and nowhere else. A pure
//! function of the datagram, the peer's address, the time and the access rules.

use std::net::SocketAddr;

use crate::access::Authorizer;
use crate::record::{Record, TallyKind, Timestamp};
use crate::storage::StorageError;
use pyzor_wire::digest::Digest;
use pyzor_wire::headers::HeaderParser;
use pyzor_wire::number::{VersionError, check_version};
use pyzor_wire::op::Op;
use pyzor_wire::reply::{Answer, Refusal};
use pyzor_wire::request::Request;

/// Decides on datagrams. Keeps its buffers between calls.
#[derive(Debug, Default)]
pub struct Handler {
    parser: HeaderParser,
    signed: Vec<u8>,
    digests: Vec<Digest>,
}

/// A parsed request and the next step for it.
#[derive(Debug)]
pub struct Decision<'a> {
    /// The request.
    pub request: Request<'a>,
    /// The next step.
    pub step: NextStep<'a>,
}

/// The next step for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStep<'a> {
    /// Refuse the request.
    Refuse(Refusal),
    /// Answer the request without the engine.
    Answer(Op, Answer),
    /// Look up a record: counts only for check, times too for info.
    LookUp(Op, Digest),
    /// Count a report or a whitelisting for each digest. There is at least one.
    Count(Op, TallyKind, &'a [Digest]),
}

impl Handler {
    /// Decides on a datagram. Returns none if it must not be answered: it is empty, comes from port 0, or is itself a
    /// reply, because two servers that answer replies would never stop.
    pub fn decide<'a>(
        &'a mut self,
        datagram: &'a [u8],
        peer: SocketAddr,
        now: Timestamp,
        access: &Authorizer,
    ) -> Option<Decision<'a>> {
        if datagram.is_empty() || peer.port() == 0 {
            return None;
        }
        let request = Request::new(self.parser.parse(datagram));
        if request.is_reply {
            return None;
        }
        let step = match permit(&request, now, access, &mut self.signed) {
            Ok(op) => plan(op, &request, &mut self.digests),
            Err(refusal) => NextStep::Refuse(refusal),
        };
        Some(Decision { request, step })
    }
}

/// Returns the operation if the user may perform it.
fn permit(
    request: &Request<'_>,
    now: Timestamp,
    access: &Authorizer,
    signed: &mut Vec<u8>,
) -> Result<Op, Refusal> {
    let rights = access.authenticate(request, now, signed)?;
    let version = request.version.ok_or(Refusal::MissingVersion)?;
    check_version(version).map_err(|error| match error {
        VersionError::Malformed => Refusal::MalformedVersion,
        VersionError::Unsupported => Refusal::UnsupportedVersion,
    })?;
    rights.operation(request.op)
}

fn plan<'a>(op: Op, request: &Request<'_>, digests: &'a mut Vec<Digest>) -> NextStep<'a> {
    let mut sent = request.digests();
    let Some(first) = sent.next() else {
        return NextStep::Answer(op, Answer::Done);
    };
    let kind = match op {
        Op::Ping => return NextStep::Answer(op, Answer::Done),
        Op::Pong => return NextStep::Answer(op, Answer::PONG),
        Op::Check | Op::Info => {
            return match Digest::from_hex(first) {
                Some(digest) => NextStep::LookUp(op, digest),
                None => NextStep::Refuse(Refusal::InvalidDigest),
            };
        }
        Op::Report => TallyKind::Report,
        Op::Whitelist => TallyKind::Whitelist,
    };
    digests.clear();
    for text in std::iter::once(first).chain(sent) {
        match Digest::from_hex(text) {
            Some(digest) => digests.push(digest),
            None => return NextStep::Refuse(Refusal::InvalidDigest),
        }
    }
    NextStep::Count(op, kind, digests)
}

/// Returns the answer to a check or an info request.
///
/// # Errors
///
/// The refusal that reports the storage error.
pub fn looked_up(op: Op, found: Result<Record, StorageError>) -> Result<Answer, Refusal> {
    match (op, found) {
        (Op::Info, Ok(record)) => Ok(Answer::Details(record.times(), record.counts())),
        (_, Ok(record)) => Ok(Answer::Counts(record.counts())),
        (_, Err(error)) => Err(refusal(error)),
    }
}

/// Returns the answer to a report or a whitelist request.
///
/// # Errors
///
/// The refusal that reports the storage error.
pub fn counted(outcome: Result<(), StorageError>) -> Result<Answer, Refusal> {
    outcome.map(|()| Answer::Done).map_err(refusal)
}

fn refusal(error: StorageError) -> Refusal {
    match error {
        StorageError::Unavailable | StorageError::InDoubt => Refusal::Unavailable,
        StorageError::Damaged => Refusal::DamagedRecord,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

    fn access() -> Authorizer {
        let directory = tempfile::tempdir().unwrap();
        let sources = crate::access::AccessSources {
            passwd: directory.path().join("passwd"),
            access: directory.path().join("access"),
            order: crate::access::AccessOrder::First,
            order_chosen: false,
            forward_from: Vec::new(),
        };
        std::fs::write(&sources.access, "all train : anonymous : allow\n").unwrap();
        crate::access::load(&sources, crate::access::PresentFiles::default()).unwrap().authorizer
    }

    fn step(datagram: &str) -> Option<String> {
        let peer = "127.0.0.1:1234".parse().unwrap();
        let mut handler = Handler::default();
        let decision = handler.decide(datagram.as_bytes(), peer, Timestamp::from_seconds(0), &access());
        decision.map(|decision| format!("{:?}", decision.step))
    }

    fn of(op: &str, digests: &[&str]) -> String {
        let digests: String = digests.iter().map(|digest| format!("Op-Digest: {digest}\n")).collect();
        step(&format!("Op: {op}\n{digests}Thread: 3000\nPV: 2.1\n\n")).unwrap()
    }

    #[test]
    fn replies_empty_datagrams_and_port_zero_are_ignored() {
        assert_eq!(step(""), None);
        assert_eq!(step("Code: 200\nDiag: OK\nPV: 2.1\nThread: 1\n\n"), None);
        let mut handler = Handler::default();
        let peer = "127.0.0.1:0".parse().unwrap();
        assert!(
            handler.decide(b"Op: ping\nPV: 2.1\n", peer, Timestamp::from_seconds(0), &access()).is_none()
        );
    }

    #[test]
    fn checks_are_made_in_the_order_of_the_protocol() {
        assert_eq!(step("User: eve\nOp: nothing\n").unwrap(), "Refuse(UnknownUser)");
        assert_eq!(step("Op: nothing\n").unwrap(), "Refuse(MissingVersion)");
        assert_eq!(step("Op: nothing\nPV: x\n").unwrap(), "Refuse(MalformedVersion)");
        assert_eq!(step("Op: nothing\nPV: 9\n").unwrap(), "Refuse(UnsupportedVersion)");
        assert_eq!(step("PV: 2.1\nOp-Digest: x\n").unwrap(), "Refuse(Forbidden)");
        assert_eq!(of("train", &["x"]), "Refuse(NotImplemented)");
        assert_eq!(of("check", &["x"]), "Refuse(InvalidDigest)");
    }

    #[test]
    fn operation_without_a_digest_succeeds_and_does_nothing() {
        for op in Op::ALL {
            assert_eq!(of(op.name(), &[]), format!("Answer({op:?}, Done)"));
        }
    }

    #[test]
    fn check_and_info_use_the_first_digest_only() {
        assert_eq!(of("check", &[DIGEST, "x"]), format!("LookUp(Check, {DIGEST})"));
        assert_eq!(of("info", &[&DIGEST.to_uppercase()]), format!("LookUp(Info, {DIGEST})"));
        assert_eq!(of("pong", &["x"]), format!("Answer(Pong, {:?})", Answer::PONG));
        assert_eq!(of("ping", &["x"]), "Answer(Ping, Done)");
    }

    #[test]
    fn report_and_whitelist_take_all_digests_or_none() {
        assert_eq!(of("report", &[DIGEST, DIGEST]), format!("Count(Report, Report, [{DIGEST}, {DIGEST}])"));
        assert_eq!(of("whitelist", &[DIGEST]), format!("Count(Whitelist, Whitelist, [{DIGEST}])"));
        assert_eq!(of("report", &[DIGEST, "x", DIGEST]), "Refuse(InvalidDigest)");
        assert_eq!(of("report", &[""]), "Refuse(InvalidDigest)");
    }
}
