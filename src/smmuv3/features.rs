//! What an SMMU can do, decoded from its ID registers (6.3.1 to 6.3.8).

mod display;

use thiserror::Error;
use tock_registers::RegisterLongName;
use tock_registers::fields::Field;

use super::queue::QueueSize;
use super::registers::Register;
use super::registers::fields::{IDR0, IDR1, IDR3, IDR5};
use super::{AddressSize, Granule};

/// The ID registers as read. IDR2 and IDR4 hold nothing that is used here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdRegisters {
    /// `SMMU_IDR0`.
    pub idr0: u32,
    /// `SMMU_IDR1`.
    pub idr1: u32,
    /// `SMMU_IDR3`.
    pub idr3: u32,
    /// `SMMU_IDR5`.
    pub idr5: u32,
    /// `SMMU_IIDR`.
    pub iidr: u32,
    /// `SMMU_AIDR`.
    pub aidr: u32,
}

/// What an SMMU can do. A feature that another one needs is off where that one is missing, as the specification has it
/// reserved there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Architecture version 3.`minor` (`AIDR.ArchMinorRev`).
    pub minor: u8,
    /// Implementer, JEP106 code (`IIDR.Implementer`).
    pub implementer: u16,
    /// Product (`IIDR.ProductID`).
    pub product: u16,
    /// Stage 1 translation (`S1P`).
    pub stage1: bool,
    /// Stage 2 translation (`S2P`).
    pub stage2: bool,
    /// VMSAv8-64 tables (`TTF`).
    pub aarch64: bool,
    /// VMSAv8-32 tables (`TTF`).
    pub aarch32: bool,
    /// Endianness of translation tables (`TTENDIAN`).
    pub table_endianness: TableEndianness,
    /// The SMMU's accesses to tables and queues are coherent (`COHACC`).
    pub coherent: bool,
    /// TLB maintenance by the cores reaches the SMMU (`BTM`).
    pub broadcast_tlb: bool,
    /// Hardware update of flags in translation tables (`HTTU`).
    pub httu: Httu,
    /// EL2 contexts (`HYP`).
    pub hyp: bool,
    /// PCIe ATS (`ATS`).
    pub ats: bool,
    /// ATS that answers with IPAs (`NS1ATS` = 0).
    pub split_ats: bool,
    /// Page requests and the PRI queue (`PRI`).
    pub pri: bool,
    /// Automatic PRI responses carry the request's PASID whatever `STE.PPAR` says (`PPS`).
    pub pps: bool,
    /// Width of an ASID, 8 or 16 (`ASID16`).
    pub asid_bits: u8,
    /// Width of a VMID, 8 or 16 (`VMID16`).
    pub vmid_bits: u8,
    /// Message signalled interrupts (`MSI`).
    pub msi: bool,
    /// WFE wake-up events (`SEV`).
    pub sev: bool,
    /// 2-level stream tables (`ST_LEVEL`).
    pub two_level: bool,
    /// 2-level CD tables (`CD2L`).
    pub cd2l: bool,
    /// Whether faults can, cannot or must stall (`STALL_MODEL`).
    pub stall_model: StallModel,
    /// A terminated transaction is always aborted, never RAZ/WI (`TERM_MODEL` = 1).
    pub term_model: bool,
    /// How many transactions can be stalled at once; 0 where none can (`STALL_MAX`).
    pub stall_max: u16,
    /// Width of a StreamID, 0 to 32 (`SIDSIZE`).
    pub sid_bits: u8,
    /// Width of a SubstreamID, 0 to 20; 0: no substreams (`SSIDSIZE`).
    pub ssid_bits: u8,
    /// The largest command queue (`CMDQS`).
    pub command_queue: QueueSize,
    /// The largest event queue (`EVENTQS`).
    pub event_queue: QueueSize,
    /// The largest PRI queue, where there is one (`PRIQS`).
    pub pri_queue: Option<QueueSize>,
    /// The places of the queues are fixed (`QUEUES_PRESET`).
    pub queues_preset: bool,
    /// The place of the stream table is fixed (`TABLES_PRESET`).
    pub tables_preset: bool,
    /// TLB invalidation by range (`RIL`).
    pub range_invalidation: bool,
    /// A block may become a table, and a table a block, at any time: the TLB never reports a conflict (`BBML` = 2).
    pub free_block_changes: bool,
    /// Small translation tables (`STT`).
    pub small_tables: bool,
    /// Hierarchical attributes can be disabled (`HAD`).
    pub hierarchy_disable: bool,
    /// Unprivileged access to either half of the addresses can be disabled (`E0PD`).
    pub unprivileged_disable: bool,
    /// Execute-never for each privilege at stage 2 (`XNX`).
    pub stage2_execute_by_privilege: bool,
    /// STEs can override whether an access is privileged or an instruction fetch (`ATTR_PERMS_OVR`).
    pub permission_overrides: bool,
    /// Configuration errors of ATS and PRI can be recorded (`ATSRECERR`).
    pub ats_record_errors: bool,
    /// Output address size (`OAS`).
    pub oas: AddressSize,
    /// Virtual address size in bits, 48, 52 or 56 (`VAX`).
    pub va_bits: u8,
    /// 4 KiB granule (`GRAN4K`).
    pub granule_4k: bool,
    /// 16 KiB granule (`GRAN16K`).
    pub granule_16k: bool,
    /// 64 KiB granule (`GRAN64K`).
    pub granule_64k: bool,
    /// 52-bit addresses with the 4 KiB and 16 KiB granules (`DS`).
    pub ds: bool,
}

