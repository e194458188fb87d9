//! The machine as an independent driver sees it: registers by their offsets, structures as raw words, both written down
//! from the specification and not by the code under test.

mod bench;
mod caches;
mod commands;
mod configuration;
mod engines;
mod events;
mod fuzz;
mod page_requests;
mod registers;
mod stalls;
mod translation;
