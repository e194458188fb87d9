//! `docs/model-conformance.md` can be trusted: its lines are well formed, its rules are distinct, the tests that it
//! names exist, none of them is said to show too much, and the counts in its head are those of its lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The most rules that one test may show.
const RULES_PER_TEST: usize = 5;

/// In these, every rule but those of other states than Non-secure is modelled.
const WHOLE: [&str; 6] = ["3.12", "4.5", "4.7", "7.2", "7.4", "8"];

/// Who shows that the model follows a rule.
enum Shown<'a> {
    /// The test of this path.
    By(&'a str),
    /// Nobody: the model does not advertise it, for this reason.
    NotModelled(&'a str),
}

/// The id of the rule in a table line of `section`, and who shows it, or what is wrong with the line.
fn rule<'a>(section: &str, line: &'a str) -> Result<(&'a str, Shown<'a>), &'static str> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let ["", id, what, shown, ""] = cells[..] else { return Err("not three cells") };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let of_section = id.strip_prefix(section).and_then(|rest| rest.split_once('-')).is_some_and(|(below, running)| {
        number(running) && (below.is_empty() || below.strip_prefix('.').is_some_and(|b| b.split('.').all(number)))
    });
    if !of_section {
        return Err("not a rule of its section");
    }
    if what.is_empty() {
        return Err("says nothing");
    }
    let text = shown.trim_matches('`');
    match text.strip_prefix("not modelled:").map(str::trim) {
        Some("") => Err("not modelled without a reason"),
        Some(reason) => Ok((id, Shown::NotModelled(reason))),
        None if text.contains("::") => Ok((id, Shown::By(text))),
        None => Err("neither a test nor `not modelled: reason`"),
    }
}

/// How many rules a section has.
#[derive(Default)]
struct Section {
    title: String,
    shown: usize,
    not_modelled: usize,
}

impl Section {
    /// The line of the head that tells these counts.
    fn line(&self) -> String {
        let Self { title, shown, not_modelled } = self;
        format!("| {title} | {} | {shown} | {not_modelled} |", shown + not_modelled)
    }
}

/// What the document says, and what is wrong with it.
#[derive(Default)]
struct Report {
    /// The counts in the head.
    head: Vec<String>,
    sections: Vec<Section>,
    ids: BTreeSet<String>,
    /// Rules by test.
    tests: BTreeMap<String, usize>,
    problems: Vec<String>,
}

impl Report {
    fn read(&mut self, text: &str) {
        let mut number = None;
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                number = title.split(' ').next().filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
                if number.is_some() {
                    self.sections.push(Section { title: title.into(), ..Section::default() });
                }
            } else if line.starts_with('|') && !line.starts_with("| rule |") && !line.starts_with("|---") {
                match number {
                    Some(number) => self.read_rule(number, line),
                    None => self.head.push(line.into()),
                }
            }
        }
    }

    fn read_rule(&mut self, number: &str, line: &str) {
        match (rule(number, line), self.sections.last_mut()) {
            (Ok((id, shown)), Some(section)) => {
                match shown {
                    Shown::By(test) => {
                        section.shown += 1;
                        *self.tests.entry(test.into()).or_default() += 1;
                    }
                    Shown::NotModelled(reason) => {
                        section.not_modelled += 1;
                        if WHOLE.contains(&number) && !["Secure", "Realm"].iter().any(|state| reason.contains(state)) {
                            self.problems.push(format!("{id} is of a section that is modelled as a whole"));
                        }
                    }
                }
                if !self.ids.insert(id.into()) {
                    self.problems.push(format!("{id} occurs twice"));
                }
            }
            (Err(problem), _) => self.problems.push(format!("{problem}: {line}")),
            (Ok(_), None) => unreachable!("a rule belongs to a section"),
        }
    }

    /// Checks the counts in the head.
    fn check_head(&mut self) {
        let sum = |count: fn(&Section) -> usize| self.sections.iter().map(count).sum();
        let all = Section {
            title: "all".into(),
            shown: sum(|section| section.shown),
            not_modelled: sum(|section| section.not_modelled),
        };
        let columns = "| section | rules | shown | not modelled |";
        let lines = self.sections.iter().chain([&all]).map(Section::line);
        let expected: Vec<String> = [columns.into()].into_iter().chain(lines).collect();
        if self.head != expected {
            self.problems.push(format!("the counts are\n{}", expected.join("\n")));
        }
    }

    /// Checks the tests that were named, with `exists` to look one up.
    fn check_tests(&mut self, exists: impl Fn(&str) -> bool) {
        for (test, &rules) in &self.tests {
            if !exists(test) {
                self.problems.push(format!("there is no test {test}"));
            }
            if rules > RULES_PER_TEST {
                self.problems.push(format!("{test} shows {rules} rules, more than {RULES_PER_TEST}"));
            }
        }
    }
}

