//! Rules about writes to registers (3.5.1, 6.2, 6.3).

use super::super::configuration::split;
use super::super::queue::{OVERFLOW, Queue};
use super::super::registers::{
    LAST_ONLY, STRTAB_FORMAT, STRTAB_LOG2SIZE, cr0, cr0_fields, cr2_fields, gerror, gerror_fields, irq_ctrl,
    irq_fields, when,
};
use super::super::{Smmu, msi};
use super::{Entry, Rule};
use crate::model::machine::Width;
use crate::smmuv3::registers::Register;

/// Update of GBPA.
const UPDATE: u32 = 1 << 31;

/// Which 32-bit words of registers were written since the reset, a bit each by their offset in the page. In those of page 1
/// page 0 has no registers.
#[derive(Debug)]
pub(super) struct Written(u64);

impl Written {
    pub(super) const fn new() -> Self {
        Self(0)
    }

    const fn word(offset: usize) -> u64 {
        1 << (offset % 0x100 / 4)
    }

    /// A write of `width` to the register at `offset`, or to the upper half of one; `resized`: LOG2SIZE changes if it has
    /// one.
    fn note(&mut self, offset: usize, width: Width, resized: bool) {
        let first = self.0 & Self::word(offset) == 0;
        self.0 |= Self::word(offset);
        if width == Width::Double {
            self.0 |= Self::word(offset + 4);
        }
        // LOG2SIZE decides which bits of the indices can be written (6.3.26).
        if let Some(Register::CmdqBase | Register::EventqBase | Register::PriqBase) = Register::from_offset(offset)
            && (first || resized)
        {
            self.0 &= !(Self::word(offset + 8) | Self::word(offset + 12));
        }
    }

    fn all_of(&self, register: Register) -> bool {
        let offset = register.offset();
        let upper = if register.is_64bit() { Self::word(offset + 4) } else { 0 };
        let words = Self::word(offset) | upper;
        self.0 & words == words
    }
}

impl Smmu {
    /// Software is about to write `value` to the register at `offset`.
    pub(in crate::model::smmu) fn check_write(&mut self, offset: usize, width: Width, value: u64) {
        if !self.strict.on {
            return;
        }
        self.strict.journal.note(Entry::Write { offset, width, value });
        let upper = || offset.checked_sub(4).and_then(Register::from_offset).filter(|register| register.is_64bit());
        let (register, value) = match (width, Register::from_offset(offset)) {
            (Width::Double, Some(register)) if register.is_64bit() => (register, value),
            (Width::Double, None) if Register::from_offset(offset + 4).is_none() => return,
            (Width::Double, _) => return self.strict.violate(Rule::DoubleAccess, [("offset", offset as u64)]),
            // The upper half of a 32-bit register is 0.
            (Width::Word, Some(register)) => (register, self.registers.value(register) & !0xffff_ffff | value),
            (Width::Word, None) => match upper() {
                Some(register) => (register, self.registers.value(register) & 0xffff_ffff | value << 32),
                None => return,
            },
        };
        // Where there is no PRI, its registers are none (6.3.1).
        let page_requests = matches!(
            register,
            Register::PriqBase
                | Register::PriqProd
                | Register::PriqCons
                | Register::PriqIrqCfg0
                | Register::PriqIrqCfg1
                | Register::PriqIrqCfg2
        );
        if page_requests && !self.registers.features.pri {
            return;
        }
        self.check_guard(register, value);
        self.check_value(register, value);
        let resized = (self.registers.value(register) ^ value) & 0x1f != 0;
        self.strict.written.note(offset, width, resized);
    }

    /// A guarded field may change only while its guard is 0 and acknowledged as 0 (6.2). A write that changes nothing is
    /// permitted.
    fn check_guard(&mut self, register: Register, value: u64) {
        if (self.registers.value(register) ^ value) & self.guarded(register) != 0 {
            self.violate_by(Rule::GuardedField, register, value);
        }
    }

