//! Features in words.

use core::fmt;

use super::{Features, Httu, StallModel, TableEndianness};

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SMMUv3.{} implementer {:#05x} product {:#05x}:", self.minor, self.implementer, self.product)?;
        for (name, present) in [
            ("stage 1", self.stage1),
            ("stage 2", self.stage2),
            ("AArch64 tables", self.aarch64),
            ("AArch32 tables", self.aarch32),
            ("coherent", self.coherent),
            ("broadcast TLB", self.broadcast_tlb),
            ("EL2", self.hyp),
            ("ATS", self.ats),
            ("split ATS", self.split_ats),
            ("PRI", self.pri),
            ("PPS", self.pps),
            ("MSI", self.msi),
            ("SEV", self.sev),
            ("2-level stream table", self.two_level),
            ("2-level CD table", self.cd2l),
            ("queues preset", self.queues_preset),
            ("tables preset", self.tables_preset),
            ("range TLBI", self.range_invalidation),
            ("4K", self.granule_4k),
            ("16K", self.granule_16k),
            ("64K", self.granule_64k),
        ] {
            if present {
                write!(f, " {name},")?;
            }
        }
        match self.table_endianness {
            TableEndianness::Mixed => {}
            TableEndianness::Little => write!(f, " little-endian tables,")?,
            TableEndianness::Big => write!(f, " big-endian tables,")?,
        }
        match self.httu {
            Httu::None => {}
            Httu::AccessFlag => write!(f, " HTTU of AF,")?,
            Httu::Dirty => write!(f, " HTTU of AF and dirty,")?,
            Httu::Tables => write!(f, " HTTU of AF, dirty and tables,")?,
        }
        match self.stall_model {
            StallModel::Terminate => write!(f, " no stall,")?,
            StallModel::Configurable => write!(f, " up to {} stalls,", self.stall_max)?,
            StallModel::Forced => write!(f, " up to {} stalls, forced,", self.stall_max)?,
        }
        write!(f, " termination by {},", if self.term_model { "abort" } else { "abort or RAZ/WI" })?;
        write!(
            f,
            " addresses {} to {} bits, ASID {} VMID {}",
            self.va_bits,
            self.oas.bits(),
            self.asid_bits,
            self.vmid_bits
        )?;
        write!(f, " StreamID {} SubstreamID {} bits,", self.sid_bits, self.ssid_bits)?;
        write!(f, " queues 2^{} commands 2^{} events", self.command_queue.log2(), self.event_queue.log2())?;
        match self.pri_queue {
            Some(size) => write!(f, " 2^{} page requests", size.log2()),
            None => Ok(()),
        }
    }
}
