//! The register file: what reads and writes of registers do (6.2, 6.3).

use super::diagnostics::{self, Diagnostics};
use super::msi::{self, Msi};
use super::queue::{OVERFLOW, Queue};
use crate::model::machine::Width;
use crate::model::profile::Profile;
use crate::smmuv3::features::{Features, IdRegisters};
use crate::smmuv3::queue::QueueSize;
use crate::smmuv3::registers::Register;

/// Fields of CR0 and CR0ACK.
pub(super) mod cr0 {
    pub(in super::super) const SMMUEN: u32 = 1 << 0;
    pub(in super::super) const PRIQEN: u32 = 1 << 1;
    pub(in super::super) const EVENTQEN: u32 = 1 << 2;
    pub(in super::super) const CMDQEN: u32 = 1 << 3;
    pub(in super::super) const ATSCHK: u32 = 1 << 4;
}

/// Fields of IRQ_CTRL and IRQ_CTRLACK.
pub(super) mod irq_ctrl {
    pub(in super::super) const GERROR: u32 = 1 << 0;
    pub(in super::super) const PRIQ: u32 = 1 << 1;
    pub(in super::super) const EVENTQ: u32 = 1 << 2;
}

/// Fields of GERROR and GERRORN.
pub(super) mod gerror {
    pub(in super::super) const CMDQ_ERR: u32 = 1 << 0;
    pub(in super::super) const EVENTQ_ABT_ERR: u32 = 1 << 2;
    pub(in super::super) const PRIQ_ABT_ERR: u32 = 1 << 3;
    pub(in super::super) const MSI_CMDQ_ABT_ERR: u32 = 1 << 4;
    pub(in super::super) const MSI_EVENTQ_ABT_ERR: u32 = 1 << 5;
    pub(in super::super) const MSI_PRIQ_ABT_ERR: u32 = 1 << 6;
    pub(in super::super) const MSI_GERROR_ABT_ERR: u32 = 1 << 7;
    pub(in super::super) const SFM_ERR: u32 = 1 << 8;
}

/// Updates of registers that are not acknowledged.
pub(super) mod pending {
    pub(in super::super) const CR0: u32 = 1 << 0;
    pub(in super::super) const IRQ_CTRL: u32 = 1 << 1;
    pub(in super::super) const GBPA: u32 = 1 << 2;
}

const E2H: u32 = 1 << 0;
const RECINVSID: u32 = 1 << 1;
const PTM: u32 = 1 << 2;
const REC_CFG_ATS: u32 = 1 << 3;
const GBPA_ABORT: u32 = 1 << 20;
const GBPA_UPDATE: u32 = 1 << 31;
/// UPDATE aside: ABORT, INSTCFG, PRIVCFG, SHCFG, ALLOCCFG, MTCFG and MemAttr, which read as written (6.3.14). But for ABORT
/// nothing shows: INSTCFG and PRIVCFG, where IDR1.ATTR_PERMS_OVR offers them, change only what goes out, and no profile has
/// ATTR_TYPES_OVR, without which the others are fixed.
const GBPA_FIELDS: u32 = 0x001f_3f1f;
const CR1_TABLE: u32 = 0xfc0;
const CR1_QUEUE: u32 = 0x03f;
const STRTAB_RA: u64 = 1 << 62;
/// LOG2SIZE of STRTAB_BASE_CFG; FMT and SPLIT.
pub(super) const STRTAB_LOG2SIZE: u32 = 0x3f;
pub(super) const STRTAB_FORMAT: u32 = 0x3_07c0;
/// LO of PRIQ_IRQ_CFG2.
pub(super) const LAST_ONLY: u32 = 1 << 31;
/// The ERR field of CMDQ_CONS.
const ERR_SHIFT: u32 = 24;
const ERR: u32 = 0x7f << ERR_SHIFT;

/// `field` where it is `offered`, else nothing.
pub(super) const fn when(offered: bool, field: u32) -> u32 {
    if offered { field } else { 0 }
}

/// The bits of CR0 that exist (6.3.9).
pub(super) const fn cr0_fields(features: &Features) -> u32 {
    cr0::SMMUEN | cr0::EVENTQEN | cr0::CMDQEN | when(features.pri, cr0::PRIQEN) | when(features.ats, cr0::ATSCHK)
}