    /// The fields of `register` that may not change now.
    fn guarded(&self, register: Register) -> u64 {
        let registers = &self.registers;
        let features = &registers.features;
        let enable = |guard: u32, fields: u64| if registers.disabled(guard) { 0 } else { fields };
        let queue = |guard: u32| enable(guard, 1 << 62 | registers.truncated(!0));
        let index = |guard: u32, queue: &Queue| enable(guard, queue.index(!0).raw().into());
        let interrupt = |guard: u32, fields: u64| if registers.interrupt_disabled(guard) { 0 } else { fields };
        // Messages are guarded where there are any (6.3.16).
        let message = |guard: u32, fields: u64| if features.msi { interrupt(guard, fields) } else { 0 };
        let (target, attributes) = (registers.truncated(!3), msi::ATTRIBUTES.into());
        match register {
            Register::Cr1 => enable(cr0::SMMUEN, 0xfc0) | enable(cr0::CMDQEN | cr0::EVENTQEN | cr0::PRIQEN, 0x3f),
            Register::Cr2 => enable(cr0::SMMUEN, cr2_fields(features).into()),
            Register::StrtabBase => enable(cr0::SMMUEN, 1 << 62 | registers.truncated(!0x3f)),
            Register::StrtabBaseCfg => {
                enable(cr0::SMMUEN, (STRTAB_LOG2SIZE | when(features.two_level, STRTAB_FORMAT)).into())
            }
            Register::CmdqBase => queue(cr0::CMDQEN),
            Register::EventqBase => queue(cr0::EVENTQEN),
            Register::PriqBase => queue(cr0::PRIQEN),
            Register::CmdqCons => index(cr0::CMDQEN, &registers.commands),
            Register::EventqProd => index(cr0::EVENTQEN, &registers.events),
            Register::PriqProd => index(cr0::PRIQEN, &registers.page_requests),
            Register::GerrorIrqCfg0 => message(irq_ctrl::GERROR, target),
            Register::GerrorIrqCfg1 => message(irq_ctrl::GERROR, u32::MAX.into()),
            Register::GerrorIrqCfg2 => message(irq_ctrl::GERROR, attributes),
            Register::EventqIrqCfg0 => message(irq_ctrl::EVENTQ, target),
            Register::EventqIrqCfg1 => message(irq_ctrl::EVENTQ, u32::MAX.into()),
            Register::EventqIrqCfg2 => message(irq_ctrl::EVENTQ, attributes),
            Register::PriqIrqCfg0 => message(irq_ctrl::PRIQ, target),
            Register::PriqIrqCfg1 => message(irq_ctrl::PRIQ, u32::MAX.into()),
            // LO is there whether there are messages or not (6.3.1).
            Register::PriqIrqCfg2 => message(irq_ctrl::PRIQ, attributes) | interrupt(irq_ctrl::PRIQ, LAST_ONLY.into()),
            _ => 0,
        }
    }

