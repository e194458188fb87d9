//! Mistakes that the loom and shuttle tests must catch.
//!
//! `mutant!("name")` is the literal `false`, so a mistake is compiled only with `--cfg loom` or `--cfg shuttle`, where
//! the environment variable `MUTANT` selects one. `tools/loom.sh` and `tools/shuttle.sh` list them, each with the test that
//! catches it.

/// Whether this build is to make the mistake of that name.
#[cfg(not(any(loom, shuttle)))]
macro_rules! mutant {
    ($name:literal) => {
        false
    };
}

/// Whether this run is to make the mistake of that name.
#[cfg(any(loom, shuttle))]
macro_rules! mutant {
    ($name:literal) => {
        $crate::sync::mutant::selected($name)
    };
}

#[cfg(any(loom, shuttle))]
pub(crate) fn selected(name: &str) -> bool {
    static MUTANT: std::sync::OnceLock<Option<std::string::String>> = std::sync::OnceLock::new();
    MUTANT.get_or_init(|| std::env::var("MUTANT").ok()).as_deref() == Some(name)
}

pub(crate) use mutant;
