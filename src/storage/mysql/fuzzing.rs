//! Fuzzing of three things: decoding rows, statements (no content of a table may escape its quotes), and `DigestDB`.

use mysql_async::Value;

use super::rows::{of_columns, of_held, of_record};
use super::table::MySqlTable;
use super::target::MySqlTarget;
use crate::fuzz_models::{FuzzInput, any_record};
use crate::record::{Record, TallyKind, Timestamp};
use pyzor_wire::digest::Digest;

/// Returns the column values that the engine stores for a record in 32-bit columns, and the record read back from them.
pub fn through_rows(record: &Record) -> (String, Option<Record>) {
    let stored = table(31).clamp(record);
    let values = columns(&stored);
    (format!("{values:?}"), of_record(values.into_iter()))
}

/// Parses `DigestDB`. Returns the description for messages, and everything parsed, including the password.
pub(crate) fn parse_dsn(dsn: &str) -> Result<(String, String), String> {
    MySqlTarget::parse(dsn).map(|target| (target.describe(), format!("{target:?}"))).map_err(|error| error.0)
}

/// The fuzz target: arbitrary records and rows.
pub(crate) fn target(bytes: &[u8]) {
    let mut input = FuzzInput::new(bytes);
    let table = table(input.pick(&[31, 63, 32, 7, 8]));
    let record = any_record(&mut input);
    check_record(&table, &record);
    let keys = [input.until(0), input.until(0)];
    check_statement(&table.read(keys.into_iter()), 2);
    while !input.is_empty() {
        let row: Vec<Value> = (0..input.byte() % 9).map(|_| value(&mut input)).collect();
        let (_, found) = of_columns(row.iter().cloned());
        check_row(&row, found);
        let item = of_held(row.into_iter());
        if item.record.is_ok() {
            check_statement(&table.delete(&[item.clone(), item]), 4);
        }
    }
}

fn value(input: &mut FuzzInput<'_>) -> Value {
    match input.byte() % 10 {
        0 => Value::NULL,
        1 => Value::Int(input.number()),
        2 => Value::UInt(input.number() as u64),
        3 => Value::Double(f64::from_bits(input.number() as u64)),
        4 => Value::Date(2026, 11, 22, 10, 26, 46, u32::from(input.byte())),
        5 => Value::Bytes(input.number().to_string().into_bytes()),
        // The form of the `held` text.
        6 => Value::Bytes((0..6).map(|_| held(input)).collect::<Vec<_>>().join("|").into_bytes()),
        _ => Value::Bytes(input.until(0).to_vec()),
    }
}

fn held(input: &mut FuzzInput<'_>) -> String {
    match input.byte() % 3 {
        0 => "N".to_owned(),
        1 => input.number().to_string(),
        _ => input.text_until(0),
    }
}

/// A table whose count columns have this many bits besides the sign.
fn table(bits: u32) -> MySqlTable {
    let limit = i64::MAX >> (63 - bits);
    MySqlTable {
        name: "`a`.`b`".to_owned(),
        limits: [limit; 2],
        floors: [if bits.is_multiple_of(2) { 0 } else { -limit - 1 }; 2],
        wants_all_times: bits == 32,
        updates_times: bits == 31,
        is_transactional: true,
        rows: 10,
        long_rows: 10,
    }
}

/// The values that the server returns for a record.
fn columns(record: &Record) -> Vec<Value> {
    let text = |number: i64| Value::Bytes(number.to_string().into_bytes());
    let time = |time: Option<Timestamp>| time.map_or(Value::NULL, |time| text(time.seconds()));
    [record.reports, record.whitelists]
        .into_iter()
        .flat_map(|tally| [text(tally.count), time(tally.first), time(tally.last)])
        .collect()
}

/// Checks that a clamped record is read back unchanged, and that statements with it are well formed.
fn check_record(table: &MySqlTable, record: &Record) {
    let stored = table.clamp(record);
    assert_eq!(table.clamp(&stored), stored);
    assert_eq!(of_record(columns(&stored).into_iter()), Some(stored));
    for (tally, given) in [(stored.reports, record.reports), (stored.whitelists, record.whitelists)] {
        assert!(tally.count <= table.limits[0] && tally.count >= table.floors[0]);
        assert!(tally.count == given.count || given.count > table.limits[0] || given.count < table.floors[0]);
        // Servers convert only these times into dates.
        let times = [tally.first, tally.last].into_iter().flatten();
        assert!(times.map(Timestamp::seconds).all(|time| (1..=i64::from(i32::MAX)).contains(&time)));
    }
    let digests = [Digest::from_bytes([1; 20]), Digest::from_bytes([0xab; 20])];
    let rows = digests.map(|digest| (digest, stored));
    check_statement(&table.store(&rows), 2);
    check_statement(&table.add(&rows), 2);
    for kind in [TallyKind::Report, TallyKind::Whitelist] {
        check_statement(&table.count(kind, &digests.map(|digest| (digest, u32::MAX)), Timestamp::now()), 2);
    }
}

/// Checks that a decoded record has the numbers of its row.
fn check_row(row: &[Value], found: Option<Record>) {
    let Some(found) = found else { return };
    let number = |at: usize| match row.get(at) {
        Some(Value::Bytes(text)) => {
            let text = String::from_utf8_lossy(text);
            let whole = text.split('.').next().unwrap_or_default().to_owned();
            let number: i128 = whole.parse().unwrap_or_else(|_| panic!("{text:?} is a number"));
            Some(number.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
        }
        Some(Value::Int(number)) => Some(*number),
        Some(Value::UInt(number)) => Some((*number).min(i64::MAX as u64) as i64),
        Some(Value::NULL) => Some(0),
        _ => None,
    };
    for (tally, at) in [(found.reports, 1), (found.whitelists, 4)] {
        assert_eq!(Some(tally.count), number(at));
        let expected = if tally.count == 0 { [None; 2] } else { [at + 1, at + 2].map(number) };
        let given = [tally.first, tally.last].map(|time| time.map(Timestamp::seconds));
        // Timestamps saturate at the range of their microseconds.
        let near = |seconds: i64| Timestamp::from_seconds(seconds).seconds();
        assert_eq!(given, expected.map(|seconds| seconds.filter(|seconds| *seconds != 0).map(near)));
    }
}

/// Checks that a statement has at least `least` string literals, and that nothing escapes from their quotes.
fn check_statement(sql: &str, least: usize) {
    let (mut texts, mut depth) = (0, 0);
    let mut rest = sql.chars();
    while let Some(character) = rest.next() {
        match character {
            '\'' | '`' => {
                let text: String = rest.by_ref().take_while(|next| *next != character).collect();
                assert!(!text.contains(['\\', '\'', '`', '"', '\0']), "{text:?} in {sql:?}");
                texts += usize::from(character == '\'');
            }
            '(' => depth += 1,
            ')' => depth -= 1,
            ';' | '#' | '"' | '\\' => panic!("{character} in {sql:?}"),
            _ => {}
        }
    }
    assert!(depth == 0 && texts >= least && !sql.contains("--"), "{sql:?}");
}
