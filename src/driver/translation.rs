//! Where the transactions of a stream go, and the entries and descriptors that say so (5.2, 5.4).

use super::context_table::ContextTable;
use super::error::DriverError;
use super::guest::Guest;
use super::registers::Registers;
use super::stream::{FaultMode, StreamConfig};
use super::structure::WORDS;
use super::{Delay, Smmu};
use crate::smmuv3::cd::{ContextDescriptor, TableBase};
use crate::smmuv3::features::{Features, StallModel};
use crate::smmuv3::ste::{self, AtsMode, DefaultSubstream, Stage1, Ste, StreamWorld};
use crate::smmuv3::{AddressSize, Asid, FlagUpdate, Granule, PhysAddr, StreamId, TableAttributes, Vmid};

/// An address space as a context descriptor describes it: stage 1 tables with the 4 KiB granule, in the lower half of
/// the addresses (5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The top-level translation table, aligned to its size. For an SMMU that is not coherent it is [cleaned](Smmu::coherence), and what it leads to.
    pub table: PhysAddr,
    /// The tag of the address space's translations, not [`NO_TABLES`], and below 256 where IDR0.ASID16 is 0.
    pub asid: Asid,
    /// 64 minus the number of address bits: 16 for 48 bits, 25 for 39, 39 at most.
    pub t0sz: u8,
    /// The memory attributes that AttrIndx selects, MAIR_EL1's format.
    pub mair: u64,
}

/// The memory of a virtual machine as a stream table entry describes it: stage 2 tables with the 4 KiB granule (5.2).
///
/// Where one table more at the start would hold 16 entries at most, the tables that these would lead to lie side by side
/// instead, and the walk begins with them: at level 2 for up to 34 address bits, at level 1 for up to 43, else at level 0
/// (Arm DDI 0487, D8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2 {
    /// The first table, or the first of those side by side, aligned to the size of them all. For an SMMU that is not coherent they are
    /// [cleaned](Smmu::coherence), and what they lead to.
    pub table: PhysAddr,
    /// The tag of the translations, not [`HOST`], and below 256 where IDR0.VMID16 is 0. It stands for these tables alone (5.2.1).
    pub vmid: Vmid,
    /// The number of address bits, 25 to 48 and not more than the SMMU's intermediate addresses have (3.4).
    pub ipa_bits: u8,
}

/// Where the transactions of a stream go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Nowhere: they are aborted, without a record.
    Abort,
    /// To the addresses that they name.
    Bypass,
    /// Through stage 1.
    Stage1 {
        /// Where transactions without a substream go; `None` terminates them.
        context: Option<Context>,
        /// The number of substreams as a power of two; 0 is none. See [`Smmu::attach_substream`].
        substream_bits: u8,
    },
    /// Through stage 2. Transactions with a SubstreamID are terminated (5.2, S1CDMax).
    Stage2(Stage2),
    /// Through a virtual machine's own stage 1, and then through stage 2.
    Nested(Guest, Stage2),
}

/// Stage 1 without substreams.
impl From<Context> for Translation {
    fn from(context: Context) -> Self {
        Self::Stage1 { context: Some(context), substream_bits: 0 }
    }
}

/// The tag of descriptors that have no tables any more. No address space has it: an access through such a descriptor may
/// not meet somebody else's translations in the TLB.
pub const NO_TABLES: Asid = Asid(0);

/// The VMID of streams that go through stage 1 alone: where there is a stage 2, their translations have such a tag too (5.2, S2VMID).
/// No virtual machine has it.
pub const HOST: Vmid = Vmid(0);

/// Translation table entries of a table, as a power of two, with the 4 KiB granule.
const STRIDE: u8 = 9;
/// Tables side by side at the start of stage 2, as a power of two (Arm DDI 0487, D8.2).
const SIDE_BY_SIDE: u8 = 4;
/// The most address bits that the driver's descriptors have: more need others (3.4.1).
const MAX_BITS: u8 = 48;
/// S2T0SZ and T0SZ are 39 at most without small tables (5.2, 5.4, IDR3.STT).
const MIN_BITS: u8 = 25;

/// Whether `value` has more than `bits` bits.
fn is_beyond(value: u64, bits: u8) -> bool {
    value.checked_shr(bits.into()).is_some_and(|beyond| beyond != 0)
}

