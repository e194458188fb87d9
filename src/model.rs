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
//! | [`profile`] | which kind of SMMU it is |
//! | [`memory`], [`wire`] | the edges: what the machine reads and writes, the interrupts it raises |
//! | [`endpoint`] | what passes between the SMMU and the devices behind it |
//! | `host` | the machine as a driver's registers and clock, on the host only |

#[forbid(unsafe_code)]
pub mod board;
#[forbid(unsafe_code)]
pub mod device_tree;
pub mod el2;
#[forbid(unsafe_code)]
pub mod endpoint;
#[forbid(unsafe_code)]
pub mod engine;
#[cfg(not(target_os = "none"))]
#[forbid(unsafe_code)]
pub mod host;
#[forbid(unsafe_code)]
pub mod machine;
#[forbid(unsafe_code)]
pub mod memory;
#[forbid(unsafe_code)]
pub mod profile;
#[forbid(unsafe_code)]
pub mod smmu;
#[forbid(unsafe_code)]
pub mod wire;

#[cfg(test)]
#[forbid(unsafe_code)]
mod tests;
