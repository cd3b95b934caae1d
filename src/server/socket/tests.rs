use super::*;

fn pair() -> (UdpSocket, UdpSocket) {
    let server = bind("127.0.0.1", 0).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(local_address(&server).unwrap()).unwrap();
    (server, client)
}

fn texts(inbox: &Inbox) -> Vec<String> {
    inbox.datagrams().map(|(datagram, _)| String::from_utf8(datagram.to_vec()).unwrap()).collect()
}

#[test]
fn a_batch_is_received_in_order_with_its_senders() {
    let (server, client) = pair();
    for text in ["one", "", "three"] {
        client.send(text.as_bytes()).unwrap();
    }
    let mut inbox = Inbox::default();
    inbox.receive(&server).unwrap();
    assert_eq!(texts(&inbox), ["one", "", "three"]);
    assert!(inbox.datagrams().all(|(_, peer)| peer == client.local_addr().unwrap()));
    assert_eq!(inbox.receive(&server), Err(Errno::EAGAIN));
    assert!(inbox.is_empty());
}

#[test]
fn a_datagram_is_cut_at_the_limit() {
    let (server, client) = pair();
    client.send(&vec![b'x'; MAX_DATAGRAM + 1000]).unwrap();
    let mut inbox = Inbox::default();
    inbox.receive(&server).unwrap();
    assert_eq!(inbox.datagrams().map(|(datagram, _)| datagram.len()).collect::<Vec<_>>(), [MAX_DATAGRAM]);
}

/// Headers that are used again come back without room for the kernel's count.
#[test]
fn drops_are_still_counted_after_many_batches() {
    let (server, client) = pair();
    setsockopt(&server, sockopt::RcvBuf, &4096).unwrap();
    let mut inbox = Inbox::default();
    let mut counts = Vec::new();
    for _ in 0..3 {
        for _ in 0..50 {
            client.send(&[b'x'; 1000]).unwrap();
        }
        // The kernel says with a datagram how many were dropped before that one.
        while inbox.receive(&server).is_ok() {}
        client.send(b"after the drops").unwrap();
        inbox.next_look = Some(Instant::now());
        inbox.receive(&server).unwrap();
        counts.push(inbox.kernel_drops());
        while inbox.receive(&server).is_ok() {}
    }
    assert!(counts[0] > 0 && counts[1] > counts[0] && counts[2] > counts[1], "{counts:?}");
}

#[test]
fn addresses_are_bound_as_the_settings_name_them() {
    let local = |address| local_address(&bind(address, 0).unwrap()).unwrap().ip().to_string();
    assert_eq!(local(""), "0.0.0.0");
    assert_eq!(local("localhost"), "127.0.0.1");
    assert_eq!(local("::1"), "::1");
    assert_eq!(local("[::1]"), "::1");
    assert_eq!(local("::"), "::");
}

#[test]
fn a_taken_port_and_an_unknown_host_are_told_in_one_line() {
    let first = bind("127.0.0.1", 0).unwrap();
    let address = local_address(&first).unwrap();
    let error = bind("127.0.0.1", address.port()).unwrap_err();
    assert!(matches!(error, BindError::InUse { address: taken } if taken == address), "{error}");
    let error = bind("no such host", 1).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot resolve the address no such host: ") && !error.contains('\n'),
        "{error}"
    );
    let error = bind("192.0.2.1", 1).unwrap_err().to_string();
    assert!(error.starts_with("cannot listen on 192.0.2.1:1: "), "{error}");
}
