//! Fuzz targets for the whole path of requests without a socket: replies and changed records are compared with a slow
//! model.

mod forwarded;
mod verdict;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Instant;

pub(crate) use self::forwarded::target as forwarded;
use self::verdict::{ModelVerdict, model_verdict, signature};
use super::finished::{LookedUpDigest, UsageFields};
use super::work::EngineWork;
use crate::access::Authorizer;
use crate::access::fuzzing::{ACCOUNTS, authorizers};
use crate::fuzz_models::{FuzzInput, ModelMessage, any_record, check_reply};
use crate::handler::{Handler, NextStep};
use crate::record::{Record, TallyKind, Timestamp};
use crate::storage::memory::MemoryEngine;
use crate::storage::{Batch, BatchProgress, Engine, StorageError};
use pyzor_udp::ReplyTo;
use pyzor_wire::digest::Digest;
use pyzor_wire::op::Op;
use pyzor_wire::reply::{Answer, RecordCounts, RecordTimes, Refusal, encode};

/// The default time of a run. The corpus contains requests signed for it.
const NOW: Timestamp = Timestamp::from_micros(1_795_343_270_500_000);
/// The most datagrams in one batch.
const MOST: usize = 12;
/// The separator of datagrams in an input.
const SEPARATOR: &[u8] = b"\0\0";

/// A datagram and its sender.
type Sent = (Vec<u8>, SocketAddr);
/// The reply and its outcome; none for a datagram that is ignored.
type Reply = Option<(Vec<u8>, Result<Answer, Refusal>)>;

/// Sends arbitrary datagrams as one batch, with an arbitrary time and rights.
pub(crate) fn handler(bytes: &[u8]) {
    let mut input = FuzzInput::new(bytes);
    let world = World::new(&mut input);
    let mut datagrams = Vec::new();
    let mut rest = input.rest();
    while datagrams.len() < MOST && !rest.is_empty() {
        let end = rest.windows(SEPARATOR.len()).position(|part| part == SEPARATOR);
        let datagram = rest[..end.unwrap_or(rest.len())].to_vec();
        rest = end.map_or(&[], |end| &rest[end + SEPARATOR.len()..]);
        // Port 0 means that nothing can be sent back.
        let port = if datagram.starts_with(b"\0") { 0 } else { 24441 };
        datagrams.push((datagram, SocketAddr::from(([127, 0, 0, 1], port))));
    }
    world.check(&datagrams);
}

/// Sends requests with valid signatures, some of which are corrupted after signing.
pub(crate) fn signed(bytes: &[u8]) {
    let mut input = FuzzInput::new(bytes);
    let world = World::new(&mut input);
    let mut datagrams = Vec::new();
    while datagrams.len() < MOST && !input.is_empty() {
        datagrams.push((sign(&mut input, world.now), SocketAddr::from(([127, 0, 0, 1], 24441))));
    }
    world.check(&datagrams);
}

/// Returns a signed request, perhaps corrupted.
fn sign(input: &mut FuzzInput<'_>, now: Timestamp) -> Vec<u8> {
    let (user, key) = input.pick(&ACCOUNTS);
    let skew = [0, 0, 0, 299, -299, 300, -300, 301, -301, 100_000][usize::from(input.byte()) % 10];
    let time = now.seconds().saturating_add(skew);
    let mut datagram = format!("User: {user}\nTime: {time}\nPV: 2.1\n").into_bytes();
    // Some access files grant operations that do not exist.
    let op = input.pick(&["ping", "pong", "check", "info", "report", "whitelist", "train", "Check"]);
    datagram.extend_from_slice(format!("Op: {op}\n").as_bytes());
    for _digest in 0..input.byte() % 4 {
        let digest = Digest::from_bytes([input.byte() % 4; 20]);
        datagram.extend_from_slice(format!("Op-Digest: {digest}\n").as_bytes());
    }
    let changes = input.byte();
    // The signature covers these arbitrary bytes, too.
    datagram.extend_from_slice(input.until(0));
    let signed = ModelMessage::parse(&datagram).signed;
    let line = [b"Sig: ".as_slice(), &signature(user, key, &signed, time), b"\n"].concat();
    // The signature goes first, where it cannot become part of another header or of the body.
    datagram.splice(0..0, line);
    if changes >= 200 {
        let at = usize::from(input.byte()) % datagram.len();
        datagram[at] = input.byte();
    }
    datagram
}

