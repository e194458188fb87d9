//! Hands each bare-metal image its linker script.

use std::env;

fn main() {
    for file in ["boot/build.rs", "boot/model.ld", "linker.ld"] {
        println!("cargo:rerun-if-changed={file}");
    }
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let package = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bin=smmu-model=-T{package}/boot/model.ld");
        println!("cargo:rustc-link-arg-bin=smmu-iopf=-T{package}/linker.ld");
        println!("cargo:rustc-link-arg-tests=-T{package}/linker.ld");
        println!("cargo:rustc-link-arg-benches=-T{package}/linker.ld");
    }
}
