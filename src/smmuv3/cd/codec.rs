//! The words of a CD (5.4, 5.4.2).

use super::{ContextDescriptor, ContextError, TableBase};
use crate::smmuv3::bits::Field;
use crate::smmuv3::features::{Features, Httu, StallModel, TableEndianness};
use crate::smmuv3::ste::{Stage1, StreamWorld};
use crate::smmuv3::{AddressSize, Asid, Cacheability, FlagUpdate, Granule, PhysAddr, Shareability, TableAttributes};

/// Where word 0 describes the tables of one half, and how it codes their granule.
pub(super) struct Half {
    names: [&'static str; 3],
    pub(super) tsz: Field,
    pub(super) granule: Field,
    pub(super) inner: Field,
    pub(super) outer: Field,
    pub(super) shareability: Field,
    pub(super) disabled: Field,
    ignore_top_byte: Field,
    /// These two in the word of the table.
    hierarchy_disabled: Field,
    unprivileged_disabled: Field,
    granules: [Option<Granule>; 4],
}

pub(super) const LOWER: Half = Half {
    names: ["T0SZ", "TG0", "TTB0"],
    tsz: Field::new(5, 0),
    granule: Field::new(7, 6),
    inner: Field::new(9, 8),
    outer: Field::new(11, 10),
    shareability: Field::new(13, 12),
    disabled: Field::bit(14),
    ignore_top_byte: Field::bit(38),
    hierarchy_disabled: Field::bit(1),
    unprivileged_disabled: Field::bit(2),
    granules: [Some(Granule::Size4K), Some(Granule::Size64K), Some(Granule::Size16K), None],
};

pub(super) const UPPER: Half = Half {
    names: ["T1SZ", "TG1", "TTB1"],
    tsz: Field::new(21, 16),
    granule: Field::new(23, 22),
    inner: Field::new(25, 24),
    outer: Field::new(27, 26),
    shareability: Field::new(29, 28),
    disabled: Field::bit(30),
    ignore_top_byte: Field::bit(39),
    hierarchy_disabled: Field::bit(1),
    unprivileged_disabled: Field::bit(2),
    granules: [None, Some(Granule::Size16K), Some(Granule::Size4K), Some(Granule::Size64K)],
};

// Word 0, for both halves.
const BIG_ENDIAN: Field = Field::bit(15);
pub(super) const VALID: Field = Field::bit(31);
const OUTPUT_SIZE: Field = Field::new(34, 32);
const ACCESS_FLAG_FAULT_DISABLED: Field = Field::bit(35);
const WRITE_EXECUTE_NEVER: Field = Field::bit(36);
const PRIVILEGED_ACCESS_NEVER: Field = Field::bit(40);
const AARCH64: Field = Field::bit(41);
const HARDWARE_DIRTY: Field = Field::bit(42);
const HARDWARE_ACCESS: Field = Field::bit(43);
const STALL: Field = Field::bit(44);
const RECORD: Field = Field::bit(45);
const ABORT: Field = Field::bit(46);
const PRIVATE_ASID: Field = Field::bit(47);
const ASID: Field = Field::new(63, 48);
// Words 1 and 2.
pub(super) const TABLE: Field = Field::new(51, 4);
// Word 1.
const HARDWARE_ACCESS_TABLES: Field = Field::bit(3);
// Word 2.
const DS: Field = Field::bit(58);

const fn illegal(field: &'static str, value: u64) -> ContextError {
    ContextError::Illegal { field, value }
}

impl ContextDescriptor {
    /// The CD's words, valid. Word 0 holds `V`: it is written last (3.21.3.1).
    pub fn encode(&self) -> [u64; 8] {
        let ([tbi0, tbi1], [e0pd0, e0pd1]) = (self.ignore_top_byte, self.unprivileged_disabled);
        let ([lower, ttb0], [upper, ttb1]) = (LOWER.put(self.ttb0, tbi0, e0pd0), UPPER.put(self.ttb1, tbi1, e0pd1));
        let first = lower
            | upper
            | BIG_ENDIAN.flag(self.big_endian)
            | VALID.mask()
            | OUTPUT_SIZE.put(self.output_size as u64)
            | ACCESS_FLAG_FAULT_DISABLED.flag(self.access_flag_fault_disabled)
            | WRITE_EXECUTE_NEVER.flag(self.write_execute_never)
            | PRIVILEGED_ACCESS_NEVER.flag(self.privileged_access_never)
            | AARCH64.mask()
            | HARDWARE_DIRTY.flag(self.flag_update == FlagUpdate::AccessFlagAndDirty)
            | HARDWARE_ACCESS.flag(self.flag_update != FlagUpdate::None)
            | STALL.flag(self.stall)
            | RECORD.flag(self.record)
            | ABORT.flag(self.abort)
            | PRIVATE_ASID.flag(self.private_asid)
            | ASID.put(self.asid.0.into());
        [first, ttb0, ttb1, self.mair, 0, 0, 0, 0]
    }

