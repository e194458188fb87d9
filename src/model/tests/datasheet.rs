//! `docs/engine.md` and `docs/control.md` say the same as the constants of the registers.

use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

const DOCUMENT: &str = include_str!("../../../docs/engine.md");
const SOURCE: &str = include_str!("../engine/registers.rs");
const CONTROL_DOCUMENT: &str = include_str!("../../../docs/control.md");
const CONTROL_SOURCE: &str = include_str!("../control.rs");

/// The cells of each row of a document's tables.
fn rows(document: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| ").or(line.strip_prefix('|')));
    rows.map(|row| row.split('|').map(str::trim).collect())
}

fn hexadecimal(text: &str) -> Option<usize> {
    usize::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The registers that the document tells of: offset and name.
fn documented(document: &'static str) -> BTreeMap<usize, String> {
    let rows = rows(document).filter(|row| row.len() > 4);
    rows.filter_map(|row| Some((hexadecimal(row[0])?, row[1].to_string()))).collect()
}

/// The registers that the source has constants for.
fn defined(source: &'static str) -> BTreeMap<usize, String> {
    let constants = source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split_once(": usize = "));
    constants.filter_map(|(name, value)| Some((hexadecimal(value.strip_suffix(';')?)?, name.to_string()))).collect()
}

#[test]
fn registers_have_the_same_names_and_offsets() {
    assert_eq!(documented(DOCUMENT), defined(SOURCE));
    assert_eq!(documented(DOCUMENT).len(), 36);
}

#[test]
fn registers_of_the_control_page_have_the_same_names_and_offsets() {
    assert_eq!(documented(CONTROL_DOCUMENT), defined(CONTROL_SOURCE));
    assert_eq!(documented(CONTROL_DOCUMENT).len(), 45);
}

#[test]
fn single_bits_have_the_same_names_and_places() {
    // Module by module: (register, name) to bit.
    let mut defined = BTreeMap::new();
    let mut module = "";
    for line in SOURCE.lines() {
        if let Some(name) = line.strip_prefix("pub mod ") {
            module = name.trim_end_matches(" {");
        } else if let Some((name, value)) =
            line.strip_prefix("    pub const ").and_then(|l| l.split_once(": u32 = 1 << "))
        {
            defined.insert((module.to_uppercase(), name.to_string()), value.trim_end_matches(';').to_string());
        }
    }
    let mut documented = BTreeMap::new();
    let (mut register, mut is_hostile) = (String::new(), false);
    for row in rows(DOCUMENT) {
        is_hostile |= row[0] == "bit";
        let (bit, name) = match row.len() {
            _ if is_hostile => (row[0], row[1]),
            4.. => (row[1], row[2]),
            _ => continue,
        };
        match is_hostile {
            true => register = String::from("HOSTILE"),
            false if !row[0].is_empty() => register = row[0].to_string(),
            false => {}
        }
        if bit.parse::<u32>().is_ok() {
            documented.insert((register.clone(), name.to_string()), bit.to_string());
        }
    }
    assert_eq!(documented, defined);
    assert_eq!(documented.len(), 36);
}
