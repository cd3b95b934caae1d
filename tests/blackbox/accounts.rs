//! Who may do what: signatures, the passwd and access files, and reading them again while serving.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::harness::{Account, DIGEST, Home, Server, eventually, is_ours, ours_only, unix_time};

const OPERATIONS: [&str; 6] = ["ping", "pong", "check", "info", "report", "whitelist"];

/// The operations that somebody may do, in the order of [`OPERATIONS`]; `None` is the anonymous user.
fn rights(server: &Server, account: Option<&Account>) -> String {
    let allowed = OPERATIONS.iter().filter(|operation| {
        // Without a digest nothing is counted.
        let code = match account {
            Some(account) => server.request_as(account, operation, &[]).code(),
            None => server.request(operation, &[]).code(),
        };
        assert!(code == 200 || code == 403, "{code}");
        code == 200
    });
    allowed.copied().collect::<Vec<_>>().join(" ")
}

/// Waits for a line of the operator log at this level with all these parts. A server need not write
/// its log before it answers, only before it ends.
#[track_caller]
fn assert_logged(home: &Home, level: &str, parts: &[&str]) {
    let level = format!(" {level} ");
    let told = |line: &str| line.contains(&level) && parts.iter().all(|part| line.contains(part));
    eventually(&format!("{level}of {parts:?}"), || home.log().lines().any(told).then_some(()));
}

/// Asserts that both the operator log and standard error have a warning with all these parts.
#[track_caller]
fn assert_warned(home: &Home, parts: &[&str]) {
    assert_logged(home, "WARNING", parts);
    let stderr = home.stderr();
    let told = stderr.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(told, "not on stderr: {parts:?}\n{stderr}");
}

/// Stops the server and asserts that it had nothing to warn of.
#[track_caller]
fn assert_no_warning(server: Server) {
    let home = server.home().clone();
    assert!(server.stop().success());
    assert!(!home.log().contains("WARNING"), "{}", home.log());
    assert_eq!(home.stderr(), "");
}

// Signatures.

#[test]
fn only_the_right_key_of_a_known_account_opens() {
    let bob = Account::new("bob");
    let server =
        Home::new().passwd(bob.passwd()).access("ping : bob : allow\npong : anonymous : allow\n").start();
    assert_eq!(server.request_as(&bob, "ping", &[]).code(), 200);
    assert_eq!(server.request_as(&bob, "pong", &[]).code(), 403);
    let wrong_key = Account::with_key("bob", Account::new("eve").key());
    for stranger in [wrong_key, Account::with_key("Bob", bob.key()), Account::with_key("bob ", bob.key())] {
        assert_eq!(server.request_as(&stranger, "ping", &[]).code(), 401);
    }
    // A key is the same in either case.
    let loud = Account::with_key("bob", &bob.key().to_uppercase());
    assert_eq!(server.request_as(&loud, "ping", &[]).code(), 200);
    let home = Home::new().passwd(loud.passwd()).access("ping : bob : allow\n");
    assert_eq!(home.start().request_as(&bob, "ping", &[]).code(), 200);
}

