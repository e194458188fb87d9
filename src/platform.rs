//! The QEMU virt board: what the device tree says is there, and how to reach it.

pub mod board;
#[cfg(target_os = "none")]
pub mod boot;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod device_memory;
pub mod device_tree;
#[cfg(target_os = "none")]
pub mod edu;
pub mod its;
pub mod nvme;
pub mod pci;
#[cfg(target_os = "none")]
pub mod smmu_registers;
pub mod virtio;