/// The accounts, rights, time and records of a run.
struct World {
    access: &'static Authorizer,
    /// The index of the source files in [`crate::access::fuzzing::FILES`], for the model.
    rights: usize,
    now: Timestamp,
    records: BTreeMap<Digest, Record>,
    limit: i64,
    broken: BTreeMap<Digest, StorageError>,
}

impl World {
    fn new(input: &mut FuzzInput<'_>) -> Self {
        static AUTHORIZERS: OnceLock<Vec<Authorizer>> = OnceLock::new();
        let all = AUTHORIZERS.get_or_init(authorizers);
        let rights = usize::from(input.byte()) % all.len();
        let now = match input.byte() {
            0..=199 => NOW,
            200..=209 => Timestamp::from_micros(i64::MAX),
            210..=219 => Timestamp::from_micros(i64::MIN),
            220..=239 => Timestamp::from_micros(input.number()),
            _ => Timestamp::from_micros(NOW.micros() + i64::from(input.byte()) - 128),
        };
        let kind = input.byte();
        let limit = if kind & 1 > 0 { i64::from(i32::MAX) } else { i64::MAX };
        let mut records = BTreeMap::new();
        if kind & 2 > 0 {
            records.insert(Digest::from_bytes([1; 20]), any_record(input));
        }
        let mut broken = BTreeMap::new();
        if kind & 4 > 0 {
            broken.insert(Digest::from_bytes([2; 20]), StorageError::Damaged);
        }
        if kind & 8 > 0 {
            broken.insert(Digest::from_bytes([3; 20]), StorageError::Unavailable);
        }
        Self { access: &all[rights], rights, now, records, limit, broken }
    }

    /// Compares replies and records with the model, which handles the requests one by one.
    fn check(&self, datagrams: &[Sent]) {
        let engine = MemoryEngine::new(self.records.clone(), self.limit, self.broken.clone());
        let replies = self.exchange(datagrams, &engine);
        let mut records = self.records.clone();
        for ((datagram, peer), reply) in datagrams.iter().zip(&replies) {
            let shown = || datagram.escape_ascii().to_string();
            let message = ModelMessage::parse(datagram);
            let verdict = model_verdict(datagram, &message, *peer, self.now, self.rights);
            let Some(verdict) = verdict else {
                assert!(reply.is_none(), "a reply to {}", shown());
                continue;
            };
            let Some((reply, outcome)) = reply else { panic!("no reply to {}", shown()) };
            check_reply(reply, message.first("thread").unwrap_or_default(), *outcome);
            let expected = self.apply(&verdict, &mut records);
            assert_eq!(*outcome, expected, "{}", shown());
        }
        assert_eq!(engine.records(), records, "stored records");
    }

    /// Applies a single request to the records and returns its outcome.
    fn apply(
        &self,
        verdict: &ModelVerdict,
        records: &mut BTreeMap<Digest, Record>,
    ) -> Result<Answer, Refusal> {
        let (op, digests) = match verdict {
            ModelVerdict::Refused(refusal) => return Err(*refusal),
            ModelVerdict::Granted(op, digests) => (*op, digests),
        };
        let failure = |digest: &Digest| {
            self.broken.get(digest).map(|error| match error {
                StorageError::Damaged => Refusal::DamagedRecord,
                StorageError::Unavailable | StorageError::InDoubt => Refusal::Unavailable,
            })
        };
        let kind = match op {
            _ if digests.is_empty() => return Ok(Answer::Done),
            Op::Ping => return Ok(Answer::Done),
            Op::Pong => return Ok(Answer::PONG),
            Op::Check | Op::Info => {
                let found = records.get(&digests[0]).copied().unwrap_or_default();
                return match failure(&digests[0]) {
                    Some(refusal) => Err(refusal),
                    None if op == Op::Check => Ok(Answer::Counts(reported(&found).1)),
                    None => {
                        let (times, counts) = reported(&found);
                        Ok(Answer::Details(times, counts))
                    }
                };
            }
            Op::Report => TallyKind::Report,
            Op::Whitelist => TallyKind::Whitelist,
        };
        for digest in digests.iter().filter(|digest| failure(digest).is_none()) {
            let tally = records.entry(*digest).or_default().tally_mut(kind);
            if tally.count < self.limit {
                tally.count += 1;
            }
            tally.first = tally.first.or(Some(self.now));
            tally.last = Some(self.now);
        }
        digests.iter().find_map(failure).map_or(Ok(Answer::Done), Err)
    }