#[test]
fn a_signature_covers_the_request_as_the_established_server_reads_it() {
    let bob = Account::new("bob");
    let server = Home::open().passwd(bob.passwd()).access("all : bob : allow\n").start();
    let time = unix_time();
    let tail = format!("User: bob\nTime: {time}");
    // On the wire, `@` stands for the signature; beside it the text that is signed.
    let cases = [
        (
            format!("Op: ping\nThread: 1\nPV: 2.1\n{tail}\nSig: @\n\n"),
            format!("Op: ping\nThread: 1\nPV: 2.1\n{tail}"),
        ),
        (
            format!("Sig: @\nOp: ping\nThread: 1\nPV: 2.1\n{tail}"),
            format!("Op: ping\nThread: 1\nPV: 2.1\n{tail}"),
        ),
        (
            format!("Op: ping\nThread: 1\nPV: 2.1\n{tail}\nsIG: @\nSig: second\n"),
            format!("Op: ping\nThread: 1\nPV: 2.1\n{tail}"),
        ),
        (
            format!("Op:ping\nthread:   1\nPV:\t2.1\n{tail}\nSig: @\n"),
            format!("Op: ping\nthread: 1\nPV: 2.1\n{tail}"),
        ),
        (
            format!("Op: ping\nThread: 1\nPV: 2.1\n{tail}\nSig: @\n\n").replace('\n', "\r\n"),
            format!("Op: ping\nThread: 1\nPV: 2.1\n{tail}"),
        ),
        (
            format!("Op: ping\nThread: 1\nPV: 2.1\n{tail}\nSig: @\n").replace('\n', "\n\n"),
            format!("Op: ping\nThread: 1\nPV: 2.1\n{tail}"),
        ),
        (
            format!("Op: ping\nThread: 1\nPV: 2.1\nX: a\n  b\n\tc\n{tail}\nSig: @\n\n"),
            format!("Op: ping\nThread: 1\nPV: 2.1\nX: a\n  b\n\tc\n{tail}"),
        ),
        (
            format!("Op: ping\nThread: 1 \t\nPV: 2.1\nX:\n{tail}\nSig: @\n\n"),
            format!("Op: ping\nThread: 1 \t\nPV: 2.1\nX: \n{tail}"),
        ),
        (
            format!("Op: ping\nThread: 1\nPV: 2.1\n{tail}\nSig: @\nX: y  \n\n"),
            format!("Op: ping\nThread: 1\nPV: 2.1\n{tail}\nX: y"),
        ),
        (
            format!("From x\n: y\nOp: ping\nThread: 1\nPV: 2.1\n{tail}\nSig: @\n"),
            format!("Op: ping\nThread: 1\nPV: 2.1\n{tail}"),
        ),
        (
            format!("Op: ping\nThread: 1\nPV: 2.1\nX: {}\n{tail}\nSig: @\n", "long ".repeat(100) + "x"),
            format!("Op: ping\nThread: 1\nPV: 2.1\nX: {}\n{tail}", "long ".repeat(100) + "x"),
        ),
    ];
    for (wire, text) in cases {
        let request = wire.replace('@', &bob.signature(&text, time));
        let reply = String::from_utf8(server.ask(&request)).unwrap();
        assert!(reply.starts_with("Code: 200\n"), "{} to {}", reply.escape_debug(), request.escape_debug());
        // Another text under the same signature is refused.
        let forged = request.replacen("ping", "pong", 1);
        let reply = String::from_utf8(server.ask(&forged)).unwrap();
        assert!(reply.starts_with("Code: 401\n"), "{} to {}", reply.escape_debug(), forged.escape_debug());
        // The signature itself is compared exactly.
        let loud = wire.replace('@', &bob.signature(&text, time).to_uppercase());
        assert!(server.ask(&loud).starts_with(b"Code: 401\n"), "{}", loud.escape_debug());
    }
}

#[test]
fn the_time_may_be_written_in_several_ways() {
    let bob = Account::new("bob");
    let server = Home::new().passwd(bob.passwd()).access("ping : bob : allow\n").start();
    let time = unix_time();
    let underscored = format!("{}_{:03}", time / 1000, time % 1000);
    for written in [format!("+{time}"), format!("0{time}"), underscored, format!("\t {time}")] {
        let headers = "Op: ping\nThread: 3000\nPV: 2.1\n";
        // Blanks before a value are not part of the signed text.
        let signed = format!("{headers}User: bob\nTime: {}", written.trim());
        let request =
            format!("{headers}User: bob\nTime: {written}\nSig: {}\n\n", bob.signature(&signed, time));
        assert!(server.ask(&request).starts_with(b"Code: 200\n"), "{}", request.escape_debug());
    }
}

#[test]
fn a_request_is_good_for_five_minutes_either_way() {
    let bob = Account::new("bob");
    let server = Home::new().passwd(bob.passwd()).access("ping : bob : allow\n").start();
    for (offset, code) in
        [(-299, 200), (-300, 401), (-301, 401), (0, 200), (300, 200), (301, 401), (-86_400, 401)]
    {
        eventually("an exchange within one second", || {
            let now = unix_time();
            let reply = server.ask(bob.sign("Op: ping\nThread: 3000\nPV: 2.1\n", now + offset));
            if unix_time() == now {
                let head = format!("Code: {code}\n");
                assert!(reply.starts_with(head.as_bytes()), "{offset}: {}", reply.escape_ascii());
            }
            (unix_time() == now).then_some(())
        });
    }
}