    /// The ASID of the CD that begins with the word `first`, if it is valid.
    pub const fn asid_of(first: u64) -> Option<Asid> {
        if VALID.is_set(first) { Some(Asid(ASID.get(first) as u16)) } else { None }
    }

    /// The CD in eight words, as an SMMU with `features` understands it that found it through `stream`. Fields that it
    /// ignores get their simplest value.
    ///
    /// # Errors
    ///
    /// [`ContextError`] when the CD is ILLEGAL (5.4.2, 5.5) and, beyond that, for tables that this crate does not know:
    /// VMSAv8-32, and 52-bit addresses with small granules. A value that SMMUv3.0 may refuse is refused.
    pub fn decode(words: [u64; 8], features: &Features, stream: &Stage1) -> Result<Self, ContextError> {
        let [first, ttb0, ttb1, mair, ..] = words;
        if !VALID.is_set(first) {
            return Err(ContextError::NotValid);
        }
        if !AARCH64.is_set(first) || !features.aarch64 {
            return Err(illegal("AA64", AARCH64.get(first)));
        }
        if features.ds && DS.is_set(ttb1) {
            return Err(illegal("DS", 1));
        }
        let stall = STALL.is_set(first);
        let stall_is_illegal = match features.stall_model {
            StallModel::Configurable => stall && stream.stall_disabled,
            StallModel::Terminate => stall,
            StallModel::Forced => !stall,
        };
        if stall_is_illegal {
            return Err(illegal("S", stall.into()));
        }
        let abort = ABORT.is_set(first);
        if features.term_model && !abort {
            return Err(illegal("A", 0));
        }
        let (hardware_access, hardware_dirty) = (HARDWARE_ACCESS.is_set(first), HARDWARE_DIRTY.is_set(first));
        if hardware_access && features.httu == Httu::None {
            return Err(illegal("HA", 1));
        }
        if hardware_dirty && features.httu < Httu::Dirty {
            return Err(illegal("HD", 1));
        }
        if features.httu == Httu::Tables && HARDWARE_ACCESS_TABLES.is_set(ttb0) && !hardware_access {
            return Err(illegal("HAFT", 1));
        }
        // EL2 without E2H has one half, one privilege and no ASID (5.4.1).
        let single = stream.world == StreamWorld::El2;
        let asid = match ASID.get(first) {
            asid @ 0x100.. if !single && features.asid_bits == 8 => return Err(illegal("ASID", asid)),
            asid => Asid(asid as u16),
        };
        let output_size = AddressSize::from_low_bits(OUTPUT_SIZE.get(first));
        // These two count without tables too, for what the TLB holds (5.4, EPD0).
        let ignore_top_byte = [LOWER.ignore_top_byte.is_set(first), !single && UPPER.ignore_top_byte.is_set(first)];
        let unprivileged_disabled =
            [LOWER.unprivileged_disabled.is_set(ttb0), UPPER.unprivileged_disabled.is_set(ttb1)]
                .map(|disabled| disabled && !single && features.unprivileged_disable);
        let ttb0 = if !single && LOWER.disabled.is_set(first) {
            None
        } else {
            Some(LOWER.get(first, ttb0, output_size, features)?)
        };
        let ttb1 = if single || UPPER.disabled.is_set(first) {
            None
        } else {
            Some(UPPER.get(first, ttb1, output_size, features)?)
        };
        let big_endian = BIG_ENDIAN.is_set(first);
        let endianness_is_illegal = match features.table_endianness {
            TableEndianness::Mixed => false,
            TableEndianness::Little => big_endian,
            TableEndianness::Big => !big_endian,
        };
        if endianness_is_illegal && (ttb0.is_some() || ttb1.is_some()) {
            return Err(illegal("ENDI", big_endian.into()));
        }
        Ok(Self {
            ttb0,
            ttb1,
            ignore_top_byte,
            unprivileged_disabled,
            big_endian,
            output_size,
            access_flag_fault_disabled: ACCESS_FLAG_FAULT_DISABLED.is_set(first),
            flag_update: FlagUpdate::new(hardware_access, hardware_dirty),
            write_execute_never: WRITE_EXECUTE_NEVER.is_set(first),
            privileged_access_never: !single && PRIVILEGED_ACCESS_NEVER.is_set(first),
            stall,
            record: RECORD.is_set(first),
            abort,
            asid,
            private_asid: PRIVATE_ASID.is_set(first),
            mair,
        })
    }
}

impl Half {
    /// What this half adds to word 0, and its word for the table.
    fn put(&self, base: Option<TableBase>, ignore_top_byte: bool, unprivileged_disabled: bool) -> [u64; 2] {
        let first = self.ignore_top_byte.flag(ignore_top_byte);
        let second = self.unprivileged_disabled.flag(unprivileged_disabled);
        let Some(base) = base else { return [first | self.disabled.mask(), second] };
        let granule = self.granules.iter().position(|granule| *granule == Some(base.granule)).unwrap_or_default();
        [
            first
                | self.tsz.put(base.tsz.into())
                | self.granule.put(granule as u64)
                | self.inner.put(base.attributes.inner as u64)
                | self.outer.put(base.attributes.outer as u64)
                | self.shareability.put(base.attributes.shareability as u64),
            second | TABLE.address(base.table.0) | self.hierarchy_disabled.flag(base.hierarchy_disabled),
        ]
    }

