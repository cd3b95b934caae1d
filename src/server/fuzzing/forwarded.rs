//! Fuzz target for forwarded requests: admission, counting and what is handed over are compared with a slow model.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::super::admission::{AdmissionControl, RequestAdmission, RequestMarks};
use super::super::forwarding::{Forwarding, OwnOrigin};
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
/// The number of the only request that the server has sent.
const SENT: u64 = 0;
/// The number of the digest that the engine does not count.
const BROKEN: u8 = 0;
/// The number of the digest of which the engine does not know whether it has counted it.
const DOUBTFUL: u8 = 3;
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Keeps what is handed over.
#[derive(Default)]
struct KeepingSink(Mutex<ForwardBuffer>);

impl ForwardSink for KeepingSink {
    fn origin(&self) -> ForwardOrigin {
        ForwardOrigin::from_number(OWN)
    }

    fn has_sent(&self, number: u64) -> bool {
        number == SENT
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
        let user = if input.flip() { "User: bob\n" } else { "" };
        let mut text = format!("Op: {op}\n{spec}{user}").into_bytes();
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
        let is_accepted = |digest: &Digest| ![BROKEN, DOUBTFUL].contains(&digest.as_bytes()[0]);
        self.digests.iter().copied().filter(is_accepted).collect()
    }

    fn is_in_doubt(&self) -> bool {
        self.digests.iter().any(|digest| digest.as_bytes()[0] == DOUBTFUL)
    }