#[test]
fn anonymous_is_never_authenticated() {
    let anonymous = Account::new("anonymous");
    let server = Home::open().passwd(anonymous.passwd()).start();
    server.expect(
        "Op: ping\nPV: 2.1\nThread: 1\nUser: anonymous\nTime: never\nSig: wrong\n\n",
        "Code: 200\nDiag: OK\nPV: 2.1\nThread: 1\n\n",
    );
}

// The passwd file.

#[test]
fn the_passwd_file_is_read_as_ever() {
    let (bob, carol, dave) = (Account::new("bob"), Account::new("carol"), Account::new("dave"));
    let passwd = format!(
        "# comment : {0}\r\n\r\nbob:{1}\r\n\tcarol  :  {0}  \ncarol : {2}\nnonsense\n{3}",
        Account::new("old carol").key(),
        bob.key(),
        carol.key(),
        dave.passwd().trim_end(),
    );
    let server = Home::new().passwd(passwd).access("ping : all : allow\n").start();
    for account in [&bob, &carol, &dave] {
        assert_eq!(rights(&server, Some(account)), "ping", "{}", account.name());
    }
    let old = Account::with_key("carol", Account::new("old carol").key());
    assert_eq!(server.request_as(&old, "ping", &[]).code(), 401);
}

#[test]
fn bad_lines_of_the_passwd_file_are_named_and_skipped() {
    if !ours_only() {
        return;
    }
    let bob = Account::new("bob");
    let key = bob.key();
    let mut passwd = format!("# comment\nnonsense\neve : {key} : x\nempty :\n : {key}\n").into_bytes();
    passwd.extend(b"b\xf6b : \xe9\n");
    passwd.extend(bob.passwd().into_bytes());
    let home = Home::new().passwd(passwd).access("ping : all : allow\n");
    let server = home.start();
    assert_eq!(server.request_as(&bob, "ping", &[]).code(), 200);
    assert_eq!(server.request_as(&Account::with_key("empty", ""), "ping", &[]).code(), 401);
    for line in 2..=6 {
        assert_warned(&home, &[&format!("pyzord.passwd:{line}:")]);
    }
    server.stop();
    assert!(!home.everything_said().contains("pyzord.passwd:1:"));
    assert!(!home.everything_said().contains("pyzord.passwd:7:"));
}

#[test]
fn accounts_that_differ_in_case_alone_are_warned_of() {
    if !ours_only() {
        return;
    }
    let (bob, loud) = (Account::new("bob"), Account::new("BOB"));
    let home = Home::new().passwd(bob.passwd() + &loud.passwd()).access("ping : bob : allow\n");
    let server = home.start();
    assert_eq!(rights(&server, Some(&bob)), "ping");
    assert_eq!(rights(&server, Some(&loud)), "ping");
    assert_warned(&home, &["bob", "BOB"]);
}

#[test]
fn keys_are_never_logged() {
    if !ours_only() {
        return;
    }
    let accounts = ["bob", "carol", "dave", "eve", "mallory"].map(Account::new);
    let [bob, carol, dave, eve, mallory] = &accounts;
    let passwd = format!(
        "{}{}carol : {} : x\n{}\ndave {}\nEVE : {}\n",
        bob.passwd(),
        bob.passwd(),
        carol.key(),
        mallory.key(),
        dave.key(),
        eve.key().to_uppercase()
    );
    let home = Home::new().passwd(passwd).access("ping : bob : allow\n").arguments(&["-d"]);
    let server = home.start();
    assert_eq!(server.request_as(bob, "ping", &[]).code(), 200);
    for account in &accounts {
        server.request_as(account, "check", &[DIGEST]);
    }
    let lines = home.log().lines().count();
    server.signal(Signal::SIGUSR1);
    eventually("word of the reload", || (home.log().lines().count() > lines).then_some(()));
    assert!(server.stop().success());
    let said = home.everything_said().to_lowercase();
    for account in &accounts {
        assert!(!said.contains(account.key()), "{}'s key is in\n{said}", account.name());
    }
}

// The access file.

#[test]
fn without_files_anonymous_may_do_all_but_whitelist() {
    let server = Home::new().start();
    assert_eq!(rights(&server, None), "ping pong check info report");
    let bob = Account::new("bob");
    assert_eq!(server.request_as(&bob, "ping", &[]).code(), 401);
    let accounts = "Accounts file does not exist - only the anonymous user will be available.";
    assert_logged(server.home(), "INFO", &[accounts]);
    let default = "Using default ACL: the anonymous user may use the check, report, ping and info commands.";
    assert_logged(server.home(), "INFO", &[default]);
}