    fn check_value(&mut self, register: Register, value: u64) {
        let word = value as u32;
        let old = self.registers.value(register) as u32;
        let features = &self.registers.features;
        let (commands, events) = (features.command_queue, features.event_queue);
        match register {
            Register::Cr0 => {
                if (word ^ old) & (old ^ self.registers.value(Register::Cr0Ack) as u32) != 0 {
                    self.violate_by(Rule::FieldInUpdate, register, value);
                }
                self.check_enables(word & !old & cr0_fields(&self.registers.features));
            }
            Register::IrqCtrl => {
                if (word ^ old) & (old ^ self.registers.value(Register::IrqCtrlAck) as u32) != 0 {
                    self.violate_by(Rule::FieldInUpdate, register, value);
                }
                self.check_messages(word & !old);
            }
            Register::Gbpa if old & UPDATE != 0 => self.violate_by(Rule::GbpaInUpdate, register, value),
            Register::Gbpa if word & UPDATE == 0 => self.violate_by(Rule::GbpaWithoutUpdate, register, value),
            Register::Gerrorn => {
                let active = self.registers.value(Register::Gerror) as u32 ^ old;
                if (word ^ old) & gerror_fields(features) & !active != 0 {
                    self.violate_by(Rule::ErrorNotActive, register, value);
                }
            }
            Register::CmdqBase => self.check_size(register, value, commands.log2()),
            Register::EventqBase => self.check_size(register, value, events.log2()),
            Register::PriqBase => {
                let largest = features.pri_queue.map_or(0, |largest| largest.log2());
                self.check_size(register, value, largest);
            }
            Register::CmdqProd if !self.registers.disabled(cr0::CMDQEN) => self.check_producer(word),
            Register::EventqCons if !self.registers.disabled(cr0::EVENTQEN) => {
                let broken = check_consumer(&self.registers.events, word);
                broken.into_iter().for_each(|rule| self.violate_by(rule, register, value));
            }
            Register::PriqCons if !self.registers.disabled(cr0::PRIQEN) => {
                let broken = check_consumer(&self.registers.page_requests, word);
                broken.into_iter().for_each(|rule| self.violate_by(rule, register, value));
            }
            _ => {}
        }
    }

    fn violate_by(&mut self, rule: Rule, register: Register, value: u64) {
        let old = self.registers.value(register);
        self.strict.violate(rule, [("register", register.offset() as u64), ("value", old), ("written", value)]);
    }

    fn check_size(&mut self, register: Register, value: u64, largest: u8) {
        if value & 0x1f > largest.into() {
            self.violate_by(Rule::QueueTooLarge, register, value);
        }
    }

    /// CMDQ_PROD is about to become `word`, while the queue is enabled (3.5.1, 7.1).
    fn check_producer(&mut self, word: u32) {
        let queue = &self.registers.commands;
        let (size, old, cons) = (queue.size(), queue.index(queue.prod), queue.index(queue.cons));
        let new = queue.index(word);
        // What is wrong already is no fault of this write.
        let Ok(pending) = size.len(old, cons) else { return };
        let rule = match size.len(new, cons) {
            Ok(len) if len >= pending || self.registers.error_active(gerror::CMDQ_ERR) => return,
            Err(_) if size.len(new, old).is_ok() => Rule::ProducerTooFar,
            _ => Rule::ProducerBackwards,
        };
        let about = [("CONS", cons.raw()), ("PROD", old.raw()), ("written", new.raw())];
        self.strict.violate(rule, about.map(|(name, value)| (name, value.into())));
    }

    /// `enabled` says what is about to be enabled: whether software has written these registers that it puts to use, which
    /// reset leaves UNKNOWN.
    fn check_written(&mut self, enabled: Register, field: u32, used: &[Register]) {
        if let Some(unwritten) = used.iter().find(|register| !self.strict.written.all_of(**register)) {
            let about = [
                (enabled.name(), field.into()),
                ("register", unwritten.offset() as u64),
                ("value", self.registers.value(*unwritten)),
            ];
            self.strict.violate(Rule::RegisterUnwritten, about);
        }
    }

    /// These fields of IRQ_CTRL are about to be set: a message goes to an address that software has written, if only to say
    /// that there is none (3.18.2).
    fn check_messages(&mut self, set: u32) {
        if !self.registers.features.msi {
            return;
        }
        use Register::{
            EventqIrqCfg0, EventqIrqCfg1, EventqIrqCfg2, GerrorIrqCfg0, GerrorIrqCfg1, GerrorIrqCfg2, PriqIrqCfg0,
            PriqIrqCfg1, PriqIrqCfg2,
        };
        for (enable, message) in [
            (irq_ctrl::GERROR, [GerrorIrqCfg0, GerrorIrqCfg1, GerrorIrqCfg2]),
            (irq_ctrl::EVENTQ, [EventqIrqCfg0, EventqIrqCfg1, EventqIrqCfg2]),
            (irq_ctrl::PRIQ, [PriqIrqCfg0, PriqIrqCfg1, PriqIrqCfg2]),
        ] {
            let [address, ..] = message;
            if set & enable & irq_fields(&self.registers.features) != 0 {
                let used = if self.registers.value(address) == 0 { &message[..1] } else { &message[..] };
                self.check_written(Register::IrqCtrl, enable, used);
            }
        }
    }