    /// Handles all datagrams as one batch, like [`super::Server`].
    fn exchange(&self, datagrams: &[Sent], engine: &MemoryEngine) -> Vec<Reply> {
        let mut handler = Handler::default();
        let mut work = EngineWork::default();
        let mut places = Vec::new();
        let mut replies: Vec<Reply> = Vec::new();
        for (datagram, peer) in datagrams {
            replies.push(None);
            let Some(decision) = handler.decide(datagram, *peer, self.now, self.access) else { continue };
            let reply_to = ReplyTo { peer: *peer, source: None };
            let request = &decision.request;
            let outcome = match decision.step {
                NextStep::Refuse(refusal) => Err(refusal),
                NextStep::Answer(_, answer) => Ok(answer),
                NextStep::LookUp(op, digest) => {
                    let digest = LookedUpDigest { digest, is_local_only: false };
                    work.look_up(reply_to, request, op, digest, true);
                    places.push(replies.len() - 1);
                    continue;
                }
                NextStep::Count(op, kind, digests) => {
                    assert!(!digests.is_empty());
                    work.count(reply_to, request, op, kind, digests, true);
                    places.push(replies.len() - 1);
                    continue;
                }
            };
            if let Some(last) = replies.last_mut() {
                *last = Some((encoded(request.thread, outcome), outcome));
            }
        }
        assert_eq!(work.len(), places.len());
        let mut batch = Batch::default();
        batch.restart(self.now, Instant::now());
        work.plan(&mut batch);
        let BatchProgress::Done(batch) = engine.run(batch) else {
            panic!("the engine in memory is synchronous")
        };
        for (done, place) in work.outcomes(&batch, engine.count_limit()).zip(places) {
            let (datagram, peer) = &datagrams[place];
            assert_eq!(done.reply_to.peer, *peer);
            check_usage(done.usage.as_ref(), &ModelMessage::parse(datagram));
            replies[place] = Some((encoded(done.thread, done.outcome), done.outcome));
        }
        replies
    }
}

/// Checks that the usage log gets the user and the digests as sent, each on one line.
fn check_usage(usage: Option<&UsageFields<'_>>, message: &ModelMessage) {
    let Some(usage) = usage else { panic!("no fields for the usage log") };
    assert_eq!(usage.user, message.first("user").unwrap_or_default());
    let on_one_line =
        |digest: &[u8]| digest.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }).collect();
    let sent: Vec<Vec<u8>> = message.all("op-digest").map(on_one_line).collect();
    assert_eq!(usage.digests().collect::<Vec<_>>(), sent);
}

fn encoded(thread: &[u8], outcome: Result<Answer, Refusal>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, thread, outcome);
    out
}

/// Returns the times and counts of a record for a reply, independently of the code of the server.
fn reported(record: &Record) -> (RecordTimes, RecordCounts) {
    let seconds = |time: Option<Timestamp>| {
        // Rounded down.
        let micros = time.map_or(0, |time| i128::from(time.micros()));
        ((micros - (micros % 1_000_000 + 1_000_000) % 1_000_000) / 1_000_000) as i64
    };
    let times = RecordTimes {
        entered: seconds(record.reports.first),
        updated: seconds(record.reports.last),
        wl_entered: seconds(record.whitelists.first),
        wl_updated: seconds(record.whitelists.last),
    };
    (times, RecordCounts { reports: record.reports.count, whitelists: record.whitelists.count })
}
