//! Mistakes that the loom tests must catch.
//!
//! `mutant!("name")` is the literal `false`, so a mistake is compiled only with `--cfg loom`, where the environment
//! variable `MUTANT` selects one. `tools/loom.sh` lists them, each with the test that catches it.

/// Whether this build is to make the mistake of that name.
#[cfg(not(loom))]
macro_rules! mutant {
    ($name:literal) => {
        false
    };
}

/// Whether this run is to make the mistake of that name.
#[cfg(loom)]
macro_rules! mutant {
    ($name:literal) => {
        $crate::sync::mutant::selected($name)
    };
}

#[cfg(loom)]
pub(crate) fn selected(name: &str) -> bool {
    static MUTANT: std::sync::OnceLock<Option<std::string::String>> = std::sync::OnceLock::new();
    MUTANT.get_or_init(|| std::env::var("MUTANT").ok()).as_deref() == Some(name)
}

pub(crate) use mutant;
