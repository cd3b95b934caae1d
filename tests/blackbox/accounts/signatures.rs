//! Signatures, and the passwd file with the keys.

use super::rights;
use crate::harness::{Account, Home, eventually, unix_time};

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
