//! Which bits of an STE count, and which it makes the SMMU ignore (5.2, 5.2.1).

use super::codec::{
    BYPASS, CONFIG, EATS, NESTED, S1_CD_MAX, S1_CONTEXT, S1_DEFAULT_SUBSTREAM, S1_FORMAT, S1_INNER, S1_OUTER,
    S1_SHAREABILITY, S1_STALL_DISABLED, STAGE1, STRW, VALID, VMID,
};
use super::{Ste, stage2};
use crate::smmuv3::bits::Field;

/// The one field of word 1 that counts in an STE that aborts: the hint that its neighbours are like it (5.2.1).
const CONT: Field = Field::new(16, 13);

impl Ste {
    /// The bits that count in the STE with these words. The others are IGNORED: they may have any value, and change at any
    /// time, while these stay.
    ///
    /// Where this depends on what the SMMU implements, and for fields that this crate does not know, a bit counts.
    pub const fn used(words: &[u64; 8]) -> [u64; 8] {
        let [first, second, ..] = *words;
        if !VALID.is_set(first) {
            return [VALID.mask(), 0, 0, 0, 0, 0, 0, 0];
        }
        let config = CONFIG.get(first);
        if config < BYPASS {
            return [VALID.mask() | CONFIG.mask(), CONT.mask(), 0, 0, 0, 0, 0, 0];
        }
        let mut ignored = [0; 8];
        if config & 1 == 0 {
            ignored[0] |= S1_FORMAT.mask() | S1_CONTEXT.mask() | S1_CD_MAX.mask();
            ignored[1] |= S1_DEFAULT_SUBSTREAM.mask()
                | S1_INNER.mask()
                | S1_OUTER.mask()
                | S1_SHAREABILITY.mask()
                | S1_STALL_DISABLED.mask();
        } else if S1_CD_MAX.get(first) == 0 {
            ignored[0] |= S1_FORMAT.mask();
            ignored[1] |= S1_DEFAULT_SUBSTREAM.mask();
        }
        if config & 2 == 0 {
            ignored[2] |= stage2::FIELDS.mask();
            ignored[3] |= stage2::DS.mask() | stage2::TABLE.mask();
        }
        if config != NESTED {
            ignored[2] |= stage2::PROTECTED_WALK.mask();
        }
        if config != STAGE1 {
            ignored[1] |= STRW.mask();
        }
        if config == BYPASS {
            ignored[1] |= EATS.mask();
            ignored[2] |= VMID.mask();
        } else if EATS.is_set(second) {
            // SMMUv3.0 may find EATS ILLEGAL beside S2S without stage 2 too (5.2, EATS).
            ignored[2] &= !stage2::STALL.mask();
        }
        [!ignored[0], !ignored[1], !ignored[2], !ignored[3], !0, !0, !0, !0]
    }
}
