//! Fuzz target for forwarded requests: admission, counting and what is handed over are compared with a slow model.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::super::admission::{AdmissionControl, RequestAdmission, RequestMarks};
use super::super::forwarding::Forwarding;
use super::super::work::EngineWork;
use super::NOW;
use crate::forward::{DIGESTS_PER_REQUEST, ForwardBuffer, ForwardFrom, ForwardSink, ForwardUnit};
use crate::fuzz_models::FuzzInput;
use crate::handler::{Decision, NextStep};
use crate::limits::AdmittedSource;
use crate::record::TallyKind;
use crate::stats::ServerStats;
use crate::storage::memory::MemoryEngine;
use crate::storage::{Batch, BatchProgress, Engine, StorageError};
use pyzor_udp::ReplyTo;
use pyzor_wire::digest::Digest;
use pyzor_wire::forward_id::{ForwardId, ForwardOrigin, MAX_HOPS};
use pyzor_wire::headers::HeaderParser;
use pyzor_wire::op::Op;
use pyzor_wire::reply::Refusal;
use pyzor_wire::request::Request;

/// The most requests of a run.
const MOST: usize = 40;
/// The origin of the server.
const OWN: u64 = 1;
/// The number of the digest that the engine does not count.
const BROKEN: u8 = 0;
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Keeps what is handed over.
#[derive(Default)]
struct KeepingSink(Mutex<ForwardBuffer>);

impl ForwardSink for KeepingSink {
    fn origin(&self) -> ForwardOrigin {
        ForwardOrigin::from_number(OWN)
    }

    fn wants(&self, _kind: TallyKind) -> bool {
        true
    }

    fn hand_over(&self, buffer: &mut ForwardBuffer) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.reports.append(&mut buffer.reports);
        kept.whitelists.append(&mut buffer.whitelists);
        kept.units.append(&mut buffer.units);
    }
}

/// A request, and its id as the header has it.
struct Sent {
    op: Op,
    kind: TallyKind,
    digests: Vec<Digest>,
    id: Option<ForwardId>,
    has_form: bool,
    text: Vec<u8>,
}

impl Sent {
    fn new(input: &mut FuzzInput<'_>) -> Self {
        let (op, kind) =
            input.pick(&[(Op::Report, TallyKind::Report), (Op::Whitelist, TallyKind::Whitelist)]);
        let number = input.pick(&[1, 1, 2, 3, DIGESTS_PER_REQUEST, DIGESTS_PER_REQUEST + 1]);
        let digests: Vec<Digest> = (0..number).map(|_| Digest::from_bytes([input.byte() % 4; 20])).collect();
        let header = match input.byte() % 8 {
            0 => None,
            1 => Some(input.take(30).to_vec()),
            _ => {
                let origin = ForwardOrigin::from_number(input.pick(&[OWN, 2, 2, 2, 3]));
                let hops = input.pick(&[1, 2, MAX_HOPS - 1, MAX_HOPS, 255]);
                let id = ForwardId { origin, number: u64::from(input.byte() % 2), hops };
                Some(id.to_string().into_bytes())
            }
        };
        // A line end would end the header.
        let header = header.filter(|text| text.iter().all(u8::is_ascii_graphic));
        let has_form = input.flip();
        let spec = if has_form { "Op-Spec: 20,3,60,3\n" } else { "" };
        let mut text = format!("Op: {op}\n{spec}").into_bytes();
        digests.iter().for_each(|digest| text.extend(format!("Op-Digest: {digest}\n").into_bytes()));
        if let Some(header) = &header {
            text.extend([b"Forward-Id: ", &header[..], b"\n"].concat());
        }
        Self { op, kind, digests, id: header.and_then(|text| ForwardId::parse(&text)), has_form, text }
    }

    fn key(&self, id: ForwardId) -> ModelKey {
        (id.origin, id.number, self.kind == TallyKind::Report, self.digests.clone())
    }

    fn accepted(&self) -> Vec<Digest> {
        self.digests.iter().copied().filter(|digest| digest.as_bytes()[0] != BROKEN).collect()
    }

    /// Adds what must be handed over of this new request.
    fn expect(&self, buffer: &mut ForwardBuffer) {
        let accepted = self.accepted();
        match self.id {
            _ if accepted.is_empty() => {}
            Some(id) if id.hops >= MAX_HOPS => {}
            Some(id) if self.digests.len() <= DIGESTS_PER_REQUEST => {
                let id = ForwardId { hops: id.hops + 1, ..id };
                buffer.units.push(ForwardUnit { id, kind: self.kind, digests: accepted });
            }
            None if self.has_form => {}
            _ if self.kind == TallyKind::Report => buffer.reports.extend(accepted),
            _ => buffer.whitelists.extend(accepted),
        }
    }
}

/// An id without its hops, the operation and the digests.
type ModelKey = (ForwardOrigin, u64, bool, Vec<Digest>);

