//! `stats --interval`.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Stdio};

use serde_json::Value;

use super::fake::{FakeServer, line, stats};
use super::program;

/// A running `pyzorctl stats --interval`, killed on drop.
pub(super) struct Watch {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    complaints: Lines<BufReader<ChildStderr>>,
}

impl Watch {
    pub(super) fn start(socket: &Path, arguments: &str) -> Self {
        let mut command = program(&format!("stats --interval 0.1 {arguments} --socket"));
        let mut child = command.arg(socket).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let complaints = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, output, complaints }
    }

    fn line(&mut self) -> String {
        self.output.next().unwrap().unwrap()
    }

    /// Reads the next line on standard error.
    pub(super) fn complaint(&mut self) -> String {
        self.complaints.next().unwrap().unwrap()
    }

    /// Reads the next line as JSON.
    pub(super) fn object(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A server whose replies are these uptimes and counts of checks; the last one for ever. None closes the connection.
fn server(replies: &'static [Option<(f64, u64)>]) -> FakeServer {
    FakeServer::start(move |number, stream| {
        let reply = replies.get(number).or(replies.last()).copied().flatten();
        if let Some((seconds, checks)) = reply {
            // The client may be gone.
            let _ = stream.write_all(line("stats", &stats(seconds, checks)).as_bytes());
        }
    })
}

#[test]
fn each_line_is_the_difference_of_two_reports() {
    // The server claims that more time passes than does, as one that was restarted never could.
    let server = server(&[Some((10.0, 1000)), Some((20.0, 1500)), Some((30.0, 1500))]);
    let mut watch = Watch::start(&server.socket(), "");
    assert!(watch.line().starts_with("    time replies/s checks/s    hits "));
    let row: Vec<String> = watch.line().split_whitespace().map(str::to_owned).collect();
    assert_eq!(row[1..5], ["50", "50", "50.0", "%"], "{row:?}");
    assert_eq!(row[5..8], ["0", "0", "0"], "{row:?}");
    assert_eq!(row[8..], ["111", "µs", "111", "µs", "0.5", "%"], "{row:?}");
    let idle = watch.line();
    assert!(idle.split_whitespace().skip(1).take(3).eq(["0", "0", "-"]), "{idle}");
}

#[test]
fn restart_is_reported_and_counted_from_its_start() {
    let replies = &[Some((1000.0, 1000)), Some((2.0, 10)), Some((4.0, 30))];
    let once = server(replies);
    let mut watch = Watch::start(&once.socket(), "--json");
    let (first, second) = (watch.object(), watch.object());
    assert_eq!(
        (&first["restarted"], &first["check_hits"], &first["seconds"]),
        (&true.into(), &5.into(), &2.0.into())
    );
    assert_eq!((&second["restarted"], &second["check_hits"]), (&false.into(), &10.into()));
    let server = server(replies);
    let mut watch = Watch::start(&server.socket(), "");
    assert_eq!(watch.line(), "the server was restarted: the next line counts from its start");
}

#[test]
fn server_that_is_gone_for_a_while_is_reported_once() {
    let replies = &[Some((50.0, 100)), None, None, None, Some((70.0, 120))];
    let server = server(replies);
    let mut watch = Watch::start(&server.socket(), "--json");
    let object = watch.object();
    assert_eq!((&object["restarted"], &object["check_hits"]), (&false.into(), &10.into()));
    let complaint = watch.complaint();
    assert!(complaint.starts_with("pyzorctl: ") && complaint.ends_with("; trying again"), "{complaint}");
    drop(server);
    let complaint = watch.complaint();
    assert!(complaint.contains("there is no control socket "), "{complaint}");
}

#[test]
fn reader_that_has_gone_ends_it() {
    let server = server(&[Some((1.0, 1))]);
    let mut command = program("stats --interval 0.1 --json --socket");
    let mut child = command.arg(server.socket()).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(3));
}
