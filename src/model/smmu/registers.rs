//! The register file: what reads and writes of registers do (6.2, 6.3).

use super::diagnostics::{self, Diagnostics};
use super::queue::{OVERFLOW, Queue};
use crate::model::machine::Width;
use crate::smmuv3::features::{Features, IdRegisters};
use crate::smmuv3::registers::Register;

/// log2 of the largest queues, in entries.
const QUEUE_LOG2: u32 = 10;
/// log2 of the number of StreamIDs.
pub(super) const STREAM_BITS: u32 = 16;
/// log2 of the number of SubstreamIDs.
pub(super) const SUBSTREAM_BITS: u32 = 8;
/// `IDR5.OAS`: 48 bits.
const OAS: u32 = 5;

/// S2P, HTTU = Access flag and dirty state, HYP, NS1ATS = 0, VMID16, CD2L.
const TRANSLATION0: u32 = 1 << 0 | 2 << 6 | 1 << 9 | 1 << 18 | 1 << 19;
/// ATTR_PERMS_OVR.
const TRANSLATION1: u32 = 1 << 26;
/// XNX.
const TRANSLATION3: u32 = 1 << 4;
/// GRAN16K, GRAN64K.
const TRANSLATION5: u32 = 1 << 5 | 1 << 6;

/// S1P, TTF = AArch64, COHACC, ATS, ASID16, PRI, TTENDIAN = little, STALL_MODEL = stall and terminate, TERM_MODEL =
/// abort and RAZ/WI, ST_LEVEL = 2-level.
pub(super) const IDR0: u32 = 1 << 1 | 2 << 2 | 1 << 4 | 1 << 10 | 1 << 12 | 1 << 16 | 2 << 21 | 1 << 27 | TRANSLATION0;
/// SIDSIZE, SSIDSIZE, PRIQS, EVENTQS, CMDQS.
pub(super) const IDR1: u32 =
    STREAM_BITS | SUBSTREAM_BITS << 6 | QUEUE_LOG2 << 11 | QUEUE_LOG2 << 16 | QUEUE_LOG2 << 21 | TRANSLATION1;
/// HAD, RIL, BBML = 1. No PPS: `STE.PPAR` decides the PASID of automatic responses.
pub(super) const IDR3: u32 = 1 << 2 | 1 << 10 | 1 << 11 | TRANSLATION3;
/// OAS = 48 bits, GRAN4K, STALL_MAX.
pub(super) const IDR5: u32 = OAS | 1 << 4 | (super::stall::STALL_MAX as u32) << 16 | TRANSLATION5;
/// SMMUv3.2.
pub(super) const AIDR: u32 = 2;
/// No implementer claims it.
const IDS: IdRegisters = IdRegisters { idr0: IDR0, idr1: IDR1, idr3: IDR3, idr5: IDR5, iidr: 0, aidr: AIDR };
/// What they tell.
const FEATURES: Features = match Features::decode(IDS) {
    Ok(features) => features,
    Err(_) => panic!("the model's own ID registers make sense"),
};

/// Fields of CR0 and CR0ACK.
pub(super) mod cr0 {
    pub(in super::super) const SMMUEN: u32 = 1 << 0;
    pub(in super::super) const PRIQEN: u32 = 1 << 1;
    pub(in super::super) const EVENTQEN: u32 = 1 << 2;
    pub(in super::super) const CMDQEN: u32 = 1 << 3;
    pub(in super::super) const ATSCHK: u32 = 1 << 4;
    pub(super) const ALL: u32 = SMMUEN | PRIQEN | EVENTQEN | CMDQEN | ATSCHK;
}

/// Fields of IRQ_CTRL and IRQ_CTRLACK.
pub(super) mod irq_ctrl {
    pub(in super::super) const GERROR: u32 = 1 << 0;
    pub(in super::super) const PRIQ: u32 = 1 << 1;
    pub(in super::super) const EVENTQ: u32 = 1 << 2;
    pub(super) const ALL: u32 = GERROR | PRIQ | EVENTQ;
}

/// Fields of GERROR and GERRORN.
pub(super) mod gerror {
    pub(in super::super) const CMDQ_ERR: u32 = 1 << 0;
    pub(in super::super) const EVENTQ_ABT_ERR: u32 = 1 << 2;
    pub(in super::super) const PRIQ_ABT_ERR: u32 = 1 << 3;
    pub(super) const ALL: u32 = CMDQ_ERR | EVENTQ_ABT_ERR | PRIQ_ABT_ERR;
}

const E2H: u32 = 1 << 0;
pub(super) const RECINVSID: u32 = 1 << 1;
const REC_CFG_ATS: u32 = 1 << 3;
pub(super) const GBPA_ABORT: u32 = 1 << 20;
const GBPA_UPDATE: u32 = 1 << 31;
/// UPDATE aside: ABORT, INSTCFG, PRIVCFG, SHCFG, ALLOCCFG, MTCFG and MemAttr.
const GBPA_FIELDS: u32 = 0x001f_3f1f;
const CR1_TABLE: u32 = 0xfc0;
const CR1_QUEUE: u32 = 0x03f;
const STRTAB_BASE: u64 = 1 << 62 | 0xffff_ffff_ffc0;
const STRTAB_BASE_CFG: u32 = 0x3_07ff;
const PROD: u32 = 0xf_ffff;
/// The ERR field of CMDQ_CONS.
pub(super) const ERR_SHIFT: u32 = 24;
const ERR: u32 = 0x7f << ERR_SHIFT;

