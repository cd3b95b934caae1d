use super::*;
use crate::forward::{ForwardBuffer, ForwardUnit};
use pyzor_wire::forward_id::{ForwardId, ForwardOrigin};

const OTHER: &str = "000000000000000a";

/// The origin of the server.
fn own() -> ForwardOrigin {
    ForwardOrigin::from_number(1)
}

fn own_origin(is_configured: bool) -> OwnOrigin {
    OwnOrigin { origin: own(), is_configured }
}

/// The number of the only request that the server has sent.
const SENT: u64 = 7;

/// Remembers what was handed over. Takes reports only.
#[derive(Default)]
struct RecordingSink(Mutex<ForwardBuffer>);

impl ForwardSink for RecordingSink {
    fn origin(&self) -> ForwardOrigin {
        own()
    }

    fn has_sent(&self, number: u64) -> bool {
        number == SENT
    }

    fn wants(&self, kind: TallyKind) -> bool {
        kind == TallyKind::Report
    }

    fn hand_over(&self, buffer: &mut ForwardBuffer) {
        assert!(!buffer.is_empty());
        let mut all = self.0.lock().unwrap();
        all.reports.append(&mut buffer.reports);
        all.whitelists.append(&mut buffer.whitelists);
        all.units.append(&mut buffer.units);
    }
}

/// A server that forwards to a [`RecordingSink`].
struct Forwarding {
    running: Running,
    sink: Arc<RecordingSink>,
    thread: std::cell::Cell<u32>,
}

impl Forwarding {
    async fn start(from: &str) -> Self {
        Self::start_as(own_origin(false), from).await
    }

    async fn start_as(own: OwnOrigin, from: &str) -> Self {
        let sink = Arc::new(RecordingSink::default());
        let shared: Arc<dyn ForwardSink> = Arc::clone(&sink) as _;
        let running = Running::serve(
            prepared_with(|parts| {
                (parts.forward, parts.origin, parts.forward_from) =
                    (Some(shared), Some(own), from.parse().unwrap());
            })
            .await,
        );
        Self { running, sink, thread: 0.into() }
    }

    /// Sends a request with these headers before its thread, which is returned.
    async fn send(&self, headers: &str) -> u32 {
        self.thread.set(self.thread.get() + 1);
        let text = format!("{headers}Thread: {}\nPV: 2.1\n\n", self.thread.get());
        self.running.client.send(text.as_bytes()).await.unwrap();
        self.thread.get()
    }

    /// Sends a request and returns the code of its reply.
    async fn code(&self, headers: &str) -> u16 {
        self.running.engine.gate.add_permits(1);
        let thread = self.send(headers).await;
        self.received(thread).await
    }

    async fn received(&self, thread: u32) -> u16 {
        let mut buffer = [0; 1000];
        let length = timeout(REPLY_WAIT, self.running.client.recv(&mut buffer)).await.unwrap().unwrap();
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert_eq!(value("Thread: "), thread.to_string());
        value("Code: ").parse().unwrap()
    }

    /// Returns the numbers of the digests that were handed over: fresh reports, then those of each unit.
    fn handed_over(&self) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
        let ForwardBuffer { reports, whitelists, units } = std::mem::take(&mut *self.sink.0.lock().unwrap());
        assert!(whitelists.is_empty());
        let numbers =
            |digests: &[Digest]| digests.iter().map(|digest| digest.as_bytes()[0]).collect::<Vec<_>>();
        let unit = |unit: &ForwardUnit| (unit.id.to_string(), numbers(&unit.digests));
        (numbers(&reports), units.iter().map(unit).collect())
    }

    fn count(&self, number: u8) -> i64 {
        let records = self.running.engine.records.lock().unwrap();
        records.get(&Digest::from_bytes([number; 20])).map_or(0, |record| record.reports.count)
    }

    fn copies(&self) -> u64 {
        self.running.stats.forward_copies.get()
    }
}

