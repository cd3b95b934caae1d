//! The established Python client with this server: its output and exit status.

use std::process::Output;

use crate::harness::{Account, Client, DIGEST, Home, Server, unix_time};

/// A digest without reports.
const UNKNOWN: &str = "0000000000000000000000000000000000000000";

/// Returns the output and the exit status of the client.
fn outcome(output: &Output) -> (String, i32) {
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    (stdout, output.status.code().unwrap())
}

/// Runs a client command and compares the output after the server's address, and the exit status.
#[track_caller]
fn expect(client: &Client, server: &Server, command: &str, digest: &str, printed: &str, status: i32) {
    let output = client.run(command, &[digest]);
    let expected = format!("127.0.0.1:{}\t{printed}", server.port());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(outcome(&output), (expected, status), "{command} of {digest}\n{stderr}");
}

const FORBIDDEN: &str = "(403, 'Forbidden: User is not authorized to request the operation.')";

/// Expects that a command is refused with this text.
#[track_caller]
fn expect_refusal(client: &Client, server: &Server, command: &str, refusal: &str) {
    // The client prints the separators of the counts even without counts.
    let end = match command {
        "check" | "pong" => "\t\n",
        "info" => "\n\n",
        _ => "\n",
    };
    expect(client, server, command, DIGEST, &format!("{refusal}{end}"), 1);
}

#[test]
fn anonymous_client_reports_and_checks() {
    let server = Home::open().start();
    let client = Client::new(&server);
    let expect =
        |command, digest, printed: &str, status| expect(&client, &server, command, digest, printed, status);
    expect("ping", DIGEST, "(200, 'OK')\n", 0);
    expect("pong", DIGEST, "(200, 'OK')\t9223372036854775807\t0\n", 0);
    expect("check", DIGEST, "(200, 'OK')\t0\t0\n", 1);
    expect("report", DIGEST, "(200, 'OK')\n", 0);
    expect("report", DIGEST, "(200, 'OK')\n", 0);
    expect("check", DIGEST, "(200, 'OK')\t2\t0\n", 0);
    expect("whitelist", DIGEST, "(200, 'OK')\n", 0);
    expect("check", DIGEST, "(200, 'OK')\t2\t1\n", 1);
    expect("check", UNKNOWN, "(200, 'OK')\t0\t0\n", 1);
}

#[test]
fn client_prints_the_record_of_a_digest() {
    let server = Home::open().start();
    let client = Client::new(&server);
    let reported = unix_time();
    client.run("report", &[DIGEST]);
    let output = client.run("info", &[DIGEST]);
    let (printed, status) = outcome(&output);
    assert_eq!(status, 0, "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[0], format!("127.0.0.1:{}\t(200, 'OK')", server.port()));
    let mut fields: Vec<(&str, &str)> =
        lines[1..].iter().filter_map(|line| line.strip_prefix('\t')?.split_once(": ")).collect();
    fields.sort_unstable();
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["Count", "Entered", "Updated", "WL-Count", "WL-Entered", "WL-Updated"]);
    assert_eq!(fields[0].1, "1");
    assert_eq!(fields[3].1, "0");
    for (_, never) in &fields[4..] {
        assert_eq!(*never, "Thu Jan  1 00:00:00 1970");
    }
    for (_, date) in &fields[1..3] {
        let date = jiff::civil::DateTime::strptime("%a %b %d %H:%M:%S %Y", date).unwrap();
        let time = date.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().as_second();
        assert!((reported..=unix_time()).contains(&time), "{date}");
    }
}

#[test]
fn anonymous_client_may_do_everything_except_whitelist_by_default() {
    let server = Home::new().start();
    let client = Client::new(&server);
    let expect = |command, printed: &str, status| expect(&client, &server, command, DIGEST, printed, status);
    expect("ping", "(200, 'OK')\n", 0);
    expect("report", "(200, 'OK')\n", 0);
    expect_refusal(&client, &server, "whitelist", FORBIDDEN);
    expect("check", "(200, 'OK')\t1\t0\n", 0);
}

