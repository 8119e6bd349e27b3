//! docs/ERRORS.md tells the truth: its table has the reasons of the code, in order, with their codes.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use mmap_proto::reason::Reason;

const PAGE: &str = include_str!("../../../docs/ERRORS.md");

/// Columns of the page's table: reason, code, when, what to do, metadata.
const COLUMNS: usize = 5;

fn rows(page: &str) -> Vec<Vec<&str>> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix('|'));
    lines.map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect()).collect()
}

/// `INVALID_ARGUMENT` for `InvalidArgument`.
fn grpc_name(code: tonic::Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[test]
fn the_page_has_every_reason_with_its_code_in_the_contracts_order() {
    let written: Vec<(String, String)> =
        rows(PAGE).iter().map(|cells| (cells[0].to_owned(), cells[1].to_owned())).collect();
    let in_code: Vec<(String, String)> =
        Reason::ALL.iter().map(|reason| (reason.to_string(), grpc_name(reason.code()))).collect();
    assert_eq!(written, in_code);
}

#[test]
fn every_row_says_when_and_what_to_do() {
    for cells in rows(PAGE) {
        assert_eq!(cells.len(), COLUMNS, "{cells:?}");
        assert!(cells[2].len() > 10 && cells[3].len() > 10, "{cells:?}");
    }
}
