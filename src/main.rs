//! The kernel's image: entry and wiring of [`smmu_iopf::kernel`].
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("smmu-iopf is bare-metal firmware: ./run-qemu.sh builds and boots it");
    std::process::ExitCode::from(2)
}

#[cfg(target_os = "none")]
mod target {
    smmu_iopf::entry!(smmu_iopf::kernel::workload::run);
}
