//! The requirements on the columns and indexes of the table of records.

use super::table::COLUMN_NAMES;
use pyzor_wire::digest::HEX_LEN;

const COUNTS: [&str; 2] = ["r_count", "wl_count"];
const TIMES: [&str; 4] = ["r_entered", "wl_entered", "r_updated", "wl_updated"];
const WHOLE_NUMBERS: [&str; 5] = ["tinyint", "smallint", "mediumint", "int", "bigint"];
const DATES_AND_TIMES: [&str; 2] = ["datetime", "timestamp"];

/// The columns and unique indexes of a table.
pub(super) struct TableShape {
    /// The table's quoted name.
    pub(super) table: String,
    pub(super) columns: Vec<TableColumn>,
    pub(super) unique: Vec<UniqueIndex>,
}

/// A column, as `SHOW COLUMNS` describes it.
pub(super) struct TableColumn {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) is_nullable: bool,
    pub(super) default: Option<String>,
    /// Further properties, such as `auto_increment`.
    pub(super) extra: String,
}

pub(super) struct UniqueIndex {
    pub(super) name: String,
    pub(super) parts: Vec<IndexPart>,
}

/// One column of an index.
pub(super) struct IndexPart {
    pub(super) column: String,
    /// Whether the index has the whole values, not only a prefix of them.
    pub(super) is_whole: bool,
}

impl TableShape {
    fn column(&self, name: &str) -> Option<&TableColumn> {
        self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// Returns why records cannot be read or distinguished; `None` if they can.
    pub(super) fn why_unreadable(&self) -> Option<String> {
        let table = &self.table;
        let wanted = [&["digest"][..], &COUNTS, &TIMES].concat();
        if let Some(missing) = wanted.into_iter().find(|name| self.column(name).is_none()) {
            return Some(format!("the table {table} has no column {missing}"));
        }
        let digest = &self.column("digest")?.kind;
        if digest.to_ascii_lowercase().starts_with("binary(") && width(digest) > Some(HEX_LEN) {
            return Some(format!(
                "the column digest of the table {table} is {digest}, which pads digests with zero bytes: remove the \
                 zero bytes from its values, then run ALTER TABLE {table} MODIFY digest char({HEX_LEN}) CHARACTER SET \
                 ascii NOT NULL"
            ));
        }
        if width(digest).is_some_and(|width| width < HEX_LEN) {
            return Some(format!(
                "the column digest of the table {table} is {digest}, too narrow for 40 digits: run ALTER TABLE {table} \
                 MODIFY digest char({HEX_LEN}) NOT NULL"
            ));
        }
        if !self.unique.iter().any(|index| index.parts.len() == 1 && is_digest(&index.parts[0])) {
            return Some(format!(
                "the table {table} has no unique index of whole digests, so it may have several rows for one digest, \
                 or one row for several digests: run ALTER TABLE {table} ADD PRIMARY KEY (digest)"
            ));
        }
        None
    }

    /// Returns why changes of records would store wrong counts or times; `None` if they would not.
    pub(super) fn why_unchangeable(&self) -> Option<String> {
        let table = &self.table;
        let kinds = [
            (&COUNTS[..], &WHOLE_NUMBERS[..], "whole numbers", "int"),
            (&TIMES, &DATES_AND_TIMES, "a date with a time of day", "datetime"),
        ];
        for (names, kinds, content, usual) in kinds {
            let is_wrong = |column: &&TableColumn| !kinds.contains(&type_name(&column.kind).as_str());
            if let Some(TableColumn { name, kind, .. }) =
                names.iter().filter_map(|name| self.column(name)).find(is_wrong)
            {
                return Some(format!(
                    "the column {name} of the table {table} is {kind}, which cannot store {content}: run ALTER TABLE \
                     {table} MODIFY {name} {usual}"
                ));
            }
        }
        let index =
            self.unique.iter().find(|index| !index.parts.iter().any(|part| self.is_harmless(part)))?;
        let name = format!("`{}`", index.name.replace('`', "``"));
        Some(format!(
            "the unique index {name} of the table {table} does not contain the whole digest, so a report could be \
             counted for another digest: run ALTER TABLE {table} DROP INDEX {name}"
        ))
    }

    /// Whether a new row never equals an existing row in this part of an index, unless it has the same digest.
    fn is_harmless(&self, part: &IndexPart) -> bool {
        let is_always_new = |column: &TableColumn| {
            let extra = column.extra.to_ascii_lowercase();
            let is_ours = COLUMN_NAMES.iter().any(|name| column.name.eq_ignore_ascii_case(name));
            // A unique index allows any number of NULLs.
            let is_null = column.is_nullable && column.default.is_none() && !is_ours;
            extra.contains("auto_increment") || is_null && !extra.contains("generated")
        };
        is_digest(part) || self.column(&part.column).is_some_and(is_always_new)
    }

    /// Returns the smallest and the largest value of `r_count` and of `wl_count`.
    pub(super) fn limits(&self) -> [(i64, i64); 2] {
        COUNTS.map(|name| limits(self.column(name).map_or("int", |column| &column.kind)))
    }

    /// Whether a time is `ON UPDATE CURRENT_TIMESTAMP`, which older servers make the first `timestamp` column by
    /// default.
    pub(super) fn updates_times(&self) -> bool {
        let is_updated = |column: &TableColumn| column.extra.to_ascii_lowercase().contains("on update");
        TIMES.iter().filter_map(|name| self.column(name)).any(is_updated)
    }

    /// Whether a new row needs a value for every time.
    pub(super) fn wants_all_times(&self) -> bool {
        let is_required = |column: &TableColumn| !column.is_nullable && column.default.is_none();
        TIMES.iter().any(|name| self.column(name).is_some_and(is_required))
    }
}

fn is_digest(part: &IndexPart) -> bool {
    part.is_whole && part.column.eq_ignore_ascii_case("digest")
}

/// The number in the parentheses of a type such as `char(40)`.
fn width(kind: &str) -> Option<usize> {
    kind.split_once('(')?.1.split_once(')')?.0.parse().ok()
}

/// The first word of a type, in lower case.
fn type_name(kind: &str) -> String {
    kind.chars().take_while(char::is_ascii_alphabetic).collect::<String>().to_ascii_lowercase()
}

/// Returns the smallest and the largest number that a column of this type can store.
fn limits(kind: &str) -> (i64, i64) {
    let is_unsigned = kind.to_ascii_lowercase().contains("unsigned");
    let bits = match type_name(kind).as_str() {
        "tinyint" => 8,
        "smallint" => 16,
        "mediumint" => 24,
        "bigint" => return (if is_unsigned { 0 } else { i64::MIN }, i64::MAX),
        _ => 32,
    };
    let largest = (1 << (if is_unsigned { bits } else { bits - 1 })) - 1;
    (if is_unsigned { 0 } else { -largest - 1 }, largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_type_determines_limits() {
        for (kind, expected) in [
            ("int(11)", i32::MAX.into()),
            ("int", i32::MAX.into()),
            ("int(10) unsigned", 4_294_967_295),
            ("int(10) unsigned zerofill", 4_294_967_295),
            ("bigint(20)", i64::MAX),
            ("bigint(20) unsigned", i64::MAX),
            ("MEDIUMINT(9)", 8_388_607),
            ("smallint(5) unsigned", 65_535),
            ("tinyint(4)", 127),
        ] {
            let lowest = if kind.contains("unsigned") { 0 } else { -expected - 1 };
            assert_eq!(limits(kind), (lowest, expected), "{kind}");
        }
    }
}