/// The bits of CR2 that exist (6.3.12).
pub(super) const fn cr2_fields(features: &Features) -> u32 {
    RECINVSID
        | when(features.hyp, E2H)
        | when(features.broadcast_tlb, PTM)
        | when(features.ats_record_errors, REC_CFG_ATS)
}

/// The bits of IRQ_CTRL that exist (6.3.16).
pub(super) const fn irq_fields(features: &Features) -> u32 {
    irq_ctrl::GERROR | irq_ctrl::EVENTQ | when(features.pri, irq_ctrl::PRIQ)
}

/// The bits of GERROR that exist (6.3.19).
pub(super) const fn gerror_fields(features: &Features) -> u32 {
    let msis = gerror::MSI_CMDQ_ABT_ERR | gerror::MSI_EVENTQ_ABT_ERR | gerror::MSI_GERROR_ABT_ERR;
    gerror::CMDQ_ERR
        | gerror::EVENTQ_ABT_ERR
        | gerror::SFM_ERR
        | when(features.msi, msis)
        | when(features.pri, gerror::PRIQ_ABT_ERR)
        | when(features.msi && features.pri, gerror::MSI_PRIQ_ABT_ERR)
}

/// The values of all registers. Reads and writes act on these alone: what a write sets going happens in
/// [`acknowledge`](RegisterFile::acknowledge) and in the other parts of the SMMU.
///
/// Every other location reads as zero and ignores writes. These are RES0 because the ID registers do not offer what they
/// belong to: S2PII, the ATOS, VATOS, MPAM, DPT and ECMDQ registers with IDR6. IDR2 and IDR4 have no field to set, STATUSR
/// no DORMANT without the hint (6.3.13), AGBPA nothing to pass on (6.3.15), and there are no identification registers at
/// 0xfd0 (6.2.1). The offsets of page 1 are no aliases in page 0, nor those of page 0 in page 1: either is permitted (6.2),
/// and this finds drivers that depend on one.
#[derive(Debug)]
pub(super) struct RegisterFile {
    ids: IdRegisters,
    pub(super) features: Features,
    cr0: u32,
    cr0ack: u32,
    cr1: u32,
    cr2: u32,
    gbpa: u32,
    gbpa_written: u32,
    irq_ctrl: u32,
    irq_ctrlack: u32,
    gerror: u32,
    gerrorn: u32,
    pub(super) gerror_msi: Msi,
    pub(super) strtab_base: u64,
    pub(super) strtab_base_cfg: u32,
    pub(super) commands: Queue,
    pub(super) events: Queue,
    pub(super) event_msi: Msi,
    pub(super) page_requests: Queue,
    pub(super) page_request_msi: Msi,
    pub(super) diagnostics: Diagnostics,
}

/// What became of CR0 by an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// Some register was updated.
    pub(super) any: bool,
    /// SMMUEN went from 1 to 0.
    pub(super) disabled: bool,
}

impl RegisterFile {
    /// The registers of `profile` after reset. What the architecture leaves UNKNOWN, or to the implementation, is zero until
    /// [`poison`](RegisterFile::poison) fills it.
    pub(super) const fn new(profile: Profile) -> Self {
        Self::with(profile.id_registers(), profile.features())
    }

    /// The registers with these ID registers, which say `features`.
    pub(super) const fn with(ids: IdRegisters, features: Features) -> Self {
        let output_bits = features.oas.bits() as u32;
        let page_requests = match features.pri_queue {
            Some(largest) => largest,
            None => QueueSize::ONE,
        };
        Self {
            ids,
            features,
            cr0: 0,
            cr0ack: 0,
            cr1: 0,
            cr2: 0,
            gbpa: 0,
            gbpa_written: 0,
            irq_ctrl: 0,
            irq_ctrlack: 0,
            gerror: 0,
            gerrorn: 0,
            gerror_msi: Msi::new(),
            strtab_base: 0,
            strtab_base_cfg: 0,
            commands: Queue::new(features.command_queue, output_bits),
            events: Queue::new(features.event_queue, output_bits),
            event_msi: Msi::new(),
            page_requests: Queue::new(page_requests, output_bits),
            page_request_msi: Msi::new(),
            diagnostics: Diagnostics::new(),
        }
    }

