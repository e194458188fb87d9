//! The words of an STE (5.2, 5.2.2).

use super::{
    AtsMode, ContextTableFormat, DefaultSubstream, InstructionOverride, PrivilegeOverride, Stage1, Stage2, Ste,
    SteError, StreamConfig, StreamWorld,
};
use crate::smmuv3::bits::Field;
use crate::smmuv3::features::{Features, StallModel};
use crate::smmuv3::{Cacheability, PhysAddr, Shareability, TableAttributes, Vmid};

// Word 0.
pub(super) const VALID: Field = Field::bit(0);
pub(super) const CONFIG: Field = Field::new(3, 1);
pub(super) const S1_FORMAT: Field = Field::new(5, 4);
pub(super) const S1_CONTEXT: Field = Field::new(55, 6);
pub(super) const S1_CD_MAX: Field = Field::new(63, 59);
// Word 1.
pub(super) const S1_DEFAULT_SUBSTREAM: Field = Field::new(1, 0);
pub(super) const S1_INNER: Field = Field::new(3, 2);
pub(super) const S1_OUTER: Field = Field::new(5, 4);
pub(super) const S1_SHAREABILITY: Field = Field::new(7, 6);
const PPAR: Field = Field::bit(18);
const MEV: Field = Field::bit(19);
pub(super) const S1_STALL_DISABLED: Field = Field::bit(27);
pub(super) const EATS: Field = Field::new(29, 28);
pub(super) const STRW: Field = Field::new(31, 30);
const SHCFG: Field = Field::new(45, 44);
const PRIVCFG: Field = Field::new(49, 48);
const INSTCFG: Field = Field::new(51, 50);
// Word 2; the rest of it is in `stage2`.
pub(super) const VMID: Field = Field::new(15, 0);

const ABORT: u64 = 0;
pub(super) const BYPASS: u64 = 4;
pub(super) const STAGE1: u64 = 5;
const STAGE2: u64 = 6;
pub(super) const NESTED: u64 = 7;

/// `SHCFG`: keep the incoming shareability.
const INCOMING: u64 = 1;

const fn illegal(field: &'static str, value: u64) -> SteError {
    SteError::Illegal { field, value }
}

impl Ste {
    /// The STE's words, valid. Word 0 holds `V`: it is written last (3.21.3.1).
    pub const fn encode(&self) -> [u64; 8] {
        let mut words = match self.config {
            StreamConfig::Abort => [CONFIG.put(ABORT), 0, 0, 0, 0, 0, 0, 0],
            StreamConfig::Bypass => [CONFIG.put(BYPASS), 0, 0, 0, 0, 0, 0, 0],
            StreamConfig::Stage1(stage1) => {
                let [first, second] = stage1.encode();
                [CONFIG.put(STAGE1) | first, second, 0, 0, 0, 0, 0, 0]
            }
            StreamConfig::Stage2(stage2) => {
                let [third, fourth] = stage2.encode();
                [CONFIG.put(STAGE2), 0, third, fourth, 0, 0, 0, 0]
            }
            StreamConfig::Nested(stage1, stage2) => {
                let ([first, second], [third, fourth]) = (stage1.encode(), stage2.encode());
                [CONFIG.put(NESTED) | first, second, third, fourth, 0, 0, 0, 0]
            }
        };
        words[0] |= VALID.mask();
        words[1] |= PPAR.flag(self.response_with_pasid)
            | MEV.flag(self.merge_events)
            | EATS.put(self.ats as u64)
            | SHCFG.put(if self.incoming_shareability { INCOMING } else { 0 })
            | PRIVCFG.put(self.privilege as u64)
            | INSTCFG.put(self.instruction as u64);
        words[2] |= VMID.put(self.vmid.0 as u64);
        words
    }

    /// The same words with another `PPAR`.
    pub const fn with_ppar(mut words: [u64; 8], response_with_pasid: bool) -> [u64; 8] {
        words[1] = words[1] & !PPAR.mask() | PPAR.flag(response_with_pasid);
        words
    }

    /// The STE in eight words, as an SMMU with `features` understands it. Fields that it ignores get their simplest
    /// value.
    ///
    /// # Errors
    ///
    /// [`SteError`] when the STE is ILLEGAL (5.2.2, 5.5) and, beyond that, for tables that this crate does not know:
    /// VMSAv8-32, and 52-bit addresses with small granules. A value that SMMUv3.0 may refuse is refused.
    pub fn decode(words: [u64; 8], features: &Features) -> Result<Self, SteError> {
        let [first, second, third, fourth, ..] = words;
        if !VALID.is_set(first) {
            return Err(SteError::NotValid);
        }
        let config = CONFIG.get(first);
        let (has_stage1, has_stage2) = (config >= BYPASS && config & 1 != 0, config >= BYPASS && config & 2 != 0);
        if has_stage1 && !features.stage1 || has_stage2 && !features.stage2 {
            return Err(illegal("Config", config));
        }
        let config = match (has_stage1, has_stage2) {
            (false, false) if config < BYPASS => StreamConfig::Abort,
            (false, false) => StreamConfig::Bypass,
            (true, false) => StreamConfig::Stage1(Stage1::decode([first, second], false, features)?),
            // S2PTW is about the walks of stage 1, and IGNORED without (5.2).
            (false, true) => {
                StreamConfig::Stage2(Stage2 { protected_walk: false, ..Stage2::decode([third, fourth], features)? })
            }
            (true, true) => StreamConfig::Nested(
                Stage1::decode([first, second], true, features)?,
                Stage2::decode([third, fourth], features)?,
            ),
        };
        Ok(Self {
            config,
            ats: decode_ats(EATS.get(second), &config, features)?,
            response_with_pasid: PPAR.is_set(second),
            merge_events: MEV.is_set(second),
            incoming_shareability: SHCFG.get(second) == INCOMING,
            privilege: match PRIVCFG.get(second) {
                2 if features.permission_overrides => PrivilegeOverride::Unprivileged,
                3 if features.permission_overrides => PrivilegeOverride::Privileged,
                _ => PrivilegeOverride::Incoming,
            },
            instruction: match INSTCFG.get(second) {
                2 if features.permission_overrides => InstructionOverride::Data,
                3 if features.permission_overrides => InstructionOverride::Instruction,
                _ => InstructionOverride::Incoming,
            },
            vmid: decode_vmid(VMID.get(third), &config, features)?,
        })
    }
}