#[test]
fn without_an_access_file_accounts_may_do_nothing() {
    let bob = Account::new("bob");
    let server = Home::new().passwd(bob.passwd()).start();
    assert_eq!(rights(&server, Some(&bob)), "");
    assert_eq!(rights(&server, None), "ping pong check info report");
}

#[test]
fn with_an_empty_access_file_nobody_may_do_anything() {
    let bob = Account::new("bob");
    let server = Home::new().passwd(bob.passwd()).access("").start();
    assert_eq!(rights(&server, Some(&bob)), "");
    assert_eq!(rights(&server, None), "");
}

#[test]
fn with_an_empty_passwd_file_there_is_only_anonymous() {
    let server = Home::new().passwd("").access("all : all : allow\nping : anonymous : allow\n").start();
    assert_eq!(rights(&server, None), "ping");
    assert_eq!(server.request_as(&Account::new("bob"), "ping", &[]).code(), 401);
}

#[test]
fn the_default_rule_of_the_manual_can_be_written_down() {
    let server = Home::new().access("check report ping pong info : anonymous : allow\n").start();
    assert_eq!(rights(&server, None), "ping pong check info report");
}

#[test]
fn all_are_the_six_operations_and_the_named_users() {
    let (bob, carol) = (Account::new("bob"), Account::new("Carol"));
    let home = Home::new().passwd(bob.passwd() + &carol.passwd()).access("all : all : allow\n");
    let server = home.start();
    let six = "ping pong check info report whitelist";
    assert_eq!(rights(&server, Some(&bob)), six);
    assert_eq!(rights(&server, Some(&carol)), six);
    assert_eq!(rights(&server, None), "");
    // An operation that does not exist is not among them.
    assert_eq!(server.request_as(&bob, "dance", &[]).code(), 403);
}

#[test]
fn all_is_a_keyword_inside_a_list_too() {
    if !ours_only() {
        return;
    }
    let bob = Account::new("bob");
    let home = Home::new().passwd(bob.passwd()).access("ping all : anonymous all : allow\n");
    let server = home.start();
    let six = "ping pong check info report whitelist";
    assert_eq!(rights(&server, Some(&bob)), six);
    assert_eq!(rights(&server, None), six);
    assert_eq!(server.request("dance", &[]).code(), 403);
}

#[test]
fn rights_are_lists_split_at_blanks() {
    let (bob, carol) = (Account::new("bob"), Account::new("carol"));
    let access = "# ping : bob : allow\r\n\r\n\
                  ping\tpong  check:bob carol:allow\r\n\
                  check,report : bob : allow\r\n\
                  INFO : BOB nobody : ALLOW\r\n\
                  report : carol : deny";
    let server = Home::new().passwd(bob.passwd() + &carol.passwd()).access(access).start();
    assert_eq!(rights(&server, Some(&bob)), "ping pong check info");
    assert_eq!(rights(&server, Some(&carol)), "ping pong check");
    assert_eq!(rights(&server, None), "");
    assert_eq!(server.request_as(&bob, "check,report", &[]).code(), 501);
}

#[test]
fn bad_lines_of_the_access_file_are_skipped() {
    let access = "nonsense\nreport : anonymous\ncheck : anonymous : perhaps\ninfo : anonymous : allow # why\n \
                  # indented\npong : anonymous : allow : x\n : anonymous : allow\nwhitelist :  : allow\n\
                  ping : anonymous : allow\n";
    let home = Home::new().access(access);
    let server = home.start();
    assert_eq!(rights(&server, None), "ping");
    for line in
        ["nonsense", "report : anonymous", "check : anonymous : perhaps", "info : anonymous : allow # why"]
    {
        assert_logged(&home, "WARNING", &["Invalid ACL line", line]);
    }
}

