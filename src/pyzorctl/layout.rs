//! Aligned lines and tables.

/// Formats lines of a label and a text, with the texts aligned.
pub(super) fn labelled(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    lines.iter().map(|(label, text)| format!("  {label:width$}  {text}\n")).collect()
}

/// Formats rows of cells. The first column is aligned to the left, all others to the right.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let length = |cell: &String| cell.chars().count();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(length).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("  {cell:width$}"),
            _ => format!("  {cell:>width$}"),
        });
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["", "200", "x"]), row(["check", "1,234", "µs"]), row(["a", "", ""])];
        assert_eq!(table(&rows), "           200   x\n  check  1,234  µs\n  a\n");
        assert_eq!(labelled(&[("a", "1".to_owned()), ("long", "2".to_owned())]), "  a     1\n  long  2\n");
    }
}