/// The headers of a report in the form of a client.
fn report(digests: &[u8]) -> String {
    let digests: String =
        digests.iter().map(|digest| format!("Op-Digest: {}\n", Digest::from_bytes([*digest; 20]))).collect();
    format!("Op: report\n{digests}Op-Spec: 20,3,60,3\n")
}

/// The headers of a forwarded report.
fn forwarded(digests: &[u8], id: &str) -> String {
    format!("{}Forward-Id: {id}\n", report(digests))
}

#[test]
fn accepted_reports_are_handed_over_and_nothing_else() {
    local(async {
        let server = Forwarding::start("").await;
        server.running.engine.damaged.lock().unwrap().insert(Digest::from_bytes([3; 20]));
        assert_eq!(server.code(&report(&[1, 2, 1])).await, 200);
        assert_eq!(server.handed_over(), (vec![1, 2, 1], vec![]));
        assert_eq!(server.code(&report(&[1, 3, 2])).await, 500);
        assert_eq!(server.handed_over(), (vec![1, 2], vec![]), "the digest that was not counted stays");
        for other in ["check", "info", "whitelist", "ping"] {
            server.code(&report(&[1]).replace("report", other)).await;
        }
        server.code("Op: report\n").await;
        server.code("Op: report\nOp-Digest: x\n").await;
        assert_eq!(server.handed_over(), (vec![], vec![]));
    });
}

#[test]
fn forwarded_request_is_counted_once_and_passed_on_as_a_unit() {
    local(async {
        let server = Forwarding::start("").await;
        assert_eq!(server.code(&forwarded(&[1, 1, 2], &format!("{OTHER}-7-3"))).await, 200);
        assert_eq!(server.handed_over(), (vec![], vec![(format!("{OTHER}-7-4"), vec![1, 1, 2])]));
        // A copy on another way has made another number of hops.
        for hops in [3, 1, 255] {
            assert_eq!(server.code(&forwarded(&[1, 1, 2], &format!("{OTHER}-7-{hops}"))).await, 200);
        }
        assert_eq!(server.handed_over(), (vec![], vec![]));
        assert_eq!((server.count(1), server.count(2), server.copies()), (2, 1, 3));
        // Other digests under this id are another request: an id cannot be used to suppress reports of others.
        assert_eq!(server.code(&forwarded(&[2], &format!("{OTHER}-7-1"))).await, 200);
        assert_eq!((server.count(2), server.copies()), (2, 3));
        server.code(&forwarded(&[2], &format!("{OTHER}-7-1")).replace("report", "whitelist")).await;
        assert_eq!(server.copies(), 3, "another operation is another request");
    });
}

#[test]
fn request_of_the_own_origin_is_answered_and_not_counted() {
    local(async {
        let server = Forwarding::start("").await;
        // The number of a request on its way back may be that of an earlier start.
        for id in ["0000000000000001-7-1", "0000000000000001-7-2", "0000000000000001-8-2"] {
            assert_eq!(server.code(&forwarded(&[1], id)).await, 200);
        }
        assert_eq!((server.count(1), server.copies()), (0, 3));
        assert_eq!(server.handed_over(), (vec![], vec![]));
    });
}

#[test]
fn request_of_another_server_with_the_same_origin_is_counted_unless_the_origin_is_configured() {
    local(async {
        let server = Forwarding::start("").await;
        for _ in 0..2 {
            assert_eq!(server.code(&forwarded(&[1], "0000000000000001-8-1")).await, 200);
        }
        assert_eq!((server.count(1), server.copies()), (1, 1));
        assert_eq!(server.handed_over(), (vec![], vec![("0000000000000001-8-2".to_owned(), vec![1])]));

        let server = Forwarding::start_as(own_origin(true), "").await;
        assert_eq!(server.code(&forwarded(&[1], "0000000000000001-8-1")).await, 200);
        assert_eq!((server.count(1), server.copies()), (0, 1));
        assert_eq!(server.handed_over(), (vec![], vec![]));
    });
}