#[test]
fn bad_lines_of_the_access_file_are_named() {
    if !ours_only() {
        return;
    }
    let mut access =
        b"\xef\xbb\xbfcheck : anonymous : allow\nnonsense\nreport : anonymous\n# fine\n".to_vec();
    access.extend(b"info : anonymous : perhaps\np\xf6ng : : anonymous : allow\nping : anonymous : allow\n");
    let home = Home::new().access(access);
    let server = home.start();
    // The mark at the beginning, which some editors leave, is no part of the first line.
    assert_eq!(rights(&server, None), "ping check");
    for line in [2, 3, 5, 6] {
        assert_warned(&home, &[&format!("pyzord.access:{line}:")]);
    }
    server.stop();
    for line in [1, 4, 7] {
        assert!(!home.everything_said().contains(&format!("pyzord.access:{line}:")));
    }
}

#[test]
fn names_in_the_access_file_match_in_any_case() {
    if !ours_only() {
        return;
    }
    let (upper, lower) = (Account::new("Upper"), Account::new("lower"));
    let home = Home::new()
        .passwd(upper.passwd() + &lower.passwd())
        .access("ping : upper : allow\npong : Upper : allow\ncheck : LOWER : allow\n");
    let server = home.start();
    assert_eq!(rights(&server, Some(&upper)), "ping pong");
    assert_eq!(rights(&server, Some(&lower)), "check");
    assert_warned(&home, &["upper", "Upper"]);
    assert_warned(&home, &["LOWER", "lower"]);
}

/// Rules that the two orders read differently, and an account they are about.
fn ambiguous() -> (Home, Account) {
    let bob = Account::new("bob");
    let access = "ping : bob : deny\nall : all : allow\nwhitelist : bob : deny\n";
    (Home::new().passwd(bob.passwd()).access(access), bob)
}

#[test]
fn the_first_matching_line_decides_and_differences_are_warned_of() {
    if !ours_only() {
        return;
    }
    let (home, bob) = ambiguous();
    let server = home.start();
    assert_eq!(rights(&server, Some(&bob)), "pong check info report whitelist");
    // Each warning names the lines, the user and the operation, and says whether a right has grown.
    assert_warned(&home, &["ping", "bob", "pyzord.access:1", "2"]);
    assert_warned(&home, &["whitelist", "bob", "pyzord.access:2", "3"]);
    server.stop();
    for line in home.log().lines().filter(|line| line.contains(" WARNING ")) {
        let wider = line.to_lowercase().contains("wider");
        assert_eq!(wider, line.contains("whitelist"), "{line}");
    }
}

#[test]
fn the_last_matching_line_decides_when_asked_for() {
    // The established server knows no other order, and no setting for it.
    let (home, bob) = ambiguous();
    let order = if is_ours() { "AccessOrder = last\n" } else { "" };
    let server = home.config(order).start();
    assert_eq!(rights(&server, Some(&bob)), "ping pong check info report");
    assert_no_warning(server);
}

#[test]
fn the_order_can_be_set_on_the_command_line() {
    if !ours_only() {
        return;
    }
    let (home, bob) = ambiguous();
    let server = home.arguments(&["--access-order", "last"]).start();
    assert_eq!(rights(&server, Some(&bob)), "ping pong check info report");
}

#[test]
fn a_chosen_order_is_not_warned_of() {
    if !ours_only() {
        return;
    }
    let (home, bob) = ambiguous();
    let server = home.config("AccessOrder = first\n").start();
    assert_eq!(rights(&server, Some(&bob)), "pong check info report whitelist");
    assert_no_warning(server);
}

#[test]
fn rules_that_both_orders_read_alike_are_not_warned_of() {
    let (bob, carol) = (Account::new("bob"), Account::new("carol"));
    let access =
        "ping pong : bob : allow\ncheck : carol : allow\nping : bob : allow\nall : anonymous : deny\n";
    let home = Home::new().passwd(bob.passwd() + &carol.passwd()).access(access);
    let server = home.start();
    assert_eq!(rights(&server, Some(&bob)), "ping pong");
    assert_eq!(rights(&server, Some(&carol)), "check");
    assert_eq!(rights(&server, None), "");
    assert_no_warning(server);
}

// Reading them again.

/// Writes both files, tells the server, and waits until this holds.
fn reload(server: &Server, passwd: &str, access: &str, holds: impl Fn() -> bool) {
    server.home().rewrite("pyzord.passwd", passwd);
    server.home().rewrite("pyzord.access", access);
    server.signal(Signal::SIGUSR1);
    eventually("the reload", || holds().then_some(()));
}

