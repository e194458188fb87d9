//! The machine as an independent driver sees it: registers by their offsets, structures as raw words, both written down
//! from the specification and not by the code under test.

mod answer_rules;
mod ats;
mod ats_rules;
mod bench;
mod choices;
mod command_rules;
mod commands;
mod configuration;
mod contexts;
mod datasheet;
mod direct;
mod engines;
mod events;
mod fault_rules;
mod fuzz;
mod hostile;
mod interrupts;
mod page_requests;
mod pri_rules;
mod profiles;
mod queue_rules;
mod reach_rules;
mod registers;
mod request_rules;
mod stage2;
mod stall_rules;
mod stalls;
mod structure_rules;
mod sync_rules;
mod table_rules;
mod translation;
mod watched;
