//! Programs an SMMUv3.

pub mod dma;
pub mod registers;
