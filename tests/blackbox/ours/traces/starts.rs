//! Starts on systems that lack a feature or an interface.

use std::fs;
use std::process::Command;

use crate::harness::{Home, Server, finish};

/// Returns the command of a server at this address, with strace injecting failures into its system calls.
fn injected(home: &Home, address: &str, injection: &str) -> Command {
    let trace = home.parent().join("trace");
    let script = format!("exec strace -f -qq -o '{}' -e {injection} \"$@\" -a {address}", trace.display());
    home.under(&script, false)
}

/// Whether the injected failure occurred in the last server.
fn was_injected(home: &Home) -> bool {
    fs::read_to_string(home.parent().join("trace")).unwrap().contains("(INJECTED)")
}

/// Fails each socket option of a start, alone and together with all later ones.
#[test]
fn refused_socket_option_is_a_warning_only() {
    for (address, error) in [("0.0.0.0", "EPERM"), ("::", "ENOPROTOOPT")] {
        let mut number = 1;
        loop {
            let home = Home::open();
            let plus = if number % 2 == 0 { "+" } else { "" };
            let injection = format!("inject=setsockopt:error={error}:when={number}{plus}");
            let mut server = Server::start(&home, injected(&home, address, &injection));
            server.serves(&mut home.caller());
            if !was_injected(&home) {
                break;
            }
            assert!(server.is_running());
            number += 1;
            // The options of spare sockets repeat.
            if number > 20 {
                break;
            }
        }
        assert!(number > 12, "only {number} options were set");
    }
}

#[test]
fn a_refused_socket_option_is_named_in_the_log() {
    let home = Home::open();
    let mut server = Server::start(&home, injected(&home, "::", "inject=setsockopt:error=ENOPROTOOPT"));
    server.serves(&mut home.caller());
    let log = home.log();
    for option in ["IPV6_V6ONLY", "SO_RXQ_OVFL", "SO_RCVBUF", "SO_SNDBUF", "IPV6_RECVPKTINFO", "UDP_SEGMENT"]
    {
        let line = format!("WARNING cannot set the socket option {option}: ");
        assert!(log.contains(&line), "{option}: {log}");
    }
    assert!(log.contains("opened only 0 of 16 spare sockets"), "{log}");
}

#[test]
fn an_ipv6_address_on_a_kernel_without_ipv6_is_explained() {
    let home = Home::open();
    let injection = "inject=socket:error=EAFNOSUPPORT";
    finish(injected(&home, "::", injection)).expect_line(&["[::]", "does not support IPv6", "0.0.0.0"]);
}

#[test]
fn a_link_local_address_without_its_interface_is_explained() {
    let home = Home::open();
    let mut command = home.command();
    command.args(["-a", "fe80::1"]);
    finish(command).expect_line(&["fe80::1%INTERFACE", "ListenAddress"]);
}
