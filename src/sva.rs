//! Address spaces shared with devices.

pub mod frames;
