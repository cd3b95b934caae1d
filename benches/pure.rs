//! Measures the handling of a request without sockets and database: parse, authenticate, decide, encode the reply.
//!
//! Run with `cargo bench --bench pure`.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark that fails panics")]
#![allow(missing_docs, reason = "the macros of criterion generate functions without docs")]

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{Criterion, criterion_group, criterion_main};
use pyzor_wire::headers::HeaderParser;
use pyzor_wire::reply::{self, Answer, Refusal};
use pyzor_wire::request::Request;
use pyzor_wire::signature::KeyHash;
use pyzord::access::{self, AccessOrder, AccessSources, Authorizer, PresentFiles};
use pyzord::handler::Handler;
use pyzord::record::{Record, Tally, Timestamp};

const DIGEST: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
const KEY: &str = "2bee8e8d9f5d4e02f4a7f2c40a8f1f3c2c6f9d10";
const NOW: i64 = 1_795_343_206;

fn authorizer() -> Authorizer {
    let directory = tempfile::tempdir().unwrap();
    let sources = AccessSources {
        passwd: directory.path().join("passwd"),
        access: directory.path().join("access"),
        order: AccessOrder::First,
        order_chosen: false,
        forward_from: Vec::new(),
    };
    std::fs::write(&sources.passwd, format!("bob : {KEY}\n")).unwrap();
    std::fs::write(&sources.access, "all : anonymous bob : allow\n").unwrap();
    access::load(&sources, PresentFiles::default()).unwrap().authorizer
}

fn request(op: &str, signed: bool) -> Vec<u8> {
    let fields = format!("Op: {op}\nOp-Digest: {DIGEST}\nThread: 31337\nPV: 2.1\n");
    if !signed {
        return format!("{fields}\n").into_bytes();
    }
    let fields = format!("{fields}User: bob\nTime: {NOW}\n");
    let mut parser = HeaderParser::default();
    let mut text = Vec::new();
    Request::new(parser.parse(fields.as_bytes())).message().write_signed_text(&mut text);
    let signature = KeyHash::new("bob", KEY).sign(&text, NOW);
    format!("{fields}Sig: {}\n\n", String::from_utf8_lossy(&signature)).into_bytes()
}

fn decide(criterion: &mut Criterion) {
    let access = authorizer();
    let peer: SocketAddr = "192.0.2.1:40000".parse().unwrap();
    let now = Timestamp::from_seconds(NOW);
    for (name, datagram) in [
        ("parse and decide: ping", request("ping", false)),
        ("parse and decide: check", request("check", false)),
        ("parse and decide: report", request("report", false)),
        ("parse, authenticate and decide: check", request("check", true)),
    ] {
        let mut handler = Handler::default();
        let decision = handler.decide(&datagram, peer, now, &access).unwrap();
        assert!(!format!("{:?}", decision.step).contains("Refuse"), "{name}: {:?}", decision.step);
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                let decision = handler.decide(black_box(&datagram), peer, now, &access);
                black_box(decision.is_some())
            });
        });
    }
}

fn encode(criterion: &mut Criterion) {
    let time = Some(Timestamp::from_seconds(NOW));
    let tally = Tally { count: 12_345, first: time, last: time };
    let record = Record { reports: tally, whitelists: Tally::default() };
    let mut out = Vec::new();
    for (name, outcome) in [
        ("encode: done", Ok(Answer::Done)),
        ("encode: counts", Ok(Answer::Counts(record.counts()))),
        ("encode: counts and times", Ok(Answer::Details(record.times(), record.counts()))),
        ("encode: refused", Err(Refusal::Forbidden)),
    ] {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                reply::encode(&mut out, black_box(b"31337"), black_box(outcome));
                black_box(out.len())
            });
        });
    }
}

criterion_group!(benches, decide, encode);
criterion_main!(benches);