#[test]
fn client_with_an_account_has_its_rights() {
    let bob = Account::new("bob");
    let server = Home::new().passwd(bob.passwd()).access("all : bob : allow\n").start();
    let client = Client::with_account(&server, &bob);
    let expect = |command, printed: &str, status| expect(&client, &server, command, DIGEST, printed, status);
    expect("ping", "(200, 'OK')\n", 0);
    expect("pong", "(200, 'OK')\t9223372036854775807\t0\n", 0);
    expect("report", "(200, 'OK')\n", 0);
    expect("check", "(200, 'OK')\t1\t0\n", 0);
    expect("whitelist", "(200, 'OK')\n", 0);
    expect("check", "(200, 'OK')\t1\t1\n", 1);
    assert_eq!(client.run("info", &[DIGEST]).status.code(), Some(0));
    // Anonymous clients have no rights here.
    let anonymous = Client::new(&server);
    expect_refusal(&anonymous, &server, "check", FORBIDDEN);
}

#[test]
fn client_prints_refusals_for_lack_of_rights() {
    let bob = Account::new("bob");
    let access = "ping check : bob : allow\nall : anonymous : allow\n";
    let server = Home::new().passwd(bob.passwd()).access(access).start();
    let client = Client::with_account(&server, &bob);
    let expect = |command, printed: &str, status| expect(&client, &server, command, DIGEST, printed, status);
    expect("ping", "(200, 'OK')\n", 0);
    expect("check", "(200, 'OK')\t0\t0\n", 1);
    for command in ["pong", "info", "report", "whitelist"] {
        expect_refusal(&client, &server, command, FORBIDDEN);
    }
}

#[test]
fn client_prints_refusals_of_wrong_accounts() {
    let bob = Account::new("bob");
    let server = Home::open().passwd(bob.passwd()).access("all : all anonymous : allow\n").start();
    for (account, reason) in [
        (Account::with_key("bob", Account::new("eve").key()), "Invalid signature."),
        (Account::new("eve"), "Unknown user."),
    ] {
        let client = Client::with_account(&server, &account);
        let refusal = format!("(401, 'Unauthorized: Signature Error: {reason}')");
        for command in ["ping", "pong", "check", "info", "report", "whitelist"] {
            expect_refusal(&client, &server, command, &refusal);
        }
    }
}

#[test]
fn batch_of_ten_digests_is_counted() {
    let bob = Account::new("bob");
    let home = Home::new().passwd(bob.passwd()).access("all : bob : allow\n");
    let server = home.start();
    let script = "
import sys, time
import pyzor.client, pyzor.config
accounts = pyzor.config.load_accounts(sys.argv[1] + '/accounts')
address = ('127.0.0.1', int(sys.argv[2]))
client = pyzor.client.BatchClient(accounts)
for number in range(10):
    client.report('%040x' % number, address)
for number in range(10):
    client.whitelist('%040x' % (number // 2), address)
# The batch client reads no replies.
single = pyzor.client.Client(accounts)
deadline = time.time() + 15
while time.time() < deadline:
    reply = single.check('%040x' % 4, address)
    if (reply['Count'], reply['WL-Count']) == ('1', '2'):
        break
    time.sleep(0.01)
for number in range(10):
    reply = single.check('%040x' % number, address)
    print(reply['Code'], reply['Count'], reply['WL-Count'])
";
    let output = Client::with_account(&server, &bob).script(&server, script);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = "200 1 2\n".repeat(5) + &"200 1 0\n".repeat(5);
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    // Each batch was sent as one request.
    server.stop();
    let usage = home.read("usage.log");
    let batches = usage.lines().filter(|line| line.contains("report") || line.contains("whitelist"));
    assert_eq!(batches.count(), 2, "{usage}");
}
