//! The machine as an independent driver sees it: registers by their offsets, structures as raw words, both written down
//! from the specification and not by the code under test.

mod bench;
mod stalls;
