use super::*;

fn rules() -> AdmissionRules {
    AdmissionRules {
        allow: Networks::default(),
        deny: Networks::default(),
        rates: [0; 3],
        burst: 2,
        exempt: Networks::default(),
        log_only: false,
        prefix: (24, 56),
        table: 1024,
    }
}

fn networks(text: &str) -> Networks {
    text.parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Sends ten datagrams at once and returns how many are admitted.
fn admitted(gate: &mut Gate, from: &str) -> usize {
    (0..10).filter(|_| matches!(gate.enter(address(from)), Admission::Admitted(_))).count()
}

/// Counts ten towards a limit at once and returns how many are not dropped.
fn kept(gate: &mut Gate, from: &str, limit: RateLimit) -> usize {
    let Admission::Admitted(source) = gate.enter(address(from)) else { return 0 };
    (0..10).filter(|_| !gate.exceeds(source, limit)).count()
}

#[test]
fn rules_that_accept_everything_need_no_gate() {
    assert!(Gate::new(rules()).is_none());
    assert!(
        Gate::new(AdmissionRules { exempt: networks("10.0.0.0/8"), log_only: true, ..rules() }).is_none()
    );
    for some in [
        AdmissionRules { allow: networks("::1"), ..rules() },
        AdmissionRules { deny: networks("::1"), ..rules() },
        AdmissionRules { rates: [0, 0, 1], ..rules() },
    ] {
        assert!(Gate::new(some).is_some());
    }
}

#[test]
fn deny_overrides_allow() {
    let (allow, deny) = (networks("192.0.2.0/24 2001:db8::/32"), networks("192.0.2.7,2001:db8:1::/48"));
    let mut gate = Gate::new(AdmissionRules { allow, deny: deny.clone(), ..rules() }).unwrap();
    let is_accepted = |gate: &mut Gate, from: &str| gate.enter(address(from)) != Admission::Denied;
    for from in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"] {
        assert!(is_accepted(&mut gate, from), "{from}");
    }
    for from in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8:1::1", "198.51.100.1", "::1"] {
        assert!(!is_accepted(&mut gate, from), "{from}");
    }
    let mut gate = Gate::new(AdmissionRules { deny, ..rules() }).unwrap();
    assert!(is_accepted(&mut gate, "198.51.100.1") && !is_accepted(&mut gate, "::ffff:192.0.2.7"));
}

#[test]
fn addresses_of_a_prefix_share_one_limit() {
    let mut gate = Gate::new(AdmissionRules { rates: [2, 0, 0], ..rules() }).unwrap();
    assert_eq!(admitted(&mut gate, "192.0.2.1"), 4);
    assert_eq!(admitted(&mut gate, "192.0.2.200"), 0);
    assert_eq!(admitted(&mut gate, "::ffff:192.0.2.3"), 0);
    assert_eq!(admitted(&mut gate, "192.0.3.1"), 4);
    assert_eq!(admitted(&mut gate, "2001:db8:0:1::1"), 4);
    assert_eq!(admitted(&mut gate, "2001:db8:0:ff::1"), 0);
    assert_eq!(admitted(&mut gate, "2001:db8:0:100::1"), 4);
    assert_eq!(gate.exceeded(), [10 * 7 - 16, 0, 0]);
    gate.set_time(Instant::now() + Duration::from_millis(600));
    assert_eq!(admitted(&mut gate, "192.0.2.1"), 1);
    gate.set_time(Instant::now() + Duration::from_secs(3600));
    assert_eq!(admitted(&mut gate, "192.0.2.1"), 4);
}

#[test]
fn prefix_lengths_are_configurable() {
    for (widths, same, other) in [
        ((32, 64), ("192.0.2.1", "192.0.2.1"), ("192.0.2.1", "192.0.2.2")),
        ((8, 56), ("10.1.1.1", "10.2.2.2"), ("10.1.1.1", "11.1.1.1")),
        ((24, 64), ("2001:db8::1", "2001:db8::ffff:1"), ("2001:db8::1", "2001:db8:0:1::1")),
        ((24, 16), ("2001:db8::1", "2001:ffff::1"), ("2001:db8::1", "2002:db8::1")),
    ] {
        let number = |text| prefix(address(text), widths);
        assert_eq!(number(same.0), number(same.1));
        assert_ne!(number(other.0), number(other.1));
    }
    // Prefixes of different families never collide.
    assert_ne!(prefix(address("0.0.0.0"), (24, 56)), prefix(address("::1"), (24, 56)));
}

#[test]
fn limits_are_independent() {
    let mut gate = Gate::new(AdmissionRules { rates: [0, 1, 2], ..rules() }).unwrap();
    assert_eq!(kept(&mut gate, "192.0.2.1", RateLimit::Errors), 2);
    assert_eq!(kept(&mut gate, "192.0.2.1", RateLimit::Writes), 4);
    assert_eq!(kept(&mut gate, "192.0.2.1", RateLimit::Requests), 10);
    assert_eq!(admitted(&mut gate, "192.0.2.1"), 10);
    assert_eq!(gate.exceeded(), [0, 8, 6]);
}

#[test]
fn highest_excess_is_named_by_prefix_and_forgotten() {
    let mut gate = Gate::new(AdmissionRules { rates: [1, 1, 0], ..rules() }).unwrap();
    for (address, calls) in
        [("192.0.2.1", 1), ("192.0.3.1", 3), ("2001:db8::1", 2), ("192.0.3.200", 1), ("198.51.100.1", 1)]
    {
        for _ in 0..calls {
            admitted(&mut gate, address);
        }
    }
    let highest = [("192.0.3.0/24", 38), ("2001:db8::/56", 18), ("192.0.2.0/24", 8)];
    assert_eq!(gate.take_highest_excess(), highest.map(|(prefix, count)| (prefix.to_owned(), count)));
    assert!(gate.take_highest_excess().is_empty());
}

#[test]
fn exempt_networks_and_log_only_mode_drop_nothing() {
    let exempt = networks("192.0.2.0/24");
    let mut gate = Gate::new(AdmissionRules { rates: [1, 1, 1], exempt, ..rules() }).unwrap();
    assert_eq!(admitted(&mut gate, "192.0.2.1"), 10);
    assert_eq!(admitted(&mut gate, "::ffff:192.0.2.1"), 10);
    assert_eq!(kept(&mut gate, "192.0.2.1", RateLimit::Writes), 10);
    assert_eq!((admitted(&mut gate, "192.0.3.1"), gate.exceeded()), (2, [8, 0, 0]));

    let mut gate = Gate::new(AdmissionRules { rates: [1, 0, 0], log_only: true, ..rules() }).unwrap();
    assert_eq!(
        (admitted(&mut gate, "192.0.3.1"), gate.exceeded(), gate.only_reports()),
        (10, [8, 0, 0], true)
    );
}
