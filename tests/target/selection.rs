//! Which tests the command line asks for: what `cargo test` and `cargo nextest` pass to a test binary.

use heapless::Vec;

/// The most names that a command line may filter by.
const MAX_NAMES: usize = 16;

/// A command line, understood.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection<'a> {
    /// Only print the names of the tests.
    pub(crate) list: bool,
    exact: bool,
    ignored: bool,
    /// Only the differential tests, which nothing else selects: they want the model to be of QEMU's kind.
    differential: bool,
    names: Vec<&'a str, MAX_NAMES>,
}

/// Why a command line is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable<'a> {
    #[error("unknown option '{0}'")]
    Option(&'a str),
    #[error("option {0} wants '{1}'")]
    Value(&'a str, &'a str),
    #[error("more than {MAX_NAMES} names")]
    TooManyNames,
}

impl<'a> Selection<'a> {
    /// Understands `arguments`, the program's name not included.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = &'a str>) -> Result<Self, Unusable<'a>> {
        let mut selection = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument {
                "--list" => selection.list = true,
                "--exact" => selection.exact = true,
                "--ignored" => selection.ignored = true,
                // There is one format, and nothing is captured.
                "--format" if arguments.next() != Some("terse") => return Err(Unusable::Value("--format", "terse")),
                "--format" | "--format=terse" | "--nocapture" | "--no-capture" => {}
                // For the EL2 image, which has the same command line.
                option if option.starts_with("profile=") || option.starts_with("engines=") => {}
                "strict" => {}
                // For the soaks.
                option if ["cycles=", "seed=", "seconds="].iter().any(|name| option.starts_with(name)) => {}
                option if option.starts_with("differential=") => selection.differential = true,
                option if option.starts_with('-') => return Err(Unusable::Option(option)),
                name => selection.names.push(name).map_err(|_| Unusable::TooManyNames)?,
            }
        }
        Ok(selection)
    }

    /// Whether the test called `name` is asked for. No test is an ignored one.
    pub(crate) fn selects(&self, name: &str) -> bool {
        let is_meant = |filter: &&str| if self.exact { name == *filter } else { name.contains(*filter) };
        !self.ignored
            && name.starts_with("differential::") == self.differential
            && (self.names.is_empty() || self.names.iter().any(is_meant))
    }
}

#[cfg(all(test, not(target_os = "none")))]
mod tests {
    use super::*;

    fn parse<'a>(line: &'a str) -> Result<Selection<'a>, Unusable<'a>> {
        Selection::parse(line.split_whitespace())
    }

    #[test]
    fn nothing_selects_everything() {
        let all = parse("").unwrap();
        assert!(!all.list && all.selects("boot::heap"));
    }

    #[test]
    fn a_name_selects_what_contains_it() {
        let some = parse("boot timer").unwrap();
        assert!(some.selects("boot::heap") && some.selects("target::timer"));
        assert!(!some.selects("edu::copies"));
    }

    #[test]
    fn an_exact_name_selects_itself_only() {
        // As nextest runs one test.
        let one = parse("boot::heap --nocapture --exact").unwrap();
        assert!(one.selects("boot::heap"));
        assert!(!one.selects("boot::heap_is_aligned"));
    }

    #[test]
    fn differential_tests_run_on_demand_and_alone() {
        let name = "differential::the_model_does_what_qemus_smmu_does";
        assert!(!parse("").unwrap().selects(name));
        let on_demand = parse("differential=7 profile=qemu-10").unwrap();
        assert!(on_demand.selects(name) && !on_demand.selects("boot::heap"));
    }

    #[test]
    fn lists_are_asked_for_with_and_without_ignored_tests() {
        // As nextest lists the tests.
        let list = parse("--list --format terse").unwrap();
        assert!(list.list && list.selects("boot::heap"));
        let ignored = parse("--list --format terse --ignored").unwrap();
        assert!(ignored.list && !ignored.selects("boot::heap"));
    }

    #[test]
    fn arguments_of_the_model_select_nothing() {
        assert_eq!(parse("profile=small engines=64 strict"), parse(""));
    }

    #[test]
    fn arguments_of_the_soaks_select_nothing() {
        assert_eq!(parse("cycles=100000 seed=7 seconds=600"), parse(""));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(parse("--shuffle"), Err(Unusable::Option("--shuffle")));
        assert_eq!(parse("--format json"), Err(Unusable::Value("--format", "terse")));
        assert_eq!(parse("--format"), Err(Unusable::Value("--format", "terse")));
        assert_eq!(parse(&"name ".repeat(17)), Err(Unusable::TooManyNames));
    }
}