    /// Fills what reset leaves UNKNOWN, or to the implementation, with values that follow from `seed` (6.3.11 to 6.3.36,
    /// 6.3.95 to 6.3.98). Once anything is enabled that would not be what reset does, so nothing happens.
    pub(super) fn poison(&mut self, seed: u32) {
        if self.cr0 | self.cr0ack | self.irq_ctrl | self.irq_ctrlack != 0 {
            return;
        }
        let mut random = u64::from(seed);
        let mut next = || {
            // Xorshift (Marsaglia 2003); of 0 it makes 0.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for register in Register::ALL {
            match register {
                Register::Cr0 | Register::IrqCtrl | Register::Gerrorn => {}
                Register::Gbpa => {
                    self.gbpa = next() as u32 & GBPA_FIELDS;
                    self.gbpa_written = self.gbpa;
                }
                _ => self.set(*register, next()),
            }
        }
        self.set_command_error(next() as u32);
        // Of the flags this one is known (6.3.97).
        self.page_requests.prod &= !OVERFLOW;
    }

    /// The bits of a physical address (`IDR5.OAS`).
    pub(super) fn output_bits(&self) -> u32 {
        self.features.oas.bits().into()
    }

    /// `address` without the bits that no physical address has.
    pub(super) fn truncated(&self, address: u64) -> u64 {
        address & ((1 << self.output_bits()) - 1)
    }

    /// Whether the CR0 field has taken effect as 1.
    pub(super) fn enabled(&self, field: u32) -> bool {
        self.cr0ack & field != 0
    }

    /// Whether the CR0 field is 0 and has taken effect as such: what it guards may be written (6.2).
    pub(super) fn disabled(&self, field: u32) -> bool {
        (self.cr0 | self.cr0ack) & field == 0
    }

    pub(super) fn interrupt_enabled(&self, field: u32) -> bool {
        self.irq_ctrlack & field != 0
    }

    /// Whether the interrupt source is off and has been acknowledged as such: what it guards may be written (6.3.21).
    pub(super) fn interrupt_disabled(&self, field: u32) -> bool {
        (self.irq_ctrl | self.irq_ctrlack) & field == 0
    }

    /// Whether the PRI queue's interrupt comes with a Last (1) instead of when the queue becomes non-empty (6.3.36).
    pub(super) fn interrupts_on_last_only(&self) -> bool {
        self.page_request_msi.attributes & LAST_ONLY != 0
    }

    pub(super) fn aborts_when_disabled(&self) -> bool {
        self.gbpa & GBPA_ABORT != 0
    }

    pub(super) fn records_bad_streams(&self) -> bool {
        self.cr2 & RECINVSID != 0
    }

    /// Whether streams of EL2 are of EL2 with E2H (6.3.12).
    pub(super) fn e2h(&self) -> bool {
        self.cr2 & E2H != 0
    }

    /// Whether configuration errors of ATS requests and translated transactions are recorded (6.3.12).
    pub(super) fn records_ats_errors(&self) -> bool {
        self.cr2 & REC_CFG_ATS != 0
    }

    pub(super) fn error_active(&self, error: u32) -> bool {
        (self.gerror ^ self.gerrorn) & error != 0
    }

    /// Activates `error`. Returns whether it was inactive (7.5).
    pub(super) fn activate(&mut self, error: u32) -> bool {
        let new = !self.error_active(error);
        if new {
            self.gerror ^= error;
        }
        new
    }

    /// Sets the ERR field of CMDQ_CONS.
    pub(super) fn set_command_error(&mut self, code: u32) {
        self.commands.cons = self.commands.cons & !ERR | (code << ERR_SHIFT) & ERR;
    }

    /// The updates of CR0, IRQ_CTRL and GBPA that were written and are not complete: bits of [`pending`].
    pub(super) fn pending(&self) -> u32 {
        when(self.cr0 != self.cr0ack, pending::CR0)
            | when(self.irq_ctrl != self.irq_ctrlack, pending::IRQ_CTRL)
            | when(self.gbpa != self.gbpa_written, pending::GBPA)
    }

    /// Completes these updates (6.3.9, 6.3.14, 6.3.16).
    pub(super) fn acknowledge(&mut self, updates: u32) -> Acknowledged {
        let mut disabled = false;
        if updates & pending::CR0 != 0 {
            disabled = self.cr0ack & !self.cr0 & cr0::SMMUEN != 0;
            self.cr0ack = self.cr0;
        }
        if updates & pending::IRQ_CTRL != 0 {
            self.irq_ctrlack = self.irq_ctrl;
        }
        if updates & pending::GBPA != 0 {
            self.gbpa_written &= !GBPA_UPDATE;
            self.gbpa = self.gbpa_written;
        }
        Acknowledged { any: updates != 0, disabled }
    }