/// What the model knows of a request with an id.
enum Known {
    InFlight { copies: usize },
    Counted(Result<(), Refusal>),
}

/// Sends requests in batches.
pub(crate) fn target(bytes: &[u8]) {
    let mut input = FuzzInput::new(bytes);
    let sink = Arc::new(KeepingSink::default());
    let shared: Arc<dyn ForwardSink> = Arc::clone(&sink) as _;
    let forwarding = Forwarding::new(Some(shared), Some(sink.origin()), ForwardFrom::default());
    let mut admission =
        AdmissionControl { gate: None, replays: None, forwarding, marks: RequestMarks::default() };
    let broken = BTreeMap::from([(Digest::from_bytes([BROKEN; 20]), StorageError::Damaged)]);
    let engine = MemoryEngine::new(BTreeMap::new(), i64::MAX, broken);
    let mut known = HashMap::new();
    let mut expected = ForwardBuffer::default();
    let mut counts = BTreeMap::<Digest, i64>::new();
    let mut number = 0;
    while number < MOST && !input.is_empty() {
        let mut work = EngineWork::default();
        let mut batch = Vec::new();
        for _ in 0..=input.byte() % 8 {
            number += 1;
            let sent = Sent::new(&mut input);
            if admit(&mut admission, &mut work, &mut known, &sent) {
                batch.push(sent);
            }
        }
        complete(&mut admission, &mut work, &engine, &mut known, &batch);
        for sent in &batch {
            sent.expect(&mut expected);
            sent.accepted().into_iter().for_each(|digest| *counts.entry(digest).or_default() += 1);
        }
    }
    let kept = sink.0.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!((&kept.reports, &kept.whitelists), (&expected.reports, &expected.whitelists));
    assert_eq!(kept.units, expected.units);
    let records = engine.records();
    let counted =
        records.iter().map(|(digest, record)| (*digest, record.reports.count + record.whitelists.count));
    assert_eq!(counted.collect::<BTreeMap<_, _>>(), counts);
}

/// Lets a request in, and returns whether it is new to the model, too.
fn admit(
    admission: &mut AdmissionControl,
    work: &mut EngineWork,
    known: &mut HashMap<ModelKey, Known>,
    sent: &Sent,
) -> bool {
    let mut parser = HeaderParser::default();
    let request = Request::new(parser.parse(&sent.text));
    let reply_to = ReplyTo { peer: (ADDRESS, 1).into(), source: None };
    let decision = Decision { request, step: NextStep::Count(sent.op, sent.kind, &sent.digests) };
    let source = AdmittedSource::unlimited(ADDRESS);
    let got = admission.admit_request(source, &decision, reply_to, &ServerStats::default());
    let shown = sent.text.escape_ascii();
    let status = sent.id.and_then(|id| known.get_mut(&sent.key(id)));
    match (got, status) {
        (RequestAdmission::AlreadyCounted(op, outcome), status) => {
            let is_own = sent.id.is_some_and(|id| id.origin == ForwardOrigin::from_number(OWN));
            let expected = match status {
                _ if is_own => Ok(()),
                Some(Known::Counted(outcome)) => *outcome,
                _ => panic!("{shown} has not been counted"),
            };
            assert_eq!((op, outcome), (sent.op, expected), "{shown}");
            false
        }
        (RequestAdmission::Dropped, Some(Known::InFlight { copies })) => {
            *copies += 1;
            false
        }
        (RequestAdmission::Admitted, None) => {
            work.count(reply_to, &decision.request, sent.op, sent.kind, &sent.digests, false);
            work.mark(admission.marks);
            if let Some(id) = sent.id {
                assert_ne!(id.origin, ForwardOrigin::from_number(OWN), "{shown}");
                known.insert(sent.key(id), Known::InFlight { copies: 0 });
            }
            true
        }
        (got, _) => panic!("{got:?}: {shown}"),
    }
}

/// Lets the engine complete the new requests.
fn complete(
    admission: &mut AdmissionControl,
    work: &mut EngineWork,
    engine: &MemoryEngine,
    known: &mut HashMap<ModelKey, Known>,
    sent: &[Sent],
) {
    let mut batch = Batch::default();
    batch.restart(NOW, Instant::now());
    work.plan(&mut batch);
    let BatchProgress::Done(batch) = engine.run(batch) else { panic!("the engine in memory is synchronous") };
    for (done, sent) in work.outcomes(&batch, engine.count_limit()).zip(sent) {
        let copies = admission.forwarding.finish(&done, &batch);
        let Some(id) = sent.id else {
            assert!(copies.is_empty());
            continue;
        };
        let key = sent.key(id);
        assert!(
            matches!(known.remove(&key), Some(Known::InFlight { copies: waiting }) if waiting == copies.len())
        );
        if !sent.accepted().is_empty() {
            known.insert(key, Known::Counted(done.outcome.map(|_| ())));
        }
    }
    admission.forwarding.hand_over();
}