#[test]
fn copy_of_a_request_in_flight_gets_the_same_outcome_with_its_own_thread() {
    local(async {
        let server = Forwarding::start("").await;
        server.running.engine.damaged.lock().unwrap().insert(Digest::from_bytes([2; 20]));
        for (digests, code, counted) in [(&[1][..], 200, 1), (&[1, 2], 500, 2)] {
            let number = digests.len();
            let first = server.send(&forwarded(digests, &format!("{OTHER}-{number}-1"))).await;
            server.running.batches(number).await;
            let second = server.send(&forwarded(digests, &format!("{OTHER}-{number}-2"))).await;
            // The reply to the ping shows that the copy has been received.
            let ping = server.send("Op: ping\n").await;
            assert_eq!(server.received(ping).await, 200);
            server.running.engine.gate.add_permits(1);
            assert_eq!(server.received(first).await, code);
            assert_eq!(server.received(second).await, code);
            assert_eq!((server.count(1), server.copies()), (counted, number as u64));
        }
    });
}

#[test]
fn unit_of_which_a_part_was_counted_is_remembered_and_one_without_is_not() {
    local(async {
        let server = Forwarding::start("").await;
        server.running.engine.damaged.lock().unwrap().insert(Digest::from_bytes([3; 20]));
        let partly = forwarded(&[1, 3, 2], &format!("{OTHER}-1-1"));
        assert_eq!(server.code(&partly).await, 500);
        // Passed on whole: a server that gets it on another way, too, must recognize it.
        assert_eq!(server.handed_over(), (vec![], vec![(format!("{OTHER}-1-2"), vec![1, 3, 2])]));
        let failed = forwarded(&[3], &format!("{OTHER}-2-1"));
        assert_eq!(server.code(&failed).await, 500);
        assert_eq!(server.handed_over(), (vec![], vec![]));
        server.running.engine.damaged.lock().unwrap().clear();
        assert_eq!(server.code(&partly).await, 500, "answered like the first");
        assert_eq!((server.count(1), server.count(3)), (1, 0));
        assert_eq!(server.code(&failed).await, 200, "a new attempt");
        assert_eq!(server.count(3), 1);
        assert_eq!(server.handed_over(), (vec![], vec![(format!("{OTHER}-2-2"), vec![3])]));
    });
}

#[test]
fn request_in_doubt_is_remembered_and_not_passed_on() {
    local(async {
        let server = Forwarding::start("").await;
        server.running.engine.in_doubt.lock().unwrap().insert(Digest::from_bytes([3; 20]));
        let doubtful = forwarded(&[3], &format!("{OTHER}-1-1"));
        assert_eq!(server.code(&doubtful).await, 500);
        server.running.engine.in_doubt.lock().unwrap().clear();
        for hops in [2, 1] {
            assert_eq!(server.code(&forwarded(&[3], &format!("{OTHER}-1-{hops}"))).await, 500);
        }
        assert_eq!((server.count(3), server.copies()), (1, 2));
        assert_eq!(server.handed_over(), (vec![], vec![]));
    });
}

#[test]
fn copy_with_too_many_hops_does_not_keep_a_request_from_its_way() {
    local(async {
        let server = Forwarding::start("").await;
        let copy =
            |digests: &[u8], number: u8, hops: u8| forwarded(digests, &format!("{OTHER}-{number}-{hops}"));
        server.code(&copy(&[1], 1, 255)).await;
        assert_eq!(server.handed_over(), (vec![], vec![]));
        for _ in 0..2 {
            assert_eq!(server.code(&copy(&[1], 1, 3)).await, 200);
        }
        assert_eq!(server.handed_over(), (vec![], vec![(format!("{OTHER}-1-4"), vec![1])]));
        let many: Vec<u8> = (1..12).collect();
        server.code(&copy(&many, 2, 255)).await;
        server.code(&copy(&many, 2, 1)).await;
        assert_eq!(server.handed_over(), (many, vec![]));
        assert_eq!((server.count(1), server.copies()), (2, 3));

        // The copy with too many hops is in flight.
        let server = Forwarding::start("").await;
        let first = server.send(&copy(&[1], 3, 16)).await;
        server.running.batches(1).await;
        let second = server.send(&copy(&[1], 3, 5)).await;
        let ping = server.send("Op: ping\n").await;
        assert_eq!(server.received(ping).await, 200);
        server.running.engine.gate.add_permits(1);
        assert_eq!([server.received(first).await, server.received(second).await], [200, 200]);
        assert_eq!(server.handed_over(), (vec![], vec![(format!("{OTHER}-3-6"), vec![1])]));
    });
}

