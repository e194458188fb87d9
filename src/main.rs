//! The kernel's image: entry and wiring of [`smmu_iopf::kernel`].
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    eprintln!("smmu-iopf is bare-metal firmware: ./run-qemu.sh builds and boots it");
    std::process::ExitCode::from(2)
}

#[cfg(target_os = "none")]
mod target {
    use smmu_iopf::kernel::Kernel;
    use smmu_iopf::sync::Cpu;

    smmu_iopf::entry!(main);

    fn main(kernel: &'static Kernel, _cpu: Cpu) -> i32 {
        log::info!("{} cores, arguments {:?}", kernel.cores(), kernel.arguments);
        0
    }
}