/// Whether the sources hold the test `path`: the modules lead to a file below `src`, or below `tests` when the first one
/// is a test crate, and to modules within that file.
fn exists(path: &str) -> bool {
    let parts: Vec<&str> = path.split("::").collect();
    let Some((function, modules)) = parts.split_last() else { return false };
    let in_file = |root: &str, depth: usize| {
        let (files, inner) = modules.split_at(depth);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(root).join(files.join("/")).with_extension("rs");
        fs::read_to_string(file).is_ok_and(|text| {
            inner.iter().all(|module| text.contains(&format!("mod {module} {{"))) && has_test(&text, function)
        })
    };
    (1..=modules.len()).any(|depth| in_file("src", depth) || in_file("tests", depth))
}

fn has_test(text: &str, function: &str) -> bool {
    text.split("#[test]").skip(1).any(|after| {
        let item = after.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("#["));
        item.and_then(|item| item.strip_prefix("fn ")?.strip_prefix(function)).is_some_and(|rest| rest.starts_with('('))
    })
}

#[test]
fn every_line_is_well_formed_every_named_test_exists_and_the_counts_are_true() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/model-conformance.md");
    let mut report = Report::default();
    report.read(&fs::read_to_string(document).unwrap());
    report.check_head();
    report.check_tests(exists);
    assert!(!report.ids.is_empty());
    assert!(report.problems.is_empty(), "{}", report.problems.join("\n"));
}

/// The problems of a document with these lines below the heading of section 3.12.
fn problems(lines: &[&str]) -> Vec<String> {
    let mut report = Report::default();
    let table = ["## 3.12 Faults", "", "| rule | what the SMMU does | shown by |", "|---|---|---|"];
    report.read(&[&table, lines].concat().join("\n"));
    report.check_tests(|test| test == "module::test");
    report.problems
}

#[test]
fn good_lines_have_no_problems() {
    let lines = [
        "| 3.12-1 | It stalls. | `module::test` |",
        "| 3.12.2.1-10 | It retries. | module::test |",
        "| 3.12.2-1 | It sings. | not modelled: Secure state |",
    ];
    assert_eq!(problems(&lines), [""; 0]);
}

#[test]
fn bad_lines_are_named() {
    for line in [
        "| 3.12-1 | It stalls. |",
        "| 3.12-1 | It stalls | or not. | module::test |",
        "| 3.12-1 | | module::test |",
        "| 3.12- | It stalls. | module::test |",
        "| 3.1-1 | It stalls. | module::test |",
        "| 3.121-1 | It stalls. | module::test |",
        "| 3.12.x-1 | It stalls. | module::test |",
        "| 3.12-1 | It stalls. | |",
        "| 3.12-1 | It stalls. | yes |",
        "| 3.12-1 | It stalls. | - |",
        "| 3.12-1 | It stalls. | not modelled: |",
        "| 3.12-1 | It stalls. | not modelled: IDR0.SING=0 |",
        "| 3.12-1 | It stalls. | module::missing |",
    ] {
        let problems = problems(&[line]);
        assert_eq!(problems.len(), 1, "{line}: {problems:?}");
    }
}

#[test]
fn a_repeated_id_and_an_overworked_test_are_named() {
    assert_eq!(problems(&["| 3.12-1 | It stalls. | module::test |"; 2]), ["3.12-1 occurs twice"]);
    let lines: Vec<String> = (1..=6).map(|n| format!("| 3.12-{n} | It stalls. | module::test |")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(problems(&lines[..5]), [""; 0]);
    assert_eq!(problems(&lines), ["module::test shows 6 rules, more than 5"]);
}

#[test]
fn wrong_counts_are_named() {
    let body = [
        "## 3.12 Faults",
        "| 3.12-1 | It stalls. | `module::test` |",
        "| 3.12-2 | It sings. | not modelled: Realm state |",
    ];
    let problems = |head: &[&str]| {
        let mut report = Report::default();
        report.read(&[head, &body].concat().join("\n"));
        report.check_head();
        report.problems.len()
    };
    let columns = "| section | rules | shown | not modelled |";
    assert_eq!(problems(&[columns, "|---|---|---|---|", "| 3.12 Faults | 2 | 1 | 1 |", "| all | 2 | 1 | 1 |"]), 0);
    assert_eq!(problems(&[columns, "| 3.12 Faults | 2 | 2 | 0 |", "| all | 2 | 1 | 1 |"]), 1);
    assert_eq!(problems(&[columns, "| 3.12 Faults | 2 | 1 | 1 |"]), 1);
}

#[test]
fn tests_are_found_by_their_path_and_nothing_else_is() {
    assert!(exists("conformance::tests_are_found_by_their_path_and_nothing_else_is"));
    assert!(exists("model::tests::stalls::resume_needs_stream_and_tag"));
    assert!(exists("smmuv3::page_request::tests::a_request_with_pasid_has_all_fields"));
    for path in [
        // A helper, the start of a name, the wrong module, no module.
        "conformance::exists",
        "model::tests::stalls::resume_needs_stream",
        "model::tests::events::resume_needs_stream_and_tag",
        "resume_needs_stream_and_tag",
    ] {
        assert!(!exists(path), "{path}");
    }
}
