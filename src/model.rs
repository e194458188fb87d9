//! An SMMUv3 with stall, ATS and PRI in software, and the DMA engines behind it.
//!
//! [`machine::Machine`] is the whole of it: registers in, memory accesses and interrupts out. It is safe code without
//! heap and without `std`, and constant to construct, so the same machine lives in a static of the EL2 firmware and
//! in a host test. Every call does a bounded amount of work.
//!
//! The model follows the architecture to the letter where software can tell, and it is independent of the driver: the
//! two share only the layouts of [`crate::smmuv3`]. Like the hardware it stands for it keeps STEs, CDs and translations,
//! and the engines those they got by ATS, and uses them until they are invalidated.
//!
//! | module | what it is |
//! |---|---|
//! | [`machine`] | the SMMU, the engines and the address decoder |
//! | [`smmu`] | the SMMU: registers, queues, translation, stalls, page requests |
//! | [`engine`] | a DMA engine: a device that copies, fills and compares |
//! | [`board`] | where all this lies in the memory map, and its interrupts |
//! | [`device_tree`] | tells the board's device tree about it |
//! | [`el2`] | runs it below a kernel on QEMU |
//! | [`memory`], [`wire`] | the edges: what the machine reads and writes, the interrupts it raises |
//! | [`endpoint`] | what passes between the SMMU and the devices behind it |
//! | `host` | the machine as a driver's registers and clock, on the host only |

pub mod board;
pub mod device_tree;
pub mod el2;
pub mod endpoint;
pub mod engine;
#[cfg(not(target_os = "none"))]
pub mod host;
pub mod machine;
pub mod memory;
pub mod smmu;
pub mod wire;

#[cfg(test)]
mod tests;
