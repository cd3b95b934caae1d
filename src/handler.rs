//! One datagram from start to finish: what is to be answered, and what is wanted of the engine.
//!
//! The order of the checks is part of the protocol, since it decides which of several errors a
//! client is told: user, time, signature, version, operation, digests. This is the only place
//! where a refusal is chosen. Pure computation on bytes, the peer's address and the time.

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

/// Decides on datagrams, keeping its buffers from one to the next.
#[derive(Debug, Default)]
pub struct Handler {
    parser: HeaderParser,
    signed: Vec<u8>,
    digests: Vec<Digest>,
}

/// A request and what is to become of it.
#[derive(Debug)]
pub struct Decision<'a> {
    /// The request.
    pub request: Request<'a>,
    /// What comes next.
    pub step: NextStep<'a>,
}

/// What comes next for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStep<'a> {
    /// It is refused.
    Refuse(Refusal),
    /// It is answered without the engine.
    Answer(Op, Answer),
    /// A record is needed, with its times or without.
    LookUp(Op, Digest),
    /// Something is to be counted for each of these digests, of which there is at least one.
    Count(Op, TallyKind, &'a [Digest]),
}

impl Handler {
    /// Decides on a datagram. None: it gets no reply, since it is empty, comes from a port that
    /// nothing can be sent to, or is itself a reply, to which a reply might go on for ever.
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

/// The operation, if the user may use it now.
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

/// What a look-up is answered with.
///
/// # Errors
///
/// The refusal that stands for what failed.
pub fn looked_up(op: Op, found: Result<Record, StorageError>) -> Result<Answer, Refusal> {
    match (op, found) {
        (Op::Info, Ok(record)) => Ok(Answer::Details(record.times(), record.counts())),
        (_, Ok(record)) => Ok(Answer::Counts(record.counts())),
        (_, Err(error)) => Err(refusal(error)),
    }
}

/// What an increment is answered with.
///
/// # Errors
///
/// The refusal that stands for what failed.
pub fn counted(outcome: Result<(), StorageError>) -> Result<Answer, Refusal> {
    outcome.map(|()| Answer::Done).map_err(refusal)
}

fn refusal(error: StorageError) -> Refusal {
    match error {
        StorageError::Unavailable => Refusal::Unavailable,
        StorageError::Damaged => Refusal::DamagedRecord,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

    fn access() -> Authorizer {
        let folder = tempfile::tempdir().unwrap();
        let sources = crate::access::AccessSources {
            passwd: folder.path().join("passwd"),
            access: folder.path().join("access"),
            order: crate::access::AccessOrder::First,
            order_chosen: false,
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
    fn replies_empty_datagrams_and_port_zero_get_no_reply() {
        assert_eq!(step(""), None);
        assert_eq!(step("Code: 200\nDiag: OK\nPV: 2.1\nThread: 1\n\n"), None);
        let mut handler = Handler::default();
        let peer = "127.0.0.1:0".parse().unwrap();
        assert!(
            handler.decide(b"Op: ping\nPV: 2.1\n", peer, Timestamp::from_seconds(0), &access()).is_none()
        );
    }

    #[test]
    fn the_checks_come_in_the_order_of_the_protocol() {
        assert_eq!(step("User: eve\nOp: nothing\n").unwrap(), "Refuse(UnknownUser)");
        assert_eq!(step("Op: nothing\n").unwrap(), "Refuse(MissingVersion)");
        assert_eq!(step("Op: nothing\nPV: x\n").unwrap(), "Refuse(MalformedVersion)");
        assert_eq!(step("Op: nothing\nPV: 9\n").unwrap(), "Refuse(UnsupportedVersion)");
        assert_eq!(step("PV: 2.1\nOp-Digest: x\n").unwrap(), "Refuse(Forbidden)");
        assert_eq!(of("train", &["x"]), "Refuse(NotImplemented)");
        assert_eq!(of("check", &["x"]), "Refuse(InvalidDigest)");
    }

    #[test]
    fn without_a_digest_every_operation_succeeds_and_does_nothing() {
        for op in Op::ALL {
            assert_eq!(of(op.name(), &[]), format!("Answer({op:?}, Done)"));
        }
    }

    #[test]
    fn check_and_info_look_at_the_first_digest_only() {
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