/// Requests that flow while the test does something else.
#[derive(Default)]
struct Flow {
    /// How many askers have had a reply.
    begun: AtomicUsize,
    /// Whether the askers are to stop.
    done: AtomicBool,
}

impl Flow {
    /// Pings as fast as replies come, until told to stop; returns the codes of all replies, each run of
    /// equal ones once.
    fn codes(&self, server: &Server, account: Option<&Account>) -> Vec<i64> {
        let mut codes = Vec::new();
        while !self.done.load(Ordering::Relaxed) {
            // A request that gets no reply fails here.
            let reply = match account {
                Some(account) => server.request_as(account, "ping", &[]),
                None => server.request("ping", &[]),
            };
            if codes.is_empty() {
                self.begun.fetch_add(1, Ordering::Relaxed);
            }
            codes.push(reply.code());
        }
        codes.dedup();
        codes
    }

    /// Waits until so many askers have had a reply. They go on as long as what this returns lives, so
    /// that they end with a test that fails, too.
    fn wait_for(&self, askers: usize) -> Flowing<'_> {
        let flowing = Flowing(self);
        eventually("requests to flow", || (self.begun.load(Ordering::Relaxed) == askers).then_some(()));
        flowing
    }
}

/// While this lives, requests flow.
struct Flowing<'a>(&'a Flow);

impl Drop for Flowing<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}

#[test]
fn accounts_come_and_go_while_requests_flow_and_none_is_lost() {
    let [bob, carol, dave] = ["bob", "carol", "dave"].map(Account::new);
    let before = bob.passwd() + &carol.passwd();
    let after = carol.passwd() + &dave.passwd();
    let access = "ping : all anonymous carol dave bob : allow\n";
    let server = Home::new().passwd(&before).access(access).start();
    let flow = Flow::default();

    thread::scope(|scope| {
        let leaving = scope.spawn(|| flow.codes(&server, Some(&bob)));
        let staying = scope.spawn(|| flow.codes(&server, Some(&carol)));
        let coming = scope.spawn(|| flow.codes(&server, Some(&dave)));
        let anonymous = scope.spawn(|| flow.codes(&server, None));
        let flowing = flow.wait_for(4);
        // Nothing changes by this, however often.
        for _ in 0..20 {
            server.signal(Signal::SIGUSR1);
            assert_eq!(server.request_as(&carol, "ping", &[]).code(), 200);
        }
        reload(&server, &after, access, || server.request_as(&dave, "ping", &[]).code() == 200);
        assert_eq!(server.request_as(&bob, "ping", &[]).code(), 401);
        assert_eq!(server.request_as(&carol, "ping", &[]).code(), 200);
        drop(flowing);

        assert!([vec![200], vec![200, 401]].contains(&leaving.join().unwrap()));
        assert_eq!(staying.join().unwrap(), [200]);
        assert!([vec![401], vec![401, 200]].contains(&coming.join().unwrap()));
        assert_eq!(anonymous.join().unwrap(), [200]);
    });
}

#[test]
fn an_account_and_its_right_come_together() {
    if !ours_only() {
        return;
    }
    let bob = Account::new("bob");
    let server = Home::new().passwd("").access("").start();
    let flow = Flow::default();
    thread::scope(|scope| {
        let coming = scope.spawn(|| flow.codes(&server, Some(&bob)));
        let flowing = flow.wait_for(1);
        let holds = || server.request_as(&bob, "ping", &[]).code() == 200;
        reload(&server, &bob.passwd(), "ping : bob : allow\n", holds);
        drop(flowing);
        let codes = coming.join().unwrap();
        // Never known yet without a right.
        assert!([vec![401], vec![401, 200]].contains(&codes), "{codes:?}");
    });
}

#[test]
fn permissions_change_at_a_reload() {
    let bob = Account::new("bob");
    let server = Home::new().passwd(bob.passwd()).access("ping : bob : allow\n").start();
    assert_eq!(rights(&server, Some(&bob)), "ping");
    for (access, wanted) in
        [("pong : bob : allow\n", "pong"), ("", ""), ("nonsense\nping : bob : allow\n", "ping")]
    {
        reload(&server, &bob.passwd(), access, || rights(&server, Some(&bob)) == wanted);
    }
    assert_logged(server.home(), "INFO", &["SIGUSR1 received. Reloading configuration."]);
}