fn decode_ats(value: u64, config: &StreamConfig, features: &Features) -> Result<AtsMode, SteError> {
    let stage2_stalls = match config {
        StreamConfig::Stage2(stage2) | StreamConfig::Nested(_, stage2) => stage2.stall,
        _ => false,
    };
    match value {
        _ if !features.ats || matches!(config, StreamConfig::Abort | StreamConfig::Bypass) => Ok(AtsMode::Disabled),
        1 if stage2_stalls => Err(illegal("EATS", value)),
        1 => Ok(AtsMode::Full),
        2 if !matches!(config, StreamConfig::Nested(..)) || stage2_stalls || !features.split_ats => {
            Err(illegal("EATS", value))
        }
        2 => Ok(AtsMode::Split),
        _ => Ok(AtsMode::Disabled),
    }
}

fn decode_vmid(value: u64, config: &StreamConfig, features: &Features) -> Result<Vmid, SteError> {
    let used = match config {
        StreamConfig::Abort | StreamConfig::Bypass => false,
        StreamConfig::Stage1(stage1) => features.stage2 && stage1.world == StreamWorld::El1,
        StreamConfig::Stage2(_) | StreamConfig::Nested(..) => true,
    };
    match value {
        _ if !used => Ok(Vmid(0)),
        0x100.. if features.vmid_bits == 8 => Err(illegal("S2VMID", value)),
        _ => Ok(Vmid(value as u16)),
    }
}

impl Stage1 {
    const fn encode(&self) -> [u64; 2] {
        [
            S1_FORMAT.put(self.format as u64) | S1_CONTEXT.address(self.context.0) | S1_CD_MAX.put(self.cd_max as u64),
            S1_DEFAULT_SUBSTREAM.put(self.default_substream as u64)
                | S1_INNER.put(self.attributes.inner as u64)
                | S1_OUTER.put(self.attributes.outer as u64)
                | S1_SHAREABILITY.put(self.attributes.shareability as u64)
                | S1_STALL_DISABLED.flag(self.stall_disabled)
                | STRW.put(match self.world {
                    StreamWorld::El1 => 0,
                    StreamWorld::El2 | StreamWorld::El2E2h => 2,
                }),
        ]
    }

    fn decode([first, second]: [u64; 2], nested: bool, features: &Features) -> Result<Self, SteError> {
        let cd_max = match S1_CD_MAX.get(first) as u8 {
            _ if features.ssid_bits == 0 => 0,
            cd_max if cd_max > features.ssid_bits => return Err(illegal("S1CDMax", cd_max.into())),
            cd_max => cd_max,
        };
        let format = match S1_FORMAT.get(first) {
            _ if cd_max == 0 => ContextTableFormat::Linear,
            format @ (1 | 2) if !features.cd2l => return Err(illegal("S1Fmt", format)),
            1 => ContextTableFormat::TwoLevel4K,
            2 => ContextTableFormat::TwoLevel64K,
            _ => ContextTableFormat::Linear,
        };
        let context = S1_CONTEXT.address(first);
        let address_bits = if nested { features.ias() } else { features.oas.bits() };
        if context >> address_bits != 0 {
            return Err(illegal("S1ContextPtr", context));
        }
        let stall_disabled = S1_STALL_DISABLED.is_set(second);
        if stall_disabled && features.stall_model != StallModel::Configurable {
            return Err(illegal("S1STALLD", 1));
        }
        let world = match STRW.get(second) {
            _ if nested || !features.hyp => StreamWorld::El1,
            0 => StreamWorld::El1,
            2 => StreamWorld::El2,
            value => return Err(illegal("STRW", value)),
        };
        Ok(Self {
            context: PhysAddr(context),
            cd_max,
            format,
            default_substream: match S1_DEFAULT_SUBSTREAM.get(second) {
                1 if cd_max != 0 => DefaultSubstream::Bypass,
                2 if cd_max != 0 => DefaultSubstream::Substream0,
                _ => DefaultSubstream::Terminate,
            },
            attributes: TableAttributes {
                inner: Cacheability::from_low_bits(S1_INNER.get(second)),
                outer: Cacheability::from_low_bits(S1_OUTER.get(second)),
                shareability: Shareability::from_low_bits(S1_SHAREABILITY.get(second)),
            },
            stall_disabled,
            world,
        })
    }
}