/// Endianness of translation tables. Numbered as `TTENDIAN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableEndianness {
    /// As each CD and STE says.
    Mixed = 0,
    /// Little only.
    Little = 2,
    /// Big only.
    Big = 3,
}

/// Which flags the SMMU updates in translation tables. Numbered as `HTTU`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Httu {
    /// None.
    None = 0,
    /// The Access flag.
    AccessFlag = 1,
    /// And dirty state.
    Dirty = 2,
    /// And the Access flag of table descriptors.
    Tables = 3,
}

/// Whether translation faults can stall. Numbered as `STALL_MODEL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallModel {
    /// As each CD and STE says.
    Configurable = 0,
    /// They never do.
    Terminate = 1,
    /// They always do.
    Forced = 2,
}

/// Why ID registers make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FeaturesError {
    /// A field holds a reserved value.
    #[error("{}.{field} has the reserved value {value}", .register.name())]
    Reserved {
        /// In which register.
        register: Register,
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u32,
    },
    /// Neither stage is supported (IDR0).
    #[error("IDR0 {0:#010x} offers neither stage of translation (IDR0.S1P, IDR0.S2P)")]
    NoStage(u32),
    /// No granule is supported (IDR5).
    #[error("IDR5 {0:#010x} offers no translation granule (IDR5.GRAN4K, IDR5.GRAN16K, IDR5.GRAN64K)")]
    NoGranule(u32),
}