/// The values of all registers. Reads and writes act on these alone: what a write sets going happens in
/// [`acknowledge`](RegisterFile::acknowledge) and in the other parts of the SMMU.
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
    pub(super) strtab_base: u64,
    pub(super) strtab_base_cfg: u32,
    pub(super) commands: Queue,
    pub(super) events: Queue,
    pub(super) page_requests: Queue,
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
    pub(super) const fn new() -> Self {
        Self {
            ids: IDS,
            features: FEATURES,
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
            strtab_base: 0,
            strtab_base_cfg: 0,
            commands: Queue::new(QUEUE_LOG2),
            events: Queue::new(QUEUE_LOG2),
            page_requests: Queue::new(QUEUE_LOG2),
            diagnostics: Diagnostics::new(),
        }
    }

    /// Whether the CR0 field has taken effect as 1.
    pub(super) fn enabled(&self, field: u32) -> bool {
        self.cr0ack & field != 0
    }

    /// Whether the CR0 field is 0 and has taken effect as such: what it guards may be written (6.2).
    fn disabled(&self, field: u32) -> bool {
        (self.cr0 | self.cr0ack) & field == 0
    }

    pub(super) fn interrupt_enabled(&self, field: u32) -> bool {
        self.irq_ctrlack & field != 0
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
        self.features.ats_record_errors && self.cr2 & REC_CFG_ATS != 0
    }

    /// The bits of a physical address (`IDR5.OAS`).
    pub(super) fn output_bits(&self) -> u32 {
        self.features.oas.bits().into()
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
        self.commands.cons = self.commands.cons & !ERR | code << ERR_SHIFT & ERR;
    }

    /// Completes the updates of CR0, IRQ_CTRL and GBPA that were written (6.3.9, 6.3.14, 6.3.16).
    pub(super) fn acknowledge(&mut self) -> Acknowledged {
        let any = self.cr0 != self.cr0ack || self.irq_ctrl != self.irq_ctrlack || self.gbpa != self.gbpa_written;
        let disabled = self.cr0ack & !self.cr0 & cr0::SMMUEN != 0;
        self.cr0ack = self.cr0;
        self.irq_ctrlack = self.irq_ctrl;
        self.gbpa_written &= !GBPA_UPDATE;
        self.gbpa = self.gbpa_written;
        Acknowledged { any, disabled }
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
                Some(register) if register.is_64bit() => (self.value(register) >> 32) as u32,
                _ => self.diagnostics.read(offset, stalled),
            };
        };
        self.value(register) as u32
    }

    fn value(&self, register: Register) -> u64 {
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
            // Without MSIs the interrupt configuration is RES0.
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, offset: usize, width: Width, value: u64) {
        match width {
            Width::Word => self.write32(offset, value as u32),
            Width::Double => match Register::from_offset(offset) {
                Some(register) if register.is_64bit() => self.set(register, value),
                // Two adjacent 32-bit registers are both written (6.2).
                _ => {
                    self.write32(offset, value as u32);
                    self.write32(offset + 4, (value >> 32) as u32);
                }
            },
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
                _ => {}
            }
        }
    }

    /// Writes a whole register. Writes to what is guarded are ignored, as SMMUv3.2 has it.
    fn set(&mut self, register: Register, value: u64) {
        let word = value as u32;
        match register {
            Register::Cr0 => {
                // A field whose update is not complete keeps the value that it is being updated to (6.3.9).
                let pending = self.cr0 ^ self.cr0ack;
                self.cr0 = self.cr0 & pending | word & cr0::ALL & !pending;
            }
            Register::IrqCtrl => {
                let pending = self.irq_ctrl ^ self.irq_ctrlack;
                self.irq_ctrl = self.irq_ctrl & pending | word & irq_ctrl::ALL & !pending;
            }
            Register::Cr1 => {
                let queues = cr0::CMDQEN | cr0::EVENTQEN | cr0::PRIQEN;
                let tables = if self.disabled(cr0::SMMUEN) { CR1_TABLE } else { 0 };
                let writable = tables | if self.disabled(queues) { CR1_QUEUE } else { 0 };
                self.cr1 = self.cr1 & !writable | word & writable;
            }
            Register::Cr2 if self.disabled(cr0::SMMUEN) => self.cr2 = word & (E2H | RECINVSID),
            Register::Gbpa if word & GBPA_UPDATE != 0 && self.gbpa_written & GBPA_UPDATE == 0 => {
                self.gbpa_written = word & (GBPA_FIELDS | GBPA_UPDATE);
            }
            Register::Gerrorn => self.gerrorn = word & gerror::ALL,
            Register::StrtabBase if self.disabled(cr0::SMMUEN) => self.strtab_base = value & STRTAB_BASE,
            Register::StrtabBaseCfg if self.disabled(cr0::SMMUEN) => self.strtab_base_cfg = word & STRTAB_BASE_CFG,
            Register::CmdqBase if self.disabled(cr0::CMDQEN) => self.commands.set_base(value),
            Register::CmdqProd => self.commands.prod = word & PROD,
            Register::CmdqCons if self.disabled(cr0::CMDQEN) => self.commands.cons = word & PROD,
            Register::EventqBase if self.disabled(cr0::EVENTQEN) => self.events.set_base(value),
            Register::EventqProd if self.disabled(cr0::EVENTQEN) => self.events.prod = word & (PROD | OVERFLOW),
            Register::EventqCons => self.events.cons = word & (PROD | OVERFLOW),
            Register::PriqBase if self.disabled(cr0::PRIQEN) => self.page_requests.set_base(value),
            Register::PriqProd if self.disabled(cr0::PRIQEN) => self.page_requests.prod = word & (PROD | OVERFLOW),
            Register::PriqCons => self.page_requests.cons = word & (PROD | OVERFLOW),
            _ => {}
        }
    }
}
