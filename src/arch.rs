//! The aarch64 core: what takes instructions that Rust has no name for.

pub mod mmio;
