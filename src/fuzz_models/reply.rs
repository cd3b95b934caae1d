//! A check of encoded replies with an independent parser.

use std::collections::BTreeMap;

use pyzor_wire::reply::{Answer, Refusal};
use pyzor_wire::reply_reader::{Code, ReceivedReply};

/// The longest reply without its thread, in bytes.
const LONGEST: usize = 1024;

/// Checks that a reply reports the outcome and echoes the thread.
pub(crate) fn check_reply(reply: &[u8], thread: &[u8], outcome: Result<Answer, Refusal>) {
    let shown = || format!("{} to thread {}", reply.escape_ascii(), thread.escape_ascii());
    let echoed = echoed(thread);
    assert!(reply.len() <= LONGEST + echoed.len(), "too long: {}", shown());
    let fields = parse(reply).unwrap_or_else(|| panic!("cannot be parsed: {}", shown()));
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    let expected: &[&str] = match outcome {
        Ok(Answer::Done) | Err(_) => &["Code", "Diag", "PV", "Thread"],
        Ok(Answer::Counts(_)) => &["Code", "Diag", "PV", "Thread", "Count", "WL-Count"],
        Ok(Answer::Details(..)) => &[
            "Code",
            "Diag",
            "PV",
            "Thread",
            "Entered",
            "Updated",
            "WL-Entered",
            "WL-Updated",
            "Count",
            "WL-Count",
        ],
    };
    assert_eq!(names, expected, "{}", shown());
    let fields: BTreeMap<&str, &[u8]> =
        fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    let (code, diagnosis) = match outcome {
        Ok(_) => (200, "OK"),
        Err(refusal) => (refusal.code(), refusal.diagnosis()),
    };
    assert_eq!(fields["Code"], code.to_string().as_bytes(), "{}", shown());
    assert_eq!(fields["Diag"], diagnosis.as_bytes(), "{}", shown());
    assert_eq!(fields["PV"], b"2.1", "{}", shown());
    assert_eq!(fields["Thread"], echoed, "{}", shown());
    if let Ok(Answer::Counts(counts) | Answer::Details(_, counts)) = outcome {
        assert_eq!(fields["Count"], counts.reports.to_string().as_bytes(), "{}", shown());
        assert_eq!(fields["WL-Count"], counts.whitelists.to_string().as_bytes(), "{}", shown());
    }
    if let Ok(Answer::Details(times, _)) = outcome {
        let all = [times.entered, times.updated, times.wl_entered, times.wl_updated];
        for (name, seconds) in ["Entered", "Updated", "WL-Entered", "WL-Updated"].into_iter().zip(all) {
            assert_eq!(fields[name], seconds.to_string().as_bytes(), "{name}: {}", shown());
        }
    }
    check_against_reader(reply, &echoed, code);
}

/// Checks that the reply parser of clients finds the thread and the code.
fn check_against_reader(reply: &[u8], echoed: &[u8], code: u16) {
    let number = std::str::from_utf8(echoed.trim_ascii())
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u64>().is_ok());
    // It ignores blanks around the thread in refusals only, because successes take a shortcut.
    let exact = std::str::from_utf8(echoed).is_ok_and(|text| text.trim_ascii() == text);
    if let Some(number) = number.filter(|_| exact) {
        let read = ReceivedReply::parse(reply).map(|reply| (reply.thread, reply.code));
        assert_eq!(read, number.parse().ok().map(|thread| (thread, Code::Number(code))));
    }
}

/// Returns the expected echo of a thread: every line end becomes a blank.
fn echoed(thread: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, byte) in thread.iter().enumerate() {
        match byte {
            b'\n' if at > 0 && thread[at - 1] == b'\r' => {}
            b'\n' | b'\r' => out.push(b' '),
            byte => out.push(*byte),
        }
    }
    out
}

/// Parses a reply into names and values: lines `name: value`, and an empty line at the end.
fn parse(reply: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let lines = reply.strip_suffix(b"\n\n")?.split(|byte| *byte == b'\n');
    lines
        .map(|line| {
            let colon = line.windows(2).position(|pair| pair == b": ")?;
            let name = String::from_utf8(line[..colon].to_vec()).ok()?;
            let is_name = name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
            (is_name && !line.contains(&b'\r')).then(|| (name, line[colon + 2..].to_vec()))
        })
        .collect()
}