    pub(super) fn read(&self, offset: usize, width: Width, stalled: u32) -> u64 {
        match width {
            Width::Word => self.read32(offset, stalled).into(),
            // Two adjacent 32-bit registers read as both (6.2).
            Width::Double => {
                u64::from(self.read32(offset, stalled)) | u64::from(self.read32(offset + 4, stalled)) << 32
            }
        }
    }

    fn read32(&self, offset: usize, stalled: u32) -> u32 {
        let Some(register) = Register::from_offset(offset) else {
            return match offset.checked_sub(4).and_then(Register::from_offset) {
                // There is nothing behind a 32-bit register but other registers and zeros.
                Some(register) => (self.value(register) >> 32) as u32,
                None => self.diagnostics.read(offset, stalled),
            };
        };
        self.value(register) as u32
    }

    /// What the whole register reads as.
    pub(super) fn value(&self, register: Register) -> u64 {
        match register {
            Register::Idr0 => self.ids.idr0.into(),
            Register::Idr1 => self.ids.idr1.into(),
            Register::Idr3 => self.ids.idr3.into(),
            Register::Idr5 => self.ids.idr5.into(),
            Register::Iidr => self.ids.iidr.into(),
            Register::Aidr => self.ids.aidr.into(),
            Register::Cr0 => self.cr0.into(),
            Register::Cr0Ack => self.cr0ack.into(),
            Register::Cr1 => self.cr1.into(),
            Register::Cr2 => self.cr2.into(),
            Register::Gbpa => self.gbpa_written.into(),
            Register::IrqCtrl => self.irq_ctrl.into(),
            Register::IrqCtrlAck => self.irq_ctrlack.into(),
            Register::Gerror => self.gerror.into(),
            Register::Gerrorn => self.gerrorn.into(),
            Register::StrtabBase => self.strtab_base,
            Register::StrtabBaseCfg => self.strtab_base_cfg.into(),
            Register::CmdqBase => self.commands.base,
            Register::CmdqProd => self.commands.prod.into(),
            Register::CmdqCons => self.commands.cons.into(),
            Register::EventqBase => self.events.base,
            Register::EventqProd => self.events.prod.into(),
            Register::EventqCons => self.events.cons.into(),
            Register::PriqBase => self.page_requests.base,
            Register::PriqProd => self.page_requests.prod.into(),
            Register::PriqCons => self.page_requests.cons.into(),
            Register::GerrorIrqCfg0 => self.gerror_msi.address,
            Register::GerrorIrqCfg1 => self.gerror_msi.data.into(),
            Register::GerrorIrqCfg2 => self.gerror_msi.attributes.into(),
            Register::EventqIrqCfg0 => self.event_msi.address,
            Register::EventqIrqCfg1 => self.event_msi.data.into(),
            Register::EventqIrqCfg2 => self.event_msi.attributes.into(),
            Register::PriqIrqCfg0 => self.page_request_msi.address,
            Register::PriqIrqCfg1 => self.page_request_msi.data.into(),
            Register::PriqIrqCfg2 => self.page_request_msi.attributes.into(),
        }
    }

    pub(super) fn write(&mut self, offset: usize, width: Width, value: u64) {
        match width {
            Width::Word => self.write32(offset, value as u32),
            // Two adjacent 32-bit registers are both written (6.2), and no 64-bit one does anything before it is whole.
            Width::Double => {
                self.write32(offset, value as u32);
                self.write32(offset + 4, (value >> 32) as u32);
            }
        }
    }

    fn write32(&mut self, offset: usize, value: u32) {
        if let Some(register) = Register::from_offset(offset) {
            let upper = if register.is_64bit() { self.value(register) & !0xffff_ffff } else { 0 };
            self.set(register, upper | u64::from(value));
        } else if let Some(register) = offset.checked_sub(4).and_then(Register::from_offset)
            && register.is_64bit()
        {
            self.set(register, self.value(register) & 0xffff_ffff | u64::from(value) << 32);
        } else {
            match offset {
                diagnostics::CONTROL => self.diagnostics.set_control(value),
                diagnostics::SEED => self.diagnostics.set_seed(value),
                diagnostics::REGISTER_POISON => self.poison(value),
                _ => {}
            }
        }
    }