#[test]
fn hops_and_the_number_of_digests_decide_how_a_request_is_passed_on() {
    local(async {
        let server = Forwarding::start("").await;
        server.code(&forwarded(&[1], &format!("{OTHER}-1-15"))).await;
        assert_eq!(server.handed_over(), (vec![], vec![(format!("{OTHER}-1-16"), vec![1])]));
        server.code(&forwarded(&[1], &format!("{OTHER}-2-16"))).await;
        let many: Vec<u8> = (1..12).collect();
        server.code(&forwarded(&many, &format!("{OTHER}-3-16"))).await;
        assert_eq!(server.handed_over(), (vec![], vec![]), "counted only");
        for _ in 0..2 {
            server.code(&forwarded(&many, &format!("{OTHER}-4-1"))).await;
        }
        assert_eq!(server.handed_over(), (many, vec![]));
        assert_eq!(server.count(11), 2);
    });
}

#[test]
fn request_without_a_valid_id_is_passed_on_unless_it_has_the_form_of_a_forwarder() {
    local(async {
        let server = Forwarding::start("").await;
        let in_form = format!("Op-Spec: 20,3,60,3\n{}", report(&[1]));
        for malformed in ["", "x", "000000000000000a-1-0", "000000000000000a-1-1 "] {
            for times in 1..3 {
                server.code(&forwarded(&[1], malformed)).await;
                assert_eq!(server.handed_over(), (vec![1], vec![]), "{malformed}, {times}");
            }
        }
        server.code(&in_form).await;
        server.code(&format!("{in_form}Forward-Id: x\n")).await;
        assert_eq!(server.handed_over(), (vec![], vec![]));
        assert_eq!(server.count(1), 10);
        server.code(&format!("{in_form}Forward-Id: {OTHER}-1-1\n")).await;
        assert_eq!(server.handed_over(), (vec![], vec![(format!("{OTHER}-1-2"), vec![1])]));

        let server = Forwarding::start("127.0.0.0/8").await;
        server.code(&in_form).await;
        assert_eq!(server.handed_over(), (vec![1], vec![]));
    });
}

#[test]
fn ids_are_recognized_without_forwarding() {
    local(async {
        let running = Running::serve(prepared_with(|parts| parts.origin = Some(own_origin(true))).await);
        running.engine.gate.add_permits(3);
        let id = ForwardId { origin: ForwardOrigin::from_number(5), number: 1, hops: 1 };
        for thread in 1..4 {
            let text = format!("{}Thread: {thread}\nPV: 2.1\n\n", forwarded(&[1], &id.to_string()));
            running.client.send(text.as_bytes()).await.unwrap();
            assert_eq!(running.reply().await, (thread, None));
        }
        assert_eq!(running.stats.forward_copies.get(), 2);
        // Another process on this database has counted a request of this origin.
        let text = format!("{}Thread: 4\nPV: 2.1\n\n", forwarded(&[1], "0000000000000001-1-1"));
        running.client.send(text.as_bytes()).await.unwrap();
        assert_eq!(running.reply().await, (4, None));
        assert_eq!(running.stats.forward_copies.get(), 3);
        assert_eq!(running.engine.records.lock().unwrap().values().next().unwrap().reports.count, 1);
    });
}
