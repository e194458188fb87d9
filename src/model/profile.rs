//! What kind of SMMU the model is: sets of ID registers (6.3.1 to 6.3.8).
//!
//! A profile is its ID registers, and how its interrupts are wired, of which they say nothing. All else that the model offers and
//! refuses follows from them through [`Features`].

use super::board::{self, MAX_ENGINES};
use super::smmu::STALL_MAX;
use crate::smmuv3::StreamId;
use crate::smmuv3::features::{Features, IdRegisters};

/// S2P, S1P, TTF = AArch64, COHACC, HTTU = Access flag and dirty state, HYP, ATS, split-stage too (NS1ATS = 0), ASID16, MSI,
/// SEV, PRI, VMID16, CD2L, TTENDIAN = little, STALL_MODEL = stall and terminate, TERM_MODEL = abort and RAZ/WI, ST_LEVEL =
/// 2-level. From SMMUv3.2 on both stages and EL2 come together (6.3.1).
const IDR0: u32 = 1 << 0
    | 1 << 1
    | 2 << 2
    | COHACC
    | HTTU
    | 1 << 9
    | ATS
    | 1 << 12
    | 1 << 13
    | 1 << 14
    | PRI
    | 1 << 18
    | CD2L
    | 2 << 21
    | ST_LEVEL;
const COHACC: u32 = 1 << 4;
const HTTU: u32 = 2 << 6;
const ATS: u32 = 1 << 10;
const PRI: u32 = 1 << 16;
const CD2L: u32 = 1 << 19;
const STALL_MODEL_TERMINATE: u32 = 1 << 24;
const STALL_MODEL_FORCED: u32 = 2 << 24;
const ST_LEVEL: u32 = 1 << 27;

/// HAD, XNX, FWB, RIL, BBML = 1, E0PD, PTWNNC. Memory attributes have no effect here, so FWB and PTWNNC have none.
const IDR3: u32 = 1 << 2 | 1 << 4 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 14;

/// Automatic responses carry the request's PASID; without it `STE.PPAR` decides.
const PPS: u32 = 1 << 5;

/// GRAN4K, GRAN16K, GRAN64K, STALL_MAX, without OAS.
const IDR5: u32 = 1 << 4 | 1 << 5 | 1 << 6 | STALL_MAX_FIELD;
const STALL_MAX_FIELD: u32 = (STALL_MAX as u32) << 16;
const OAS_48: u32 = 5;
const OAS_52: u32 = 6;

/// SMMUv3.3.
const V3_3: u32 = 3;

/// What QEMU's SMMU has in IDR1 and IDR5: 16 StreamID bits, no substreams, queues of 2^19; all granules, 44 bits out.
const QEMU_IDR1: u32 = 0x0273_0010;
const QEMU_IDR5: u32 = 0x74;

/// SIDSIZE, SSIDSIZE and, for PRIQS, EVENTQS and CMDQS alike, log2 of the largest queue; ATTR_PERMS_OVR.
const fn idr1(stream_bits: u32, substream_bits: u32, queue_log2: u32) -> u32 {
    stream_bits | substream_bits << 6 | queue_log2 << 11 | queue_log2 << 16 | queue_log2 << 21 | 1 << 26
}

/// IDR1 where nothing speaks against it.
const IDR1: u32 = idr1(16, 8, 10);

/// Declares the profiles: name, IDR0, IDR1, IDR3, IDR5, AIDR.
macro_rules! profiles {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $idr0:expr, $idr1:expr, $idr3:expr, $idr5:expr, $aidr:expr;)+) => {
        /// A kind of SMMU.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Profile {
            $($(#[$doc])* $variant,)+
        }

        impl Profile {
            /// Every profile.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name that selects it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The profile that `name` selects.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }

            /// The ID registers. No implementer claims them.
            pub const fn id_registers(self) -> IdRegisters {
                let (idr0, idr1, idr3, idr5, aidr) =
                    match self { $(Self::$variant => ($idr0, $idr1, $idr3, $idr5, $aidr),)+ };
                IdRegisters { idr0, idr1, idr3, idr5, iidr: 0, aidr }
            }

            /// What they say.
            pub const fn features(self) -> Features {
                match self { $(Self::$variant => const { sound(Self::$variant) },)+ }
            }
        }
    };
}

