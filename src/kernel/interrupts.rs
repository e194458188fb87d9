//! Interrupts: the GICv3, and what each interrupt does.

use alloc::boxed::Box;
use core::fmt;

use arm_gic::gicv3::{GicCpuInterface, GicError, GicV3, SgiTarget, SgiTargetGroup};
use arm_gic::{IntId, InterruptGroup};
use spin::Once;

use super::fatal;
use crate::arch;
use crate::platform::board::{Interrupt, Trigger};
use crate::sync::lock::IrqLock;
use crate::sync::{CoreId, Masked};

/// INTIDs below this can have a handler.
const INTIDS: usize = 320;

/// The first LPI, and how many can have a handler.
const FIRST_LPI: u32 = 8192;
const LPIS: usize = 16;

/// The software-generated interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sgi {
    /// Become quiescent: grace periods wait for this core.
    Quiesce = 0,
    /// Drain the SMMUs' event queues.
    DrainEvents = 1,
    /// Drain their PRI queues.
    DrainPageRequests = 2,
    /// Look for work.
    Wake = 3,
}

impl Sgi {
    /// Every one.
    const ALL: [Self; 4] = [Self::Quiesce, Self::DrainEvents, Self::DrainPageRequests, Self::Wake];
}

/// What an interrupt does, with interrupts masked on the core that took it.
pub type Handler = Box<dyn Fn(&Masked) + Send + Sync>;

/// The interrupt controller and the handlers.
pub struct Interrupts {
    gic: IrqLock<GicV3<'static>>,
    handlers: [Once<Handler>; INTIDS],
    lpi_handlers: [Once<Handler>; LPIS],
}

/// Why an interrupt could not be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The INTID is not one that can have a handler.
    #[error("INTID {0} has no place for a handler")]
    OutOfRange(u32),
    /// The INTID has a handler.
    #[error("INTID {0} has a handler already")]
    Taken(u32),
    /// The GIC refused.
    #[error("INTID {0}: {1}")]
    Gic(u32, GicError),
}

impl Interrupts {
    /// Sets the GIC up with all interrupts off, and this core's interface on.
    pub fn new(mut gic: GicV3<'static>) -> Self {
        gic.setup(CoreId::FIRST.index());
        GicCpuInterface::set_priority_mask(0xff);
        Self {
            gic: IrqLock::new(gic),
            handlers: [const { Once::new() }; INTIDS],
            lpi_handlers: [const { Once::new() }; LPIS],
        }
    }

    /// The place for the handler of `intid`.
    fn slot(&self, intid: u32) -> Option<&Once<Handler>> {
        match intid.checked_sub(FIRST_LPI) {
            Some(index) => self.lpi_handlers.get(index as usize),
            None => self.handlers.get(intid as usize),
        }
    }

    /// Turns on the interface of core `core`, which runs this, and the interrupts that all cores have.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the GIC refuses.
    pub fn start_core(&self, core: CoreId, timer: Interrupt) -> Result<(), ConnectError> {
        arch::masked(|masked| {
            let mut gic = self.gic.lock(masked);
            gic.init_cpu(core.index());
            GicCpuInterface::enable_group1(true);
            GicCpuInterface::set_priority_mask(0xff);
            for intid in Sgi::ALL.map(|sgi| sgi as u32).into_iter().chain([timer.intid]) {
                let id = IntId::try_from(intid).map_err(|_| ConnectError::OutOfRange(intid))?;
                gic.set_interrupt_priority(id, Some(core.index()), 0x80)
                    .and_then(|()| gic.enable_interrupt(id, Some(core.index()), true))
                    .map_err(|error| ConnectError::Gic(intid, error))?;
            }
            Ok(())
        })
    }

    /// Turns the interface of this core off. What is sent to it stays pending until [`start_core`](Self::start_core).
    pub(super) fn stop_core(&self, masked: &Masked) {
        GicCpuInterface::enable_group1(false);
        // Refused where it sleeps already.
        let _ = self.gic.lock(masked).redistributor_mark_core_asleep(masked.core().index());
    }

    /// Gives an interrupt that needs nothing else here its handler: one that is sent by software or private to each core, or an
    /// LPI, which the [ITS](crate::platform::its) turns on.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if it has one.
    pub fn connect_private(&self, intid: u32, handler: Handler) -> Result<(), ConnectError> {
        let slot = self.slot(intid).ok_or(ConnectError::OutOfRange(intid))?;
        if slot.is_completed() {
            return Err(ConnectError::Taken(intid));
        }
        slot.call_once(|| handler);
        Ok(())
    }

    /// Connects the shared interrupt `interrupt` to `handler`, and turns it on for the first core.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if it has a handler, or if the GIC refuses.
    pub fn connect(&self, interrupt: Interrupt, handler: Handler) -> Result<(), ConnectError> {
        let intid = interrupt.intid;
        self.connect_private(intid, handler)?;
        let id = IntId::try_from(intid).map_err(|_| ConnectError::OutOfRange(intid))?;
        let trigger = match interrupt.trigger {
            Trigger::Edge => arm_gic::Trigger::Edge,
            Trigger::Level => arm_gic::Trigger::Level,
        };
        arch::masked(|masked| {
            let mut gic = self.gic.lock(masked);
            gic.set_trigger(id, None, trigger)
                .and_then(|()| gic.set_interrupt_priority(id, None, 0x80))
                .and_then(|()| gic.distributor().set_routing(id, Some(0)))
                .and_then(|()| gic.enable_interrupt(id, None, true))
        })
        .map_err(|error| ConnectError::Gic(intid, error))
    }

    /// Handles one interrupt that is pending on this core. Those that are left come by themselves when it is unmasked, so
    /// that the core is quiescent in between however many there are.
    pub(super) fn handle(&self, masked: &Masked) {
        if let Some(id) = GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1) {
            match self.slot(u32::from(id)).and_then(Once::get) {
                Some(handler) => handler(masked),
                None => fatal::unexpected_interrupt(u32::from(id)),
            }
            GicCpuInterface::end_interrupt(id, InterruptGroup::Group1);
        }
    }
}

impl fmt::Debug for Interrupts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupts").finish_non_exhaustive()
    }
}

/// Sends `sgi` to `core`.
pub fn send(sgi: Sgi, core: CoreId) {
    let target = SgiTarget::List { affinity3: 0, affinity2: 0, affinity1: 0, target_list: 1 << core.index() };
    // The memory that the interrupt is about, before the interrupt.
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::ISHST);
    // Fails for INTIDs above 15 only.
    let _ = GicCpuInterface::send_sgi(IntId::sgi(sgi as u32), target, SgiTargetGroup::CurrentGroup1);
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
}