    /// These fields of CR0 are about to be set.
    fn check_enables(&mut self, set: u32) {
        use Register::{
            CmdqBase, CmdqCons, CmdqProd, Cr1, EventqBase, EventqCons, EventqProd, PriqBase, PriqCons, PriqProd,
            StrtabBase, StrtabBaseCfg,
        };
        let used = [
            (cr0::CMDQEN, &[Cr1, CmdqBase, CmdqProd, CmdqCons][..]),
            (cr0::EVENTQEN, &[Cr1, EventqBase, EventqProd, EventqCons]),
            (cr0::PRIQEN, &[Cr1, PriqBase, PriqProd, PriqCons]),
            (cr0::SMMUEN, &[Cr1, StrtabBase, StrtabBaseCfg]),
        ];
        for (enable, used) in used.into_iter().filter(|(enable, _)| set & enable != 0) {
            self.check_written(Register::Cr0, enable, used);
        }
        let queues = [
            (cr0::CMDQEN, &self.registers.commands, 16),
            (cr0::EVENTQEN, &self.registers.events, 32),
            (cr0::PRIQEN, &self.registers.page_requests, 16),
        ];
        for (enable, queue, entry) in queues {
            if set & enable == 0 {
                continue;
            }
            let about = [("BASE", queue.base), ("PROD", queue.prod.into()), ("CONS", queue.cons.into())];
            if queue.len().is_none() {
                self.strict.violate(Rule::QueueInconsistent, about);
            }
            if !queue.is_aligned(entry) {
                self.strict.violate(Rule::QueueMisaligned, about);
            }
        }
        if set & cr0::SMMUEN == 0 {
            return;
        }
        let (base, configuration) = (self.registers.strtab_base, self.registers.strtab_base_cfg);
        let log2 = configuration & 0x3f;
        // FMT: linear with 64 bytes for each stream, or level 1 descriptors of 8 bytes for 2^SPLIT streams each.
        let bits = match configuration >> 16 & 3 {
            1 => (log2.saturating_sub(split(configuration)) + 3).max(6),
            _ => log2 + 6,
        };
        if base & ((1 << bits.min(56)) - 1) & !0x3f != 0 {
            let about = [("STRTAB_BASE", base), ("STRTAB_BASE_CFG", configuration.into())];
            self.strict.violate(Rule::StreamTableMisaligned, about);
        }
        if !self.strict.published.all_invalidated(self.registers.features.hyp) {
            self.strict.violate(Rule::NotInvalidated, []);
        }
    }
}

/// What is wrong with a write of `word` to CONS of an enabled event or PRI queue (3.5.1, 6.3.96, 6.3.98).
fn check_consumer(queue: &Queue, word: u32) -> Option<Rule> {
    if (word ^ queue.cons) & OVERFLOW != 0 && !queue.overflown() {
        return Some(Rule::OverflowNotActive);
    }
    let size = queue.size();
    let (prod, old, new) = (queue.index(queue.prod), queue.index(queue.cons), queue.index(word));
    // What is wrong already is no fault of this write.
    let unread = size.len(prod, old).ok()?;
    match size.len(prod, new) {
        Ok(len) if len <= unread => None,
        Ok(_) => Some(Rule::ConsumerBackwards),
        // Further from PROD than a queue is long: ahead of it if it is near the old CONS, too.
        Err(_) if size.len(new, old).is_ok() => Some(Rule::ConsumerPastProducer),
        Err(_) => Some(Rule::ConsumerBackwards),
    }
}
