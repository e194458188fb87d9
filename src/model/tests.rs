//! The machine as an independent driver sees it: registers by their offsets, structures as raw words, both written down
//! from the specification and not by the code under test.

mod ats;
mod bench;
mod cache_rules;
mod cached_stages;
mod caches;
mod cd_rules;
mod choices;
mod commands;
mod configuration;
mod contexts;
mod datasheet;
mod direct;
mod engines;
mod error_rules;
mod event_rules;
mod events;
mod fault_flags;
mod fuzz;
mod hostile;
mod interrupts;
mod page_requests;
mod profiles;
mod record_rules;
mod registers;
mod stage2;
mod stalls;
mod ste_rules;
mod translation;
