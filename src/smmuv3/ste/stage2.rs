//! The stage 2 half of an STE.

use super::{Stage2, SteError};
use crate::smmuv3::bits::Field;
use crate::smmuv3::features::{Features, Httu, StallModel, TableEndianness};
use crate::smmuv3::{AddressSize, Cacheability, FlagUpdate, Granule, PhysAddr, Shareability, TableAttributes};

// Word 2.
/// All of them.
pub(super) const FIELDS: Field = Field::new(59, 32);
const T0SZ: Field = Field::new(37, 32);
const SL0: Field = Field::new(39, 38);
const INNER: Field = Field::new(41, 40);
const OUTER: Field = Field::new(43, 42);
const SHAREABILITY: Field = Field::new(45, 44);
const GRANULE: Field = Field::new(47, 46);
const OUTPUT_SIZE: Field = Field::new(50, 48);
const AARCH64: Field = Field::bit(51);
const BIG_ENDIAN: Field = Field::bit(52);
const ACCESS_FLAG_FAULT_DISABLED: Field = Field::bit(53);
pub(super) const PROTECTED_WALK: Field = Field::bit(54);
const HARDWARE_DIRTY: Field = Field::bit(55);
const HARDWARE_ACCESS: Field = Field::bit(56);
pub(super) const STALL: Field = Field::bit(57);
const RECORD: Field = Field::bit(58);
const HARDWARE_ACCESS_TABLES: Field = Field::bit(59);
// Word 3.
pub(super) const DS: Field = Field::bit(3);
pub(super) const TABLE: Field = Field::new(51, 4);

const fn illegal(field: &'static str, value: u64) -> SteError {
    SteError::Illegal { field, value }
}

impl Stage2 {
    /// The first level of the walk, 0 to 3, or `None` if `sl0` means none with this granule.
    pub const fn start_level(&self) -> Option<u8> {
        match (self.granule, self.sl0) {
            (Granule::Size4K, sl0 @ 0..=2) => Some(2 - sl0),
            (Granule::Size4K, 3) => Some(3),
            (Granule::Size16K | Granule::Size64K, sl0 @ 0..=2) => Some(3 - sl0),
            _ => None,
        }
    }

    /// Whether the first level can begin a walk of this input size: it resolves at least one bit, and at most 16 tables
    /// side by side.
    const fn start_fits(&self, level: u8) -> bool {
        let stride = self.granule.shift() - 3;
        let below = self.granule.shift() + stride * (3 - level as u32);
        let input = 64 - self.t0sz as u32;
        input > below && input <= below + stride + 4
    }

    pub(super) const fn encode(&self) -> [u64; 2] {
        let granule = match self.granule {
            Granule::Size4K => 0,
            Granule::Size64K => 1,
            Granule::Size16K => 2,
        };
        [
            T0SZ.put(self.t0sz as u64)
                | SL0.put(self.sl0 as u64)
                | INNER.put(self.attributes.inner as u64)
                | OUTER.put(self.attributes.outer as u64)
                | SHAREABILITY.put(self.attributes.shareability as u64)
                | GRANULE.put(granule)
                | OUTPUT_SIZE.put(self.output_size as u64)
                | AARCH64.mask()
                | BIG_ENDIAN.flag(self.big_endian)
                | ACCESS_FLAG_FAULT_DISABLED.flag(self.access_flag_fault_disabled)
                | PROTECTED_WALK.flag(self.protected_walk)
                | HARDWARE_DIRTY.flag(matches!(self.flag_update, FlagUpdate::AccessFlagAndDirty))
                | HARDWARE_ACCESS.flag(!matches!(self.flag_update, FlagUpdate::None))
                | STALL.flag(self.stall)
                | RECORD.flag(self.record),
            TABLE.address(self.table.0),
        ]
    }

    pub(super) fn decode([third, fourth]: [u64; 2], features: &Features) -> Result<Self, SteError> {
        if !AARCH64.is_set(third) || !features.aarch64 {
            return Err(illegal("S2AA64", AARCH64.get(third)));
        }
        if features.ds && DS.is_set(fourth) {
            return Err(illegal("S2DS", 1));
        }
        let granule = match GRANULE.get(third) {
            0 if features.granule_4k => Granule::Size4K,
            1 if features.granule_64k => Granule::Size64K,
            2 if features.granule_16k => Granule::Size16K,
            value => return Err(illegal("S2TG", value)),
        };
        let (hardware_access, hardware_dirty) = (HARDWARE_ACCESS.is_set(third), HARDWARE_DIRTY.is_set(third));
        if hardware_access && features.httu == Httu::None {
            return Err(illegal("S2HA", 1));
        }
        if hardware_dirty && features.httu < Httu::Dirty {
            return Err(illegal("S2HD", 1));
        }
        if features.httu == Httu::Tables && HARDWARE_ACCESS_TABLES.is_set(third) && !hardware_access {
            return Err(illegal("S2HAFT", 1));
        }
        let stall = STALL.is_set(third);
        if features.stall_model == StallModel::Terminate && stall
            || features.stall_model == StallModel::Forced && !stall
        {
            return Err(illegal("S2S", stall.into()));
        }
        let big_endian = BIG_ENDIAN.is_set(third);
        if features.table_endianness == TableEndianness::Little && big_endian
            || features.table_endianness == TableEndianness::Big && !big_endian
        {
            return Err(illegal("S2ENDI", big_endian.into()));
        }
        let stage2 = Self {
            table: PhysAddr(TABLE.address(fourth)),
            t0sz: T0SZ.get(third) as u8,
            sl0: SL0.get(third) as u8,
            granule,
            attributes: TableAttributes {
                inner: Cacheability::from_low_bits(INNER.get(third)),
                outer: Cacheability::from_low_bits(OUTER.get(third)),
                shareability: Shareability::from_low_bits(SHAREABILITY.get(third)),
            },
            output_size: AddressSize::from_low_bits(OUTPUT_SIZE.get(third)),
            big_endian,
            access_flag_fault_disabled: ACCESS_FLAG_FAULT_DISABLED.is_set(third),
            protected_walk: PROTECTED_WALK.is_set(third),
            flag_update: FlagUpdate::new(hardware_access, hardware_dirty),
            stall,
            record: RECORD.is_set(third),
        };
        stage2.check_walk(features)?;
        Ok(stage2)
    }

    /// The rules that tie table, sizes, granule and first level together.
    fn check_walk(&self, features: &Features) -> Result<(), SteError> {
        let large = self.granule == Granule::Size64K;
        // Small granules describe 48 address bits (5.2, S2TTB).
        let address_bits = self.output_size.min(features.oas).bits().min(if large { 52 } else { 48 });
        if self.table.0 >> address_bits != 0 {
            return Err(illegal("S2TTB", self.table.0));
        }
        let smallest = (64 - features.ias()).max(if large { 12 } else { 16 });
        let largest = match (features.small_tables, large) {
            (false, _) => 39,
            (true, false) => 48,
            (true, true) => 47,
        };
        if !(smallest..=largest).contains(&self.t0sz) {
            return Err(illegal("S2T0SZ", self.t0sz.into()));
        }
        match self.start_level() {
            Some(3) if self.granule == Granule::Size4K && !features.small_tables => {}
            Some(level) if self.start_fits(level) => return Ok(()),
            _ => {}
        }
        Err(illegal("S2SL0", self.sl0.into()))
    }
}