    fn get(
        &self,
        first: u64,
        table: u64,
        output_size: AddressSize,
        features: &Features,
    ) -> Result<TableBase, ContextError> {
        let [tsz_name, granule_name, table_name] = self.names;
        let coded = self.granule.get(first);
        let granule = match self.granules[(coded & 3) as usize] {
            Some(granule) if features.has_granule(granule) => granule,
            _ => return Err(illegal(granule_name, coded)),
        };
        let large = granule == Granule::Size64K;
        let tsz = self.tsz.get(first) as u8;
        let smallest = if large && features.va_bits >= 52 { 12 } else { 16 };
        let largest = match (features.small_tables, large) {
            (false, _) => 39,
            (true, false) => 48,
            (true, true) => 47,
        };
        if !(smallest..=largest).contains(&tsz) {
            return Err(illegal(tsz_name, tsz.into()));
        }
        let hierarchy_disabled = features.hierarchy_disable && self.hierarchy_disabled.is_set(table);
        let table = TABLE.address(table);
        // Small granules describe 48 address bits (5.4, TTB0).
        let address_bits = output_size.min(features.oas).bits().min(if large { 52 } else { 48 });
        if table >> address_bits != 0 {
            return Err(illegal(table_name, table));
        }
        Ok(TableBase {
            table: PhysAddr(table),
            tsz,
            granule,
            attributes: TableAttributes {
                inner: Cacheability::from_low_bits(self.inner.get(first)),
                outer: Cacheability::from_low_bits(self.outer.get(first)),
                shareability: Shareability::from_low_bits(self.shareability.get(first)),
            },
            hierarchy_disabled,
        })
    }
}
