//! What a trapped access was, by its syndrome.

/// A core's registers x0 to x30.
pub type Registers = [u64; 31];

/// A load or store of one general register that aborted (ESR_EL2, ISS encoding for a Data Abort).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Whether it is a store (WnR).
    pub write: bool,
    /// How many bytes it accesses: 1, 2, 4 or 8 (SAS).
    pub bytes: u8,
    /// The register, 31 for XZR (SRT).
    register: u8,
    /// Whether a load extends the sign (SSE).
    signed: bool,
    /// Whether the register is a 64-bit one (SF).
    wide: bool,
}

impl Access {
    /// What the syndrome `iss` says, or `None` if it says nothing (ISV is 0): the instruction was a pair, writeback,
    /// SIMD, exclusive, atomic or cache one, or it was no access but a translation table walk that aborted.
    pub const fn decode(iss: u64) -> Option<Self> {
        if iss >> 24 & 1 == 0 {
            return None;
        }
        Some(Self {
            write: iss >> 6 & 1 == 1,
            bytes: 1 << (iss >> 22 & 3),
            register: (iss >> 16 & 31) as u8,
            signed: iss >> 21 & 1 == 1,
            wide: iss >> 15 & 1 == 1,
        })
    }

    /// The value that a store writes.
    pub fn stored(&self, registers: &Registers) -> u64 {
        let value = registers.get(usize::from(self.register)).copied().unwrap_or(0);
        value & (u64::MAX >> self.unused_bits())
    }

    /// Puts `value`, which a load read, into its register.
    pub fn load(&self, registers: &mut Registers, value: u64) {
        let unused = self.unused_bits();
        let value = match (self.signed, self.wide) {
            (false, _) => value << unused >> unused,
            (true, true) => ((value << unused) as i64 >> unused) as u64,
            (true, false) => u64::from(((value << unused) as i64 >> unused) as u32),
        };
        if let Some(register) = registers.get_mut(usize::from(self.register)) {
            *register = value;
        }
    }

    fn unused_bits(&self) -> u32 {
        64 - 8 * u32::from(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Syndromes as the Arm ARM's ISS encoding for a Data Abort has them, written by hand: ISV 24, SAS 23:22, SSE 21,
    // SRT 20:16, SF 15, WnR 6, DFSC 5:0 = 0b000111 (translation fault, level 3).
    const STR_W5: u64 = 0x0185_0047;
    const STR_XZR: u64 = 0x01df_8047;
    const LDR_X0: u64 = 0x01c0_8007;
    const LDR_W30: u64 = 0x019e_0007;
    const LDRSH_X7: u64 = 0x0167_8007;
    const LDRSB_W7: u64 = 0x0127_0007;

    fn registers() -> Registers {
        core::array::from_fn(|n| 0xa5a5_a5a5_0000_0000 | n as u64)
    }

    #[test]
    fn store_gives_the_bytes_it_writes() {
        let access = Access::decode(STR_W5).unwrap();
        assert!(access.write);
        assert_eq!((access.bytes, access.stored(&registers())), (4, 5));
    }

    #[test]
    fn zero_register_reads_as_zero_and_keeps_nothing() {
        let access = Access::decode(STR_XZR).unwrap();
        assert_eq!((access.bytes, access.stored(&registers())), (8, 0));
        let mut after = registers();
        access.load(&mut after, 1);
        assert_eq!(after, registers());
    }

    #[test]
    fn load_fills_its_register_alone() {
        let loaded = |iss, value| {
            let access = Access::decode(iss).unwrap();
            assert!(!access.write);
            let mut after = registers();
            access.load(&mut after, value);
            let changed: std::vec::Vec<_> = (0..31).filter(|n| after[*n] != registers()[*n]).collect();
            assert_eq!(changed.len(), 1);
            (changed[0], after[changed[0]])
        };
        assert_eq!(loaded(LDR_X0, 0x8123_4567_89ab_cdef), (0, 0x8123_4567_89ab_cdef));
        assert_eq!(loaded(LDR_W30, 0x8123_4567_89ab_cdef), (30, 0x89ab_cdef));
        assert_eq!(loaded(LDRSH_X7, 0x8001), (7, 0xffff_ffff_ffff_8001));
        assert_eq!(loaded(LDRSB_W7, 0x80), (7, 0xffff_ff80));
    }

    #[test]
    fn access_without_syndrome_is_none() {
        assert_eq!(Access::decode(0x0000_0047), None);
    }
}
