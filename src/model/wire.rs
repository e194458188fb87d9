//! The interrupts that the machine raises.

/// An interrupt line of the machine. All are edge-triggered: one pulse for each occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// The event queue became non-empty (3.18).
    EventQueue,
    /// The PRI queue became non-empty (3.18).
    PriQueue,
    /// A CMD_SYNC with an interrupt as its signal completed (4.7.3).
    CommandSync,
    /// A global error became active (7.5.1).
    GlobalError,
    /// The engine of this number ended a job.
    Engine(u8),
}

/// Takes the machine's interrupts.
pub trait Wires {
    /// Pulses `wire`.
    fn raise(&mut self, wire: Wire);

    /// A counter that goes on while the machine stands still, to tell how long faults take. Without one its ticks do.
    fn counter(&self) -> Option<u64> {
        None
    }

    /// Wakes the cores that wait in WFE (4.7.3, SIG_SEV; 4.1.2).
    fn send_event(&mut self);
}