profiles! {
    /// Everything that the model has.
    Full, "full", IDR0, IDR1, IDR3, IDR5 | OAS_48, V3_3;
    /// No stall (STALL_MODEL = 0b01).
    TerminateOnly, "terminate-only", IDR0 | STALL_MODEL_TERMINATE, IDR1, IDR3, (IDR5 & !STALL_MAX_FIELD) | OAS_48, V3_3;
    /// Every fault that may stall does (STALL_MODEL = 0b10). Not for PCIe (6.3.1), so neither ATS nor PRI.
    ForcedStall, "forced-stall", (IDR0 & !(ATS | PRI)) | STALL_MODEL_FORCED, IDR1, IDR3, IDR5 | OAS_48, V3_3;
    /// ATS without PRI.
    NoPri, "no-pri", IDR0 & !PRI, IDR1, IDR3, IDR5 | OAS_48, V3_3;
    /// Neither ATS nor PRI.
    NoAts, "no-ats", IDR0 & !(ATS | PRI), IDR1, IDR3, IDR5 | OAS_48, V3_3;
    /// Linear stream and CD tables only: for at most 6 StreamID bits then (6.3.2).
    LinearOnly, "linear-only", IDR0 & !(ST_LEVEL | CD2L), idr1(6, 8, 10), IDR3, IDR5 | OAS_48, V3_3;
    /// Accesses that are not coherent (COHACC = 0), and no updates of flags, which take coherence (3.15).
    NonCoherent, "non-coherent", IDR0 & !(COHACC | HTTU), IDR1, IDR3, IDR5 | OAS_48, V3_3;
    /// Queues of two entries, 16 StreamIDs, no substreams; one wire for all its interrupts.
    Small, "small", IDR0 & !CD2L, idr1(4, 0, 1), IDR3, IDR5 | OAS_48, V3_3;
    /// Everything as large as the architecture has it, and PPS.
    Big, "big", IDR0, idr1(32, 20, 19), IDR3 | PPS, IDR5 | OAS_52, V3_3;
    /// QEMU 7.2's: S1P, AArch64 and little-endian tables, COHACC, ASID16, terminate and abort, 2-level stream table; HAD, RIL,
    /// BBML = 2.
    Qemu7, "qemu-7.2", 0x0d40_101a, QEMU_IDR1, 0x1404, QEMU_IDR5, 1;
    /// That of QEMU 10.0 and later: S2P, VMID16 and XNX too. From SMMUv3.2 on S2P would come with HYP.
    Qemu10, "qemu-10", 0x0d44_101b, QEMU_IDR1, 0x1414, QEMU_IDR5, 1;
}

/// The features of `profile`. A contradiction in a profile does not compile.
const fn sound(profile: Profile) -> Features {
    match Features::decode(profile.id_registers()) {
        Ok(features) => features,
        Err(_) => panic!("ID registers that contradict the architecture"),
    }
}

impl Profile {
    /// Whether all interrupts of the SMMU come by the wire of the event queue: how many an SMMU has is its own business (3.18.2).
    pub const fn has_one_wire(self) -> bool {
        matches!(self, Self::Small)
    }

    /// How many engines have a StreamID of their own, at most [`MAX_ENGINES`].
    pub const fn max_engines(self) -> usize {
        board::max_engines(&self.features())
    }

    /// The StreamID of engine `index`: the board's, of which only the bits that the SMMU has are wired (6.3.2).
    pub const fn engine_stream(self, index: usize) -> StreamId {
        board::wired_stream(index, &self.features())
    }
}

// The usual engines have a StreamID each on every profile, and the low bits of the first one are 0.
const _: () = assert!(board::DEFAULT_ENGINES <= 16 && board::FIRST_STREAM.is_multiple_of(MAX_ENGINES as u32));
