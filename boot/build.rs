//! Hands each bare-metal image its linker script.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=boot/build.rs");
    println!("cargo:rerun-if-changed=boot/model.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let package = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bin=smmu-model=-T{package}/boot/model.ld");
    }
}