#[test]
fn files_that_vanish_before_a_reload_give_way_to_the_default() {
    let bob = Account::new("bob");
    let home = Home::new().passwd(bob.passwd()).access("ping : bob : allow\nwhitelist : anonymous : allow\n");
    let server = home.start();
    assert_eq!(rights(&server, None), "whitelist");
    fs::remove_file(home.path("pyzord.access")).unwrap();
    server.signal(Signal::SIGUSR1);
    let default = "ping pong check info report";
    eventually("the default rules", || (rights(&server, None) == default).then_some(()));
    assert_eq!(rights(&server, Some(&bob)), "");
    fs::remove_file(home.path("pyzord.passwd")).unwrap();
    server.signal(Signal::SIGUSR1);
    eventually("no account", || (server.request_as(&bob, "ping", &[]).code() == 401).then_some(()));
    assert_eq!(rights(&server, None), default);
    if is_ours() {
        assert_logged(&home, "WARNING", &["pyzord.access", "vanished"]);
        assert_logged(&home, "WARNING", &["pyzord.passwd", "vanished"]);
    }
}

#[test]
fn a_file_that_cannot_be_read_leaves_both_as_they_were() {
    if !ours_only() {
        return;
    }
    let (bob, carol) = (Account::new("bob"), Account::new("carol"));
    for unreadable in ["pyzord.access", "pyzord.passwd"] {
        let home = Home::new().passwd(bob.passwd()).access("ping : all : allow\n").unprivileged();
        let server = home.start();
        assert_eq!(rights(&server, Some(&bob)), "ping");
        home.rewrite("pyzord.passwd", carol.passwd());
        home.rewrite("pyzord.access", "pong : all : allow\n");
        fs::set_permissions(home.path(unreadable), Permissions::from_mode(0o000)).unwrap();
        server.signal(Signal::SIGUSR1);
        assert_logged(&home, "ERROR", &[unreadable]);
        assert_eq!(rights(&server, Some(&bob)), "ping");
        assert_eq!(server.request_as(&carol, "ping", &[]).code(), 401);
        // Once it can be read again, both take effect.
        fs::set_permissions(home.path(unreadable), Permissions::from_mode(0o600)).unwrap();
        server.signal(Signal::SIGUSR1);
        eventually("the reload", || (server.request_as(&carol, "pong", &[]).code() == 200).then_some(()));
        assert_eq!(server.request_as(&bob, "ping", &[]).code(), 401);
    }
}

#[test]
fn a_folder_in_place_of_a_file_leaves_both_as_they_were() {
    if !ours_only() {
        return;
    }
    let bob = Account::new("bob");
    let home = Home::new().passwd(bob.passwd()).access("ping : all : allow\n");
    let server = home.start();
    home.rewrite("pyzord.passwd", "");
    fs::remove_file(home.path("pyzord.access")).unwrap();
    fs::create_dir(home.path("pyzord.access")).unwrap();
    server.signal(Signal::SIGUSR1);
    assert_logged(&home, "ERROR", &["pyzord.access"]);
    assert_eq!(rights(&server, Some(&bob)), "ping");
}

#[test]
fn a_passwd_file_that_others_may_read_or_write_is_warned_of() {
    if !ours_only() {
        return;
    }
    let bob = Account::new("bob");
    let home = Home::new().passwd(bob.passwd());
    let passwd = home.path("pyzord.passwd");
    let mend = format!("chmod o= {}", passwd.display());
    fs::set_permissions(&passwd, Permissions::from_mode(0o644)).unwrap();
    let server = home.start();
    assert_warned(&home, &[&passwd.display().to_string(), "open to every user", &mend]);
    assert!(!home.everything_said().contains(bob.key()));
    for (mode, warnings) in [(0o640, 1), (0o602, 2), (0o660, 2)] {
        fs::set_permissions(&passwd, Permissions::from_mode(mode)).unwrap();
        let reloads = home.log().matches("Accounts: bob").count();
        server.signal(Signal::SIGUSR1);
        eventually("a reload", || (home.log().matches("Accounts: bob").count() > reloads).then_some(()));
        eventually("its warnings", || (home.log().matches(&mend).count() == warnings).then_some(()));
    }
    assert!(server.stop().success());
    assert_eq!(home.log().matches(&mend).count(), 2);
}
