//! `docs/engine.md` and the constants of the engine's registers say the same.

use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

const DOCUMENT: &str = include_str!("../../../docs/engine.md");
const SOURCE: &str = include_str!("../engine/registers.rs");

/// The cells of each row of the document's tables.
fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| ").or(line.strip_prefix('|')));
    rows.map(|row| row.split('|').map(str::trim).collect())
}

fn hexadecimal(text: &str) -> Option<usize> {
    usize::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[test]
fn registers_have_the_same_names_and_offsets() {
    let documented: BTreeMap<usize, String> =
        rows().filter(|row| row.len() > 4).filter_map(|row| Some((hexadecimal(row[0])?, row[1].to_string()))).collect();
    let defined: BTreeMap<usize, String> = SOURCE
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(": usize = "))
        .filter_map(|(name, value)| Some((hexadecimal(value.strip_suffix(';')?)?, name.to_string())))
        .collect();
    assert_eq!(documented, defined);
    assert_eq!(documented.len(), 36);
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
    for row in rows() {
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
    assert_eq!(documented.len(), 33);
}