impl Features {
    /// Decodes the ID registers.
    ///
    /// # Errors
    ///
    /// [`FeaturesError`] for a reserved value, and for an SMMU that could not translate anything.
    pub const fn decode(ids: IdRegisters) -> Result<Self, FeaturesError> {
        let IdRegisters { idr0, idr1, idr3, idr5, iidr, aidr } = ids;
        let stage1 = is_set(idr0, IDR0::S1P);
        let stage2 = is_set(idr0, IDR0::S2P);
        if !stage1 && !stage2 {
            return Err(FeaturesError::NoStage(idr0));
        }
        let formats = read(idr0, IDR0::TTF);
        if formats == 0 {
            return reserved(Register::Idr0, "TTF", formats);
        }
        let table_endianness = match read(idr0, IDR0::TTENDIAN) {
            0 => TableEndianness::Mixed,
            2 => TableEndianness::Little,
            3 => TableEndianness::Big,
            value => return reserved(Register::Idr0, "TTENDIAN", value),
        };
        let stall_model = match read(idr0, IDR0::STALL_MODEL) {
            0 => StallModel::Configurable,
            1 => StallModel::Terminate,
            2 => StallModel::Forced,
            value => return reserved(Register::Idr0, "STALL_MODEL", value),
        };
        let two_level = match read(idr0, IDR0::ST_LEVEL) {
            0 => false,
            1 => true,
            value => return reserved(Register::Idr0, "ST_LEVEL", value),
        };
        let sid_bits = match read(idr1, IDR1::SIDSIZE) {
            bits @ 0..=32 => bits as u8,
            value => return reserved(Register::Idr1, "SIDSIZE", value),
        };
        let ssid_bits = match read(idr1, IDR1::SSIDSIZE) {
            bits @ 0..=20 => bits as u8,
            value => return reserved(Register::Idr1, "SSIDSIZE", value),
        };
        let ats = is_set(idr0, IDR0::ATS);
        let pri = ats && is_set(idr0, IDR0::PRI);
        let Some(command_queue) = QueueSize::new(read(idr1, IDR1::CMDQS) as u8) else {
            return reserved(Register::Idr1, "CMDQS", read(idr1, IDR1::CMDQS));
        };
        let Some(event_queue) = QueueSize::new(read(idr1, IDR1::EVENTQS) as u8) else {
            return reserved(Register::Idr1, "EVENTQS", read(idr1, IDR1::EVENTQS));
        };
        let pri_queue = QueueSize::new(read(idr1, IDR1::PRIQS) as u8);
        if pri && pri_queue.is_none() {
            return reserved(Register::Idr1, "PRIQS", read(idr1, IDR1::PRIQS));
        }
        let va_bits = match read(idr5, IDR5::VAX) {
            0 => 48,
            1 => 52,
            2 => 56,
            value => return reserved(Register::Idr5, "VAX", value),
        };
        if read(idr5, IDR5::GRAN4K) + read(idr5, IDR5::GRAN16K) + read(idr5, IDR5::GRAN64K) == 0 {
            return Err(FeaturesError::NoGranule(idr5));
        }
        Ok(Self {
            minor: (aidr & 0xf) as u8,
            implementer: (iidr & 0xfff) as u16,
            product: (iidr >> 20) as u16,
            stage1,
            stage2,
            aarch64: formats & 2 != 0,
            aarch32: formats & 1 != 0,
            table_endianness,
            coherent: is_set(idr0, IDR0::COHACC),
            broadcast_tlb: is_set(idr0, IDR0::BTM),
            httu: match read(idr0, IDR0::HTTU) {
                0 => Httu::None,
                1 => Httu::AccessFlag,
                2 => Httu::Dirty,
                _ => Httu::Tables,
            },
            hyp: stage1 && stage2 && is_set(idr0, IDR0::HYP),
            ats,
            split_ats: ats && stage1 && stage2 && !is_set(idr0, IDR0::NS1ATS),
            pri,
            pps: pri && ssid_bits > 0 && is_set(idr3, IDR3::PPS),
            asid_bits: if is_set(idr0, IDR0::ASID16) { 16 } else { 8 },
            vmid_bits: if is_set(idr0, IDR0::VMID16) { 16 } else { 8 },
            msi: is_set(idr0, IDR0::MSI),
            sev: is_set(idr0, IDR0::SEV),
            two_level,
            cd2l: is_set(idr0, IDR0::CD2L),
            stall_model,
            term_model: is_set(idr0, IDR0::TERM_MODEL),
            stall_max: match stall_model {
                StallModel::Terminate => 0,
                _ => read(idr5, IDR5::STALL_MAX) as u16,
            },
            sid_bits,
            ssid_bits,
            command_queue,
            event_queue,
            pri_queue: if pri { pri_queue } else { None },
            queues_preset: is_set(idr1, IDR1::QUEUES_PRESET),
            tables_preset: is_set(idr1, IDR1::TABLES_PRESET),
            range_invalidation: is_set(idr3, IDR3::RIL),
            free_block_changes: read(idr3, IDR3::BBML) == 2,
            small_tables: is_set(idr3, IDR3::STT),
            hierarchy_disable: is_set(idr3, IDR3::HAD),
            unprivileged_disable: is_set(idr3, IDR3::E0PD),
            stage2_execute_by_privilege: stage2 && is_set(idr3, IDR3::XNX),
            permission_overrides: is_set(idr1, IDR1::ATTR_PERMS_OVR),
            ats_record_errors: ats && is_set(idr0, IDR0::ATSRECERR),
            oas: AddressSize::from_low_bits(read(idr5, IDR5::OAS) as u64),
            va_bits,
            granule_4k: is_set(idr5, IDR5::GRAN4K),
            granule_16k: is_set(idr5, IDR5::GRAN16K),
            granule_64k: is_set(idr5, IDR5::GRAN64K),
            ds: is_set(idr5, IDR5::DS),
        })
    }

    /// Whether transactions can stall.
    pub const fn can_stall(&self) -> bool {
        !matches!(self.stall_model, StallModel::Terminate)
    }

    /// The largest intermediate address in bits (3.4).
    pub const fn ias(&self) -> u8 {
        if self.aarch64 && (!self.aarch32 || self.oas.bits() > 40) { self.oas.bits() } else { 40 }
    }

    /// Whether translation tables can have this granule.
    pub const fn has_granule(&self, granule: Granule) -> bool {
        match granule {
            Granule::Size4K => self.granule_4k,
            Granule::Size16K => self.granule_16k,
            Granule::Size64K => self.granule_64k,
        }
    }
}

/// The value of `field` in `register`. The accessors of `tock_registers` are not `const`.
const fn read<R: RegisterLongName>(register: u32, field: Field<u32, R>) -> u32 {
    register >> field.shift & field.mask
}

const fn is_set<R: RegisterLongName>(register: u32, field: Field<u32, R>) -> bool {
    read(register, field) != 0
}

const fn reserved(register: Register, field: &'static str, value: u32) -> Result<Features, FeaturesError> {
    Err(FeaturesError::Reserved { register, field, value })
}

/// The features of an SMMU with stages, stall, ATS, PRI and tables of every kind, for tests.
#[cfg(test)]
pub(crate) fn test_features() -> Features {
    Features::decode(tests::EVERYTHING).unwrap()
}

#[cfg(test)]
mod tests;
