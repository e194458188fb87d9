//! Runs the selected tests and says how each ended.
//!
//! A test registers itself, by [`test!`]. It fails by an error, by a panic or by an exception; the latter two end the
//! machine. A test that *must* end so is registered with what it must end by, and runs only when it is the only one.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::{self, Debug, Display};

use linkme::distributed_slice;
use smmu_iopf::kernel::Kernel;
use smmu_iopf::kernel::fatal::{self, End};
use smmu_iopf::platform::console;
use smmu_iopf::sync::Cpu;
use spin::Mutex;

use super::selection::Selection;

/// Every test.
#[distributed_slice]
pub(crate) static TESTS: [Test];

/// A test.
pub(crate) struct Test {
    /// The module it is in, the crate's name first.
    pub(crate) module: &'static str,
    /// Its name there.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) run: fn(&'static Kernel, &mut Cpu) -> Outcome,
    /// Which end of the machine it must come to, if any.
    pub(crate) must_end_by: Option<fn(&End) -> bool>,
}

/// How a test that returns ends.
pub(crate) type Outcome = Result<(), Failure>;

/// Why a test did not succeed.
pub(crate) enum Failure {
    /// Something is wrong.
    Wrong(String),
    /// The machine lacks what the test is about.
    NotHere(&'static str),
    /// It is about another machine, which this option makes.
    Elsewhere(&'static str),
}

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Wrong(error.to_string())
    }
}

/// Fails unless `actual` is `expected`.
pub(crate) fn equal<T: PartialEq + Debug>(what: &str, expected: T, actual: T) -> Outcome {
    if expected == actual { Ok(()) } else { Err(format!("{what}: expected {expected:x?}, actual {actual:x?}").into()) }
}

/// Fails unless `holds`.
pub(crate) fn holds(what: &str, holds: bool) -> Outcome {
    if holds { Ok(()) } else { Err(Failure::Wrong(what.to_string())) }
}

/// The number that the argument `name`, with its equals sign, gives.
pub(crate) fn argument(kernel: &Kernel, name: &str, default: u32) -> Result<u32, Failure> {
    let value = kernel.arguments.iter().find_map(|argument| argument.strip_prefix(name));
    Ok(value.map(str::parse).transpose()?.unwrap_or(default))
}

/// Registers a test: `test!(fn name(kernel, cpu) { ... Ok(()) })`, or one that ends the machine:
/// `test!(fn name(kernel, cpu) must_end_by(|end| ...) { ... })`.
macro_rules! test {
    (fn $name:ident($kernel:pat, $cpu:pat) $body:block) => {
        test!(@ $name, $kernel, $cpu, None, $body);
    };
    (fn $name:ident($kernel:pat, $cpu:pat) must_end_by($is_expected:expr) $body:block) => {
        test!(@ $name, $kernel, $cpu, Some($is_expected), $body);
    };
    (@ $name:ident, $kernel:pat, $cpu:pat, $must_end_by:expr, $body:block) => {
        fn $name(
            $kernel: &'static smmu_iopf::kernel::Kernel,
            $cpu: &mut smmu_iopf::sync::Cpu,
        ) -> $crate::harness::Outcome {
            $body
        }

        const _: () = {
            #[linkme::distributed_slice($crate::harness::TESTS)]
            static TEST: $crate::harness::Test = $crate::harness::Test {
                module: module_path!(),
                name: stringify!($name),
                run: $name,
                must_end_by: $must_end_by,
            };
        };
    };
}

/// The name without the crate's: what is listed and selected.
impl Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let module = self.module.split_once("::").map_or(self.module, |(_, module)| module);
        write!(f, "{module}::{}", self.name)
    }
}

/// The test that runs.
static RUNNING: Mutex<Option<&'static Test>> = Mutex::new(None);

smmu_iopf::entry!(main);

fn main(kernel: &'static Kernel, mut cpu: Cpu) -> i32 {
    let selection = match Selection::parse(kernel.arguments.iter().map(String::as_str)) {
        Ok(selection) => selection,
        Err(unusable) => {
            log::error!("error: {unusable}");
            return 2;
        }
    };
    let selected = || TESTS.iter().filter(|test| selection.selects(&test.to_string()));
    if selection.list {
        selected().for_each(|test| log::info!("{test}: test"));
        return 0;
    }
    fatal::set_last_words(last_words);
    run(kernel, &mut cpu, selected)
}

fn run<I: Iterator<Item = &'static Test>>(kernel: &'static Kernel, cpu: &mut Cpu, selected: impl Fn() -> I) -> i32 {
    let count = selected().count();
    log::info!("running {count} tests");
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for test in selected() {
        if test.must_end_by.is_some() && count > 1 {
            log::info!("test {test} ... ignored, it ends the machine: run it alone");
            ignored += 1;
            continue;
        }
        *RUNNING.lock() = Some(test);
        let outcome = match (test.run)(kernel, cpu) {
            Ok(()) if test.must_end_by.is_some() => Err(Failure::Wrong("it returned".to_string())),
            outcome => outcome,
        };
        *RUNNING.lock() = None;
        match outcome {
            Ok(()) => {
                log::info!("test {test} ... ok");
                passed += 1;
            }
            Err(Failure::NotHere(what)) => {
                log::info!("test {test} ... ignored, there is no {what}");
                ignored += 1;
            }
            Err(Failure::Elsewhere(option)) => {
                log::info!("test {test} ... ignored, it wants {option}");
                ignored += 1;
            }
            Err(Failure::Wrong(why)) => {
                log::error!("test {test} ... FAILED: {why}");
                failed += 1;
            }
        }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    log::info!("test result: {result}. {passed} passed; {failed} failed; {ignored} ignored");
    if failed == 0 { 0 } else { fatal::STATUS }
}

/// Says how the test ended that ended the machine, and gives the status to end with. Nothing is allocated: the heap may
/// be what is broken.
fn last_words(end: &End) -> i32 {
    let Some(test) = RUNNING.try_lock().and_then(|running| *running) else { return fatal::STATUS };
    if test.must_end_by.is_some_and(|is_expected| is_expected(end)) {
        console::print_unlocked(format_args!("test {test} ... ok"));
        0
    } else {
        console::print_unlocked(format_args!("test {test} ... FAILED: it ended the machine"));
        fatal::STATUS
    }
}