    /// Adds what must be handed over of this request, whose accepted digests these are.
    fn expect(&self, hops: u8, accepted: Vec<Digest>, buffer: &mut ForwardBuffer) {
        match self.id {
            Some(_) if hops >= MAX_HOPS => {}
            Some(id) if self.digests.len() <= DIGESTS_PER_REQUEST => {
                let id = ForwardId { hops: hops + 1, ..id };
                buffer.units.push(ForwardUnit { id, kind: self.kind, digests: self.digests.clone() });
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
    /// With the fewest hops of the copies.
    InFlight {
        hops: u8,
        copies: usize,
    },
    Counted {
        outcome: Result<(), Refusal>,
        passed_on: PassedOn,
    },
}

/// Whether a request with an id has been passed on.
#[derive(Clone, Copy, PartialEq)]
enum PassedOn {
    /// It must not be, because nothing of it has certainly been counted.
    Never,
    TooManyHops,
    Far,
    Near,
}

impl PassedOn {
    fn with(hops: u8) -> Self {
        match hops {
            0..=8 => Self::Near,
            9..=15 => Self::Far,
            16.. => Self::TooManyHops,
        }
    }

    /// Notes a copy. Returns whether it is passed on.
    fn meet(&mut self, hops: u8) -> bool {
        let is_better = match (Self::with(hops), *self) {
            (_, Self::Never) => false,
            (Self::Near, known) => known != Self::Near,
            (with, known) => with == Self::Far && known == Self::TooManyHops,
        };
        if is_better {
            *self = Self::with(hops);
        }
        is_better
    }
}

/// The state of the model.
#[derive(Default)]
struct Model {
    is_configured: bool,
    known: HashMap<ModelKey, Known>,
    expected: ForwardBuffer,
}

/// Sends requests in batches.
pub(crate) fn target(bytes: &[u8]) {
    let mut input = FuzzInput::new(bytes);
    let sink = Arc::new(KeepingSink::default());
    let shared: Arc<dyn ForwardSink> = Arc::clone(&sink) as _;
    let mut model = Model { is_configured: input.flip(), ..Model::default() };
    let own = OwnOrigin { origin: sink.origin(), is_configured: model.is_configured };
    let forwarding = Forwarding::new(Some(shared), Some(own), ForwardFrom::default());
    let mut admission =
        AdmissionControl { gate: None, replays: None, forwarding, marks: RequestMarks::default() };
    let digest = |number| Digest::from_bytes([number; 20]);
    let broken = [(digest(BROKEN), StorageError::Damaged), (digest(DOUBTFUL), StorageError::InDoubt)];
    let engine = MemoryEngine::new(BTreeMap::new(), i64::MAX, BTreeMap::from(broken));
    let mut counts = BTreeMap::<Digest, i64>::new();
    let mut number = 0;
    while number < MOST && !input.is_empty() {
        let mut work = EngineWork::default();
        let mut batch = Vec::new();
        for _ in 0..=input.byte() % 8 {
            number += 1;
            let sent = Sent::new(&mut input);
            if admit(&mut admission, &mut work, &mut model, &sent) {
                batch.push(sent);
            }
        }
        complete(&mut admission, &mut work, &engine, &mut model, &batch);
        for sent in &batch {
            sent.accepted().into_iter().for_each(|digest| *counts.entry(digest).or_default() += 1);
        }
    }
    let kept = sink.0.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!((&kept.reports, &kept.whitelists), (&model.expected.reports, &model.expected.whitelists));
    assert_eq!(kept.units, model.expected.units);
    let records = engine.records();
    let counted =
        records.iter().map(|(digest, record)| (*digest, record.reports.count + record.whitelists.count));
    assert_eq!(counted.collect::<BTreeMap<_, _>>(), counts);
}

/// Lets a request in, and returns whether it is new to the model, too.
fn admit(admission: &mut AdmissionControl, work: &mut EngineWork, model: &mut Model, sent: &Sent) -> bool {
    let mut parser = HeaderParser::default();
    let request = Request::new(parser.parse(&sent.text));
    let reply_to = ReplyTo { peer: (ADDRESS, 1).into(), source: None };
    let decision = Decision { request, step: NextStep::Count(sent.op, sent.kind, &sent.digests) };
    let source = AdmittedSource::unlimited(ADDRESS);
    let got = admission.admit_request(source, &decision, reply_to, &ServerStats::default());
    let is_own = sent.id.is_some_and(|id| {
        let may_be_older = id.hops > 1 || id.number == SENT;
        id.origin == ForwardOrigin::from_number(OWN) && (may_be_older || model.is_configured)
    });
    let expected = model.expect(sent, is_own);
    let shown = sent.text.escape_ascii();
    match (got, expected) {
        (RequestAdmission::AlreadyCounted(op, outcome), Expected::Counted(expected)) => {
            assert_eq!((op, outcome), (sent.op, expected), "{shown}");
            false
        }
        (RequestAdmission::Dropped, Expected::InFlight) => false,
        (RequestAdmission::Admitted, Expected::New) => {
            work.count(reply_to, &decision.request, sent.op, sent.kind, &sent.digests, false);
            work.mark(admission.marks);
            true
        }
        (got, _) => panic!("{got:?}: {shown}"),
    }
}

/// What the model expects of admission.
enum Expected {
    New,
    InFlight,
    Counted(Result<(), Refusal>),
}

impl Model {
    /// Notes a request.
    fn expect(&mut self, sent: &Sent, is_own: bool) -> Expected {
        if is_own {
            return Expected::Counted(Ok(()));
        }
        let Some(id) = sent.id else { return Expected::New };
        match self.known.get_mut(&sent.key(id)) {
            None => {
                self.known.insert(sent.key(id), Known::InFlight { hops: id.hops, copies: 0 });
                Expected::New
            }
            Some(Known::InFlight { hops, copies }) => {
                *hops = id.hops.min(*hops);
                *copies += 1;
                Expected::InFlight
            }
            Some(Known::Counted { outcome, passed_on }) => {
                if passed_on.meet(id.hops) {
                    let accepted = if outcome.is_ok() { sent.accepted() } else { Vec::new() };
                    sent.expect(id.hops, accepted, &mut self.expected);
                }
                Expected::Counted(*outcome)
            }
        }
    }
}

/// Lets the engine complete the new requests.
fn complete(
    admission: &mut AdmissionControl,
    work: &mut EngineWork,
    engine: &MemoryEngine,
    model: &mut Model,
    sent: &[Sent],
) {
    let mut batch = Batch::default();
    batch.restart(NOW, Instant::now());
    work.plan(&mut batch);
    let BatchProgress::Done(batch) = engine.run(batch) else { panic!("the engine in memory is synchronous") };
    for (done, sent) in work.outcomes(&batch, engine.count_limit()).zip(sent) {
        let copies = admission.forwarding.finish(&done, &batch);
        let accepted = sent.accepted();
        let is_counted = !accepted.is_empty();
        let Some(id) = sent.id else {
            assert!(copies.is_empty());
            if is_counted {
                sent.expect(0, accepted, &mut model.expected);
            }
            continue;
        };
        let Some(Known::InFlight { hops, copies: waiting }) = model.known.remove(&sent.key(id)) else {
            panic!("{} is not in flight", sent.text.escape_ascii());
        };
        assert_eq!(waiting, copies.len());
        if is_counted {
            sent.expect(hops, accepted, &mut model.expected);
        }
        if is_counted || sent.is_in_doubt() {
            let passed_on = if is_counted { PassedOn::with(hops) } else { PassedOn::Never };
            let outcome = done.outcome.map(|_| ());
            model.known.insert(sent.key(id), Known::Counted { outcome, passed_on });
        }
    }
    admission.forwarding.hand_over();
}
