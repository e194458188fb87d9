//! The QEMU virt board: what the device tree says is there, and how to reach it.

pub mod board;
pub mod device_tree;
#[cfg(target_os = "none")]
pub mod edu;
pub mod pci;
#[cfg(target_os = "none")]
pub mod smmu_registers;