    /// Writes a whole register. Writes to what is guarded are ignored, as SMMUv3.2 has it.
    fn set(&mut self, register: Register, value: u64) {
        let word = value as u32;
        let features = self.features;
        match register {
            Register::Cr0 => self.cr0 = update(self.cr0, self.cr0ack, word & cr0_fields(&features)),
            Register::IrqCtrl => self.irq_ctrl = update(self.irq_ctrl, self.irq_ctrlack, word & irq_fields(&features)),
            Register::Cr1 => {
                let queues = cr0::CMDQEN | cr0::EVENTQEN | cr0::PRIQEN;
                let writable = when(self.disabled(cr0::SMMUEN), CR1_TABLE) | when(self.disabled(queues), CR1_QUEUE);
                self.cr1 = self.cr1 & !writable | word & writable;
            }
            Register::Cr2 if self.disabled(cr0::SMMUEN) => self.cr2 = word & cr2_fields(&features),
            Register::Gbpa if word & GBPA_UPDATE != 0 && self.gbpa_written & GBPA_UPDATE == 0 => {
                self.gbpa_written = word & (GBPA_FIELDS | GBPA_UPDATE);
            }
            // A toggle of what is inactive makes it active, without an interrupt; this is one of the two behaviours that
            // 6.3.20 permits.
            Register::Gerrorn => self.gerrorn = word & gerror_fields(&features),
            Register::StrtabBase if self.disabled(cr0::SMMUEN) => {
                self.strtab_base = value & STRTAB_RA | self.truncated(value) & !0x3f;
            }
            Register::StrtabBaseCfg if self.disabled(cr0::SMMUEN) => {
                self.strtab_base_cfg = word & (STRTAB_LOG2SIZE | when(features.two_level, STRTAB_FORMAT));
            }
            Register::CmdqBase if self.disabled(cr0::CMDQEN) => self.commands.set_base(value),
            Register::CmdqProd => self.commands.set_prod(word & !OVERFLOW),
            Register::CmdqCons if self.disabled(cr0::CMDQEN) => {
                // ERR ignores what is written, which 6.3.28 permits: the reason of an active error stays.
                let error = self.commands.cons & ERR;
                self.commands.set_cons(word & !OVERFLOW);
                self.commands.cons |= error;
            }
            Register::EventqBase if self.disabled(cr0::EVENTQEN) => self.events.set_base(value),
            Register::EventqProd if self.disabled(cr0::EVENTQEN) => self.events.set_prod(word),
            Register::EventqCons => self.events.set_cons(word),
            Register::GerrorIrqCfg0 | Register::GerrorIrqCfg1 | Register::GerrorIrqCfg2
                if features.msi && self.interrupt_disabled(irq_ctrl::GERROR) =>
            {
                self.gerror_msi.set(register, self.truncated(value));
            }
            Register::EventqIrqCfg0 | Register::EventqIrqCfg1 | Register::EventqIrqCfg2
                if features.msi && self.interrupt_disabled(irq_ctrl::EVENTQ) =>
            {
                self.event_msi.set(register, self.truncated(value));
            }
            // All registers of the PRI queue are reserved without PRI (6.3.1).
            _ if !features.pri => {}
            Register::PriqBase if self.disabled(cr0::PRIQEN) => self.page_requests.set_base(value),
            Register::PriqProd if self.disabled(cr0::PRIQEN) => self.page_requests.set_prod(word),
            Register::PriqCons => self.page_requests.set_cons(word),
            // LO is there whether there are MSIs or not (6.3.1).
            Register::PriqIrqCfg2 if self.interrupt_disabled(irq_ctrl::PRIQ) => {
                self.page_request_msi.attributes = word & (LAST_ONLY | when(features.msi, msi::ATTRIBUTES));
            }
            Register::PriqIrqCfg0 | Register::PriqIrqCfg1
                if features.msi && self.interrupt_disabled(irq_ctrl::PRIQ) =>
            {
                self.page_request_msi.set(register, self.truncated(value));
            }
            _ => {}
        }
    }
}

/// What `written` makes of a register with the value `old`, of which `acknowledged` has taken effect. A field whose update
/// is not complete keeps the value that it is being updated to (6.3.9).
const fn update(old: u32, acknowledged: u32, written: u32) -> u32 {
    let pending = old ^ acknowledged;
    old & pending | written & !pending
}
