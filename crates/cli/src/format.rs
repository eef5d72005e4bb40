//! Numbers and tables as people read them.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A count of bytes with three significant digits and a decimal unit: `29.2 GB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ if value >= 99.95 => format!("{value:.0} {}", UNITS[unit]),
        _ if value >= 9.995 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.2} {}", UNITS[unit]),
    }
}

/// A number with three significant digits: `0.05`, `1.23`, `45.6`, `789`, `12345`.
pub fn number(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        value if value < 9.995 => format!("{value:.2}"),
        value if value < 99.95 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// A count of bytes in mebibytes, as the literature gives traffic: `33.72 MiB`.
pub fn mebibytes(count: u64) -> String {
    let value = count as f64 / f64::from(1 << 20);
    if value < 99.995 { format!("{value:.2} MiB") } else { format!("{value:.0} MiB") }
}

/// A share of a whole in percent, one digit after the point.
pub fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

/// Seconds with a digit or two after the point.
pub fn seconds(value: f64) -> String {
    if value < 10.0 { format!("{value:.2} s") } else { format!("{value:.1} s") }
}

/// A plain table; columns named in `right` (by position) are aligned to the right.
pub fn table<R: Into<comfy_table::Row>>(
    header: R,
    rows: impl IntoIterator<Item = R>,
    right: impl IntoIterator<Item = usize>,
) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY.with_rounded_corners());
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table.add_rows(rows);
    for column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_keep_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9996, "10.0 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (29_234_567_890, "29.2 GB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }
}
