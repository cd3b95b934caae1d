//! Signatures, and the keys of the passwd file.

use super::rights;
use crate::harness::{Account, Home, eventually, unix_time};

#[test]
fn only_the_correct_key_of_a_known_account_is_accepted() {
    let bob = Account::new("bob");
    let server =
        Home::new().passwd(bob.passwd()).access("ping : bob : allow\npong : anonymous : allow\n").start();
    assert_eq!(server.request_as(&bob, "ping", &[]).code(), 200);
    assert_eq!(server.request_as(&bob, "pong", &[]).code(), 403);
    let wrong_key = Account::with_key("bob", Account::new("eve").key());
    for stranger in [wrong_key, Account::with_key("Bob", bob.key()), Account::with_key("bob ", bob.key())] {
        assert_eq!(server.request_as(&stranger, "ping", &[]).code(), 401);
    }
    // Keys are case-insensitive.
    let upper = Account::with_key("bob", &bob.key().to_uppercase());
    assert_eq!(server.request_as(&upper, "ping", &[]).code(), 200);
    let home = Home::new().passwd(upper.passwd()).access("ping : bob : allow\n");
    assert_eq!(home.start().request_as(&bob, "ping", &[]).code(), 200);
}

#[test]
fn signature_covers_the_request_as_the_python_server_reads_it() {
    let bob = Account::new("bob");
    let server = Home::open().passwd(bob.passwd()).access("all : bob : allow\n").start();
    let time = unix_time();
    let tail = format!("User: bob\nTime: {time}");
    // Each request, in which `@` stands for the signature, and the text that is signed.
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
        // The signature does not fit another request.
        let forged = request.replacen("ping", "pong", 1);
        let reply = String::from_utf8(server.ask(&forged)).unwrap();
        assert!(reply.starts_with("Code: 401\n"), "{} to {}", reply.escape_debug(), forged.escape_debug());
        // The signature is case-sensitive.
        let upper = wire.replace('@', &bob.signature(&text, time).to_uppercase());
        assert!(server.ask(&upper).starts_with(b"Code: 401\n"), "{}", upper.escape_debug());
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
        // Blanks before a value are not signed.
        let signed = format!("{headers}User: bob\nTime: {}", written.trim());
        let request =
            format!("{headers}User: bob\nTime: {written}\nSig: {}\n\n", bob.signature(&signed, time));
        assert!(server.ask(&request).starts_with(b"Code: 200\n"), "{}", request.escape_debug());
    }
}

#[test]
fn signature_is_valid_five_minutes_before_and_after_its_time() {
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

#[test]
fn passwd_file_is_read_as_by_the_python_server() {
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
