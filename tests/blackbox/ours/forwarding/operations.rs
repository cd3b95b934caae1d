//! `ForwardOps`: the operations that are forwarded.

use crate::harness::{Home, Remote, digest};

#[test]
fn only_the_operations_of_forward_ops_are_forwarded() {
    for (ops, expected) in [("report", "report"), ("whitelist", "whitelist")] {
        let remote = Remote::accepting();
        let home = Home::open()
            .config(&format!("ForwardOps = {ops}\nForwardDelay = 0\n"))
            .forwarding_to(&[remote.name()]);
        let server = home.start();
        for operation in ["whitelist", "report", "check", "whitelist", "report"] {
            assert_eq!(server.request(operation, &[&digest(1)]).code(), 200);
        }
        // A stop sends what is due.
        assert!(server.stop().success());
        remote.receives(2);
        assert!(remote.requests().iter().all(|request| request.operation() == expected));
    }
}