/// The first refusal that holds.
fn first_of(refusals: &[(bool, &'static str)]) -> Option<&'static str> {
    refusals.iter().find(|(refused, _)| *refused).map(|(_, what)| *what)
}

impl Context {
    /// Why an SMMU cannot have it: its descriptor would be ILLEGAL, or lead to another table (5.4).
    pub(super) fn refusal(&self, features: &Features) -> Option<&'static str> {
        let bits = 64_u8.saturating_sub(self.t0sz);
        // The first table has up to 512 entries, as many as the tables below leave bits for.
        let start_bytes = 16_u64 << (bits.saturating_sub(13) % STRIDE);
        first_of(&[
            // With 8-bit ASIDs descriptors with a longer one are illegal.
            (
                self.asid == NO_TABLES || is_beyond(self.asid.0.into(), features.asid_bits),
                "an address space with that ASID",
            ),
            (!(MIN_BITS..=MAX_BITS).contains(&bits), "an address space with so many address bits (CD.T0SZ)"),
            (is_beyond(self.table.0, output_size(features).bits()), "tables at that address (IDR5.OAS)"),
            (!self.table.0.is_multiple_of(start_bytes), "tables that are not aligned"),
        ])
    }
}

impl Stage2 {
    /// The level at which the walk begins.
    const fn start_level(&self) -> u8 {
        // A table of level 3 resolves bits 12 to 20.
        let above_level_2 = self.ipa_bits.saturating_sub(21 + STRIDE + SIDE_BY_SIDE);
        2_u8.saturating_sub(above_level_2.div_ceil(STRIDE))
    }

    /// The size of the tables at the start, in bytes.
    fn start_bytes(&self) -> u64 {
        let below = 12 + STRIDE * (3 - self.start_level());
        8_u64.checked_shl(self.ipa_bits.saturating_sub(below).into()).unwrap_or_default()
    }

    /// Why an SMMU cannot have it.
    fn refusal(&self, features: &Features) -> Option<&'static str> {
        first_of(&[
            (!features.stage2, "stage 2 translation (IDR0.S2P)"),
            (self.vmid == HOST || is_beyond(self.vmid.0.into(), features.vmid_bits), "that VMID (IDR0.VMID16)"),
            (
                !(MIN_BITS..=features.ias().min(MAX_BITS)).contains(&self.ipa_bits),
                "stage 2 with so many address bits (IDR5.OAS)",
            ),
            (is_beyond(self.table.0, output_size(features).bits()), "stage 2 tables at that address (IDR5.OAS)"),
            (!self.table.0.is_multiple_of(self.start_bytes()), "stage 2 tables that are not aligned"),
        ])
    }

    fn encode(&self, features: &Features, faults: FaultMode) -> ste::Stage2 {
        ste::Stage2 {
            table: self.table,
            t0sz: 64 - self.ipa_bits,
            sl0: 2 - self.start_level(),
            granule: Granule::Size4K,
            attributes: table_attributes(features),
            output_size: output_size(features),
            big_endian: false,
            access_flag_fault_disabled: false,
            protected_walk: false,
            flag_update: FlagUpdate::None,
            stall: stalls(features, faults),
            record: true,
        }
    }
}

/// How the SMMU reads context descriptors and tables: around all caches where it can't see into the CPU's (3.15).
const fn table_attributes(features: &Features) -> TableAttributes {
    match features.coherent {
        true => TableAttributes::COHERENT,
        false => TableAttributes::NON_CACHEABLE,
    }
}

/// More than 48 bits need other descriptors than ours (3.4.1).
fn output_size(features: &Features) -> AddressSize {
    features.oas.min(AddressSize::Bits48)
}

/// CD.S and STE.S2S, which must be 1 where every fault stalls (5.5).
fn stalls(features: &Features, faults: FaultMode) -> bool {
    faults == FaultMode::Stall || features.stall_model == StallModel::Forced
}

/// The entry that aborts and differs from `entry` in one word.
pub(super) fn aborted(mut entry: [u64; WORDS]) -> [u64; WORDS] {
    entry[0] = Ste::new(ste::StreamConfig::Abort).encode()[0];
    entry
}

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// The stream's entry with faults enabled and with faults off. They differ in one word, so that going from one to the
    /// other disturbs nothing. `contexts` is the table of stage 1.
    pub(super) fn entries(&self, config: &StreamConfig, contexts: Option<&ContextTable>) -> [[u64; WORDS]; 2] {
        let stage1 = |context, cd_max, format, default_substream| Stage1 {
            context,
            cd_max,
            format,
            default_substream,
            attributes: table_attributes(&self.features),
            // PCIe streams must never stall (3.12.1). Where stalling is not configurable the field must be 0 (5.5).
            stall_disabled: config.faults != FaultMode::Stall && self.features.stall_model == StallModel::Configurable,
            world: StreamWorld::El1,
        };
        let (translation, vmid) = match (config.translation, contexts) {
            (Translation::Bypass, _) => (ste::StreamConfig::Bypass, HOST),
            (Translation::Stage1 { context, .. }, Some(contexts)) => {
                let default =
                    if context.is_some() { DefaultSubstream::Substream0 } else { DefaultSubstream::Terminate };
                let stage1 = stage1(contexts.base(), contexts.bits(), contexts.format(), default);
                (ste::StreamConfig::Stage1(stage1), HOST)
            }
            (Translation::Nested(guest, stage2), _) => {
                let Guest { contexts, substream_bits, format, default_substream } = guest;
                let stage1 = stage1(PhysAddr(contexts), substream_bits, format, default_substream);
                (ste::StreamConfig::Nested(stage1, stage2.encode(&self.features, config.faults)), stage2.vmid)
            }
            (Translation::Stage2(stage2), _) => {
                (ste::StreamConfig::Stage2(stage2.encode(&self.features, config.faults)), stage2.vmid)
            }
            (Translation::Abort | Translation::Stage1 { .. }, _) => (ste::StreamConfig::Abort, HOST),
        };
        let off = Ste { incoming_shareability: true, vmid, ..Ste::new(translation) };
        match config.faults {
            FaultMode::Terminate => [off.encode(); 2],
            FaultMode::PageRequest | FaultMode::Ats => [Ste { ats: AtsMode::Full, ..off }.encode(), off.encode()],
            FaultMode::Stall => [off.encode(), aborted(off.encode())],
        }
    }

    /// The descriptor of an address space.
    pub(super) fn descriptor(&self, faults: FaultMode, context: &Context) -> ContextDescriptor {
        let lower = TableBase {
            table: context.table,
            tsz: context.t0sz,
            granule: Granule::Size4K,
            attributes: table_attributes(&self.features),
            hierarchy_disabled: false,
        };
        ContextDescriptor {
            ttb0: Some(lower),
            ttb1: None,
            ignore_top_byte: [false; 2],
            unprivileged_disabled: [false; 2],
            big_endian: false,
            output_size: output_size(&self.features),
            access_flag_fault_disabled: false,
            flag_update: FlagUpdate::None,
            write_execute_never: false,
            privileged_access_never: false,
            stall: stalls(&self.features, faults),
            record: true,
            abort: true,
            asid: context.asid,
            private_asid: true,
            mair: context.mair,
        }
    }

    /// Word 0 of a descriptor whose tables are gone: accesses miss without a walk (EPD0 and EPD1), and are aborted without
    /// a record (A, and neither R nor S: 5.5). Where every fault stalls, they stall and have to be answered. It differs from
    /// a descriptor with tables in this word alone, so that the change disturbs nothing.
    pub(super) fn quiet(&self) -> u64 {
        let context = Context { table: PhysAddr(0), asid: NO_TABLES, t0sz: 0, mair: 0 };
        let descriptor = self.descriptor(FaultMode::Terminate, &context);
        ContextDescriptor { ttb0: None, record: false, ..descriptor }.encode()[0]
    }

    /// Whether what misses its translation stalls, also where nobody asked for that.
    pub(super) fn forces_stalls(&self) -> bool {
        self.features.stall_model == StallModel::Forced
    }

    /// Refuses by name what this SMMU cannot do.
    pub(super) fn supports(&self, stream: StreamId, config: &StreamConfig) -> Result<(), DriverError> {
        let translation = match config.translation {
            Translation::Abort | Translation::Bypass => {
                (config.faults != FaultMode::Terminate).then_some("faults without translation")
            }
            Translation::Stage1 { .. } if !self.features.stage1 => Some("stage 1 translation (IDR0.S1P)"),
            Translation::Stage1 { substream_bits, .. } if substream_bits > self.features.ssid_bits => {
                Some("as many substreams")
            }
            Translation::Stage1 { context, .. } => context.and_then(|context| context.refusal(&self.features)),
            Translation::Stage2(stage2) => stage2.refusal(&self.features),
            Translation::Nested(guest, stage2) => stage2.refusal(&self.features).or(guest.refusal(&self.features)),
        };
        let faults = match config.faults {
            FaultMode::Stall if !self.features.can_stall() => Some("the stall model"),
            FaultMode::Ats if !self.features.ats => Some("ATS (IDR0.ATS)"),
            FaultMode::PageRequest if !self.features.ats || self.page_requests.is_none() => Some("ATS with PRI"),
            // PCIe devices must never stall, and such an SMMU has none (6.3.1): what they don't ask for would stall.
            mode if mode.uses_ats() && self.forces_stalls() => Some("ATS where every fault stalls (IDR0.STALL_MODEL)"),
            _ => None,
        };
        match faults.or(translation) {
            Some(what) => Err(DriverError::NotSupported { stream, what }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smmuv3::features::test_features;

    /// Arm DDI 0487, D8.2: what one walk resolves with the 4 KiB granule, by the level that it begins at, with up to 16 tables
    /// side by side.
    #[test]
    fn a_walk_begins_with_tables_side_by_side_rather_than_one_level_higher() {
        for (ipa_bits, level, tables) in [
            (25, 2, 1),
            (30, 2, 1),
            (31, 2, 2),
            (34, 2, 16),
            (35, 1, 1),
            (39, 1, 1),
            (40, 1, 2),
            (43, 1, 16),
            (44, 0, 1),
            (48, 0, 1),
        ] {
            let stage2 = Stage2 { table: PhysAddr(0), vmid: Vmid(1), ipa_bits };
            assert_eq!((stage2.start_level(), stage2.start_bytes().div_ceil(4096)), (level, tables), "{ipa_bits}");
        }
    }

    /// Arm DDI 0487, D8.2: the size of the table that a walk of stage 1 begins with, with the 4 KiB granule.
    #[test]
    fn an_address_space_that_is_not_refused_is_legal_and_lies_where_its_descriptor_says() {
        for oas in [AddressSize::Bits32, AddressSize::Bits40, AddressSize::Bits44, AddressSize::Bits52] {
            let features = Features { oas, asid_bits: 8, ..test_features() };
            let end = 1 << oas.bits().min(48);
            let refusal = |context: Context| context.refusal(&features);
            for (t0sz, bytes) in [(16, 4096), (24, 16), (25, 4096), (26, 2048), (33, 16), (34, 4096), (39, 128)] {
                let good = Context { table: PhysAddr(end - bytes), asid: Asid(0xff), t0sz, mair: 0xff };
                assert_eq!(refusal(good), None, "{t0sz} of {oas:?}");
                for table in [end, end << 3, 1 << 63].map(PhysAddr) {
                    assert_eq!(refusal(Context { table, ..good }), Some("tables at that address (IDR5.OAS)"));
                }
                let misaligned = Context { table: PhysAddr(end - bytes / 2), ..good };
                assert_eq!(refusal(misaligned), Some("tables that are not aligned"), "{t0sz}");
            }
            for t0sz in 0..=255 {
                let context = Context { table: PhysAddr(0x8000_0000), asid: Asid(1), t0sz, mair: 0xff };
                let wrong = Some("an address space with so many address bits (CD.T0SZ)");
                assert_eq!(refusal(context), if (16..=39).contains(&t0sz) { None } else { wrong }, "{t0sz}");
            }
        }
    }

    #[test]
    fn what_is_not_refused_is_legal() {
        for oas in [AddressSize::Bits32, AddressSize::Bits40, AddressSize::Bits44, AddressSize::Bits52] {
            let features = Features { oas, aarch32: false, ..test_features() };
            for ipa_bits in 0..=255 {
                let stage2 = Stage2 { table: PhysAddr(0x8000_0000), vmid: Vmid(1), ipa_bits };
                assert_eq!(stage2.refusal(&features).is_none(), (25..=48.min(oas.bits())).contains(&ipa_bits));
                if stage2.refusal(&features).is_none() {
                    let encoded = stage2.encode(&features, FaultMode::Stall);
                    let words = Ste { vmid: Vmid(1), ..Ste::new(ste::StreamConfig::Stage2(encoded)) }.encode();
                    assert!(Ste::decode(words, &features).is_ok(), "{ipa_bits} of {oas:?}");
                }
            }
        }
    }
}
