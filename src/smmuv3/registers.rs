//! The register map of page 0 and page 1 (6.2, 6.3): names, offsets and widths. The fields are in [`fields`].

pub mod fields;

/// Declares [`Register`] from one table: variant, specification name, offset, width.
macro_rules! registers {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $offset:literal, $bits:literal;)+) => {
        /// A register of the Non-secure programming interface (6.2). Offsets count from the start of page 0; page 1
        /// starts at [`PAGE1`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Register {
            $($(#[$doc])* $variant,)+
        }

        impl Register {
            /// Every register, by rising offset within each page.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The offset in bytes from the start of page 0.
            pub const fn offset(self) -> usize {
                match self { $(Self::$variant => $offset,)+ }
            }

            /// Whether the register is 64 bits wide.
            pub const fn is_64bit(self) -> bool {
                match self { $(Self::$variant => $bits == 64,)+ }
            }

            /// The specification's name, without its `SMMU_` prefix.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The register that starts at `offset`, or `None`. The upper half of a 64-bit register is none.
            pub const fn from_offset(offset: usize) -> Option<Self> {
                match offset { $($offset => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

registers! {
    /// What the SMMU can do: stages, stall, ATS, PRI, table formats (6.3.1).
    Idr0, "IDR0", 0x0000, 32;
    /// Sizes: StreamIDs, SubstreamIDs, queues (6.3.2).
    Idr1, "IDR1", 0x0004, 32;
    /// Minor features, such as range invalidation (6.3.4).
    Idr3, "IDR3", 0x000c, 32;
    /// Address sizes, granules, number of stalls (6.3.6).
    Idr5, "IDR5", 0x0014, 32;
    /// Implementer and product (6.3.7).
    Iidr, "IIDR", 0x0018, 32;
    /// Architecture version (6.3.8).
    Aidr, "AIDR", 0x001c, 32;
    /// Enables (6.3.9).
    Cr0, "CR0", 0x0020, 32;
    /// What of [`Register::Cr0`] has taken effect (6.3.10).
    Cr0Ack, "CR0ACK", 0x0024, 32;
    /// Memory attributes of table and queue accesses (6.3.11).
    Cr1, "CR1", 0x0028, 32;
    /// Recording of bad StreamIDs, E2H, broadcast invalidation (6.3.12).
    Cr2, "CR2", 0x002c, 32;
    /// What happens to transactions while the SMMU is disabled (6.3.14).
    Gbpa, "GBPA", 0x0044, 32;
    /// Interrupt enables (6.3.16).
    IrqCtrl, "IRQ_CTRL", 0x0050, 32;
    /// What of [`Register::IrqCtrl`] has taken effect (6.3.18).
    IrqCtrlAck, "IRQ_CTRLACK", 0x0054, 32;
    /// Global errors, each active while its bit differs from [`Register::Gerrorn`] (6.3.19).
    Gerror, "GERROR", 0x0060, 32;
    /// Acknowledgements of global errors (6.3.20).
    Gerrorn, "GERRORN", 0x0064, 32;
    /// MSI address of the global error interrupt (6.3.21).
    GerrorIrqCfg0, "GERROR_IRQ_CFG0", 0x0068, 64;
    /// MSI data of the global error interrupt (6.3.22).
    GerrorIrqCfg1, "GERROR_IRQ_CFG1", 0x0070, 32;
    /// MSI attributes of the global error interrupt (6.3.23).
    GerrorIrqCfg2, "GERROR_IRQ_CFG2", 0x0074, 32;
    /// Where the stream table is (6.3.24).
    StrtabBase, "STRTAB_BASE", 0x0080, 64;
    /// Format and size of the stream table (6.3.25).
    StrtabBaseCfg, "STRTAB_BASE_CFG", 0x0088, 32;
    /// Where the command queue is and how big (6.3.26).
    CmdqBase, "CMDQ_BASE", 0x0090, 64;
    /// The command queue's write index, software's (6.3.27).
    CmdqProd, "CMDQ_PROD", 0x0098, 32;
    /// The command queue's read index and error, the SMMU's (6.3.28).
    CmdqCons, "CMDQ_CONS", 0x009c, 32;
    /// Where the event queue is and how big (6.3.29).
    EventqBase, "EVENTQ_BASE", 0x00a0, 64;
    /// MSI address of the event queue interrupt (6.3.30).
    EventqIrqCfg0, "EVENTQ_IRQ_CFG0", 0x00b0, 64;
    /// MSI data of the event queue interrupt (6.3.31).
    EventqIrqCfg1, "EVENTQ_IRQ_CFG1", 0x00b8, 32;
    /// MSI attributes of the event queue interrupt (6.3.32).
    EventqIrqCfg2, "EVENTQ_IRQ_CFG2", 0x00bc, 32;
    /// Where the PRI queue is and how big (6.3.33).
    PriqBase, "PRIQ_BASE", 0x00c0, 64;
    /// MSI address of the PRI queue interrupt (6.3.34).
    PriqIrqCfg0, "PRIQ_IRQ_CFG0", 0x00d0, 64;
    /// MSI data of the PRI queue interrupt (6.3.35).
    PriqIrqCfg1, "PRIQ_IRQ_CFG1", 0x00d8, 32;
    /// MSI attributes of the PRI queue interrupt, and when it comes (6.3.36).
    PriqIrqCfg2, "PRIQ_IRQ_CFG2", 0x00dc, 32;
    /// The event queue's write index and overflow flag, the SMMU's (6.3.95).
    EventqProd, "EVENTQ_PROD", 0x100a8, 32;
    /// The event queue's read index and overflow acknowledgement, software's (6.3.96).
    EventqCons, "EVENTQ_CONS", 0x100ac, 32;
    /// The PRI queue's write index and overflow flag, the SMMU's (6.3.97).
    PriqProd, "PRIQ_PROD", 0x100c8, 32;
    /// The PRI queue's read index and overflow acknowledgement, software's (6.3.98).
    PriqCons, "PRIQ_CONS", 0x100cc, 32;
}

/// The offset of register page 1 (6.1).
pub const PAGE1: usize = 0x1_0000;

/// The bytes that both pages together take (6.1).
pub const SIZE: usize = 2 * PAGE1;

#[cfg(test)]
mod tests {
    use tock_registers::LocalRegisterCopy;

    use super::fields::*;
    use super::*;

    /// Offset, width and name from the tables of 6.2.
    const MAP: [(usize, u32, &str); 35] = [
        (0x0, 32, "IDR0"),
        (0x4, 32, "IDR1"),
        (0xc, 32, "IDR3"),
        (0x14, 32, "IDR5"),
        (0x18, 32, "IIDR"),
        (0x1c, 32, "AIDR"),
        (0x20, 32, "CR0"),
        (0x24, 32, "CR0ACK"),
        (0x28, 32, "CR1"),
        (0x2c, 32, "CR2"),
        (0x44, 32, "GBPA"),
        (0x50, 32, "IRQ_CTRL"),
        (0x54, 32, "IRQ_CTRLACK"),
        (0x60, 32, "GERROR"),
        (0x64, 32, "GERRORN"),
        (0x68, 64, "GERROR_IRQ_CFG0"),
        (0x70, 32, "GERROR_IRQ_CFG1"),
        (0x74, 32, "GERROR_IRQ_CFG2"),
        (0x80, 64, "STRTAB_BASE"),
        (0x88, 32, "STRTAB_BASE_CFG"),
        (0x90, 64, "CMDQ_BASE"),
        (0x98, 32, "CMDQ_PROD"),
        (0x9c, 32, "CMDQ_CONS"),
        (0xa0, 64, "EVENTQ_BASE"),
        (0xb0, 64, "EVENTQ_IRQ_CFG0"),
        (0xb8, 32, "EVENTQ_IRQ_CFG1"),
        (0xbc, 32, "EVENTQ_IRQ_CFG2"),
        (0xc0, 64, "PRIQ_BASE"),
        (0xd0, 64, "PRIQ_IRQ_CFG0"),
        (0xd8, 32, "PRIQ_IRQ_CFG1"),
        (0xdc, 32, "PRIQ_IRQ_CFG2"),
        (0x100a8, 32, "EVENTQ_PROD"),
        (0x100ac, 32, "EVENTQ_CONS"),
        (0x100c8, 32, "PRIQ_PROD"),
        (0x100cc, 32, "PRIQ_CONS"),
    ];

    #[test]
    fn the_map_is_that_of_6_2() {
        assert_eq!(Register::ALL.len(), MAP.len());
        for (register, (offset, bits, name)) in Register::ALL.iter().zip(MAP) {
            assert_eq!(register.offset(), offset, "{name}");
            assert_eq!(register.is_64bit(), bits == 64, "{name}");
            assert_eq!(register.name(), name);
            assert_eq!(Register::from_offset(offset), Some(*register));
        }
    }

    #[test]
    fn no_register_begins_anywhere_else() {
        let found = (0..SIZE).filter(|offset| Register::from_offset(*offset).is_some()).count();
        assert_eq!(found, MAP.len());
        // The page 0 aliases of page 1 and the upper half of a 64-bit register are none of them.
        for offset in [0xa8, 0xac, 0xc8, 0xcc, 0x84, PAGE1 + 0x20, SIZE + 0x20] {
            assert_eq!(Register::from_offset(offset), None, "{offset:#x}");
        }
    }

    #[test]
    fn control_fields_are_where_6_3_has_them() {
        let all = CR0::SMMUEN::SET + CR0::PRIQEN::SET + CR0::EVENTQEN::SET + CR0::CMDQEN::SET + CR0::ATSCHK::SET;
        assert_eq!(all.value, 0x1f);
        assert_eq!((CR0::VMW.val(7)).value, 0x1c0);
        assert_eq!([CR0::PRIQEN::SET.value, CR0::EVENTQEN::SET.value, CR0::CMDQEN::SET.value], [2, 4, 8]);
        let coherent = CR1::QUEUE_IC::WriteBack
            + CR1::QUEUE_OC::WriteBack
            + CR1::QUEUE_SH::InnerShareable
            + CR1::TABLE_IC::WriteThrough
            + CR1::TABLE_OC::WriteBack
            + CR1::TABLE_SH::OuterShareable;
        assert_eq!(coherent.value, 0b10_01_10_11_01_01);
        assert_eq!([CR2::E2H::SET.value, CR2::RECINVSID::SET.value, CR2::PTM::SET.value], [1, 2, 4]);
        assert_eq!(CR2::REC_CFG_ATS::SET.value, 8);
        assert_eq!([GBPA::ABORT::SET.value, GBPA::UPDATE::SET.value], [0x0010_0000, 0x8000_0000]);
        assert_eq!([IRQ_CTRL::GERROR::SET.value, IRQ_CTRL::PRIQ::SET.value, IRQ_CTRL::EVENTQ::SET.value], [1, 2, 4]);
        assert_eq!([GERROR::CMDQ_ERR::SET.value, GERROR::EVENTQ_ABT_ERR::SET.value], [1, 4]);
        assert_eq!([GERROR::PRIQ_ABT_ERR::SET.value, GERROR::MSI_CMDQ_ABT_ERR::SET.value], [8, 0x10]);
        assert_eq!([GERROR::MSI_EVENTQ_ABT_ERR::SET.value, GERROR::MSI_PRIQ_ABT_ERR::SET.value], [0x20, 0x40]);
        assert_eq!([GERROR::MSI_GERROR_ABT_ERR::SET.value, GERROR::SFM_ERR::SET.value], [0x80, 0x100]);
        assert_eq!([IRQ_CFG2::MEMATTR.val(15).value, IRQ_CFG2::SH.val(3).value], [0xf, 0x30]);
        assert_eq!(IRQ_CFG2::LO::SET.value, 0x8000_0000);
    }

    #[test]
    fn table_and_queue_fields_are_where_6_3_has_them() {
        let two_level =
            STRTAB_BASE_CFG::FMT::TwoLevel + STRTAB_BASE_CFG::SPLIT::Bits8 + STRTAB_BASE_CFG::LOG2SIZE.val(16);
        assert_eq!(two_level.value, 0x0001_0210);
        assert_eq!((STRTAB_BASE::RA::SET + STRTAB_BASE::ADDR.val(0x8000_1000 >> 6)).value, 0x4000_0000_8000_1000);
        let queue = QUEUE_BASE::ALLOCATE::SET + QUEUE_BASE::ADDR.val(0x8000_2000 >> 5) + QUEUE_BASE::LOG2SIZE.val(7);
        assert_eq!(queue.value, 0x4000_0000_8000_2007);
        assert_eq!(IRQ_CFG0::ADDR.val(0x0808_0040 >> 2).value, 0x0808_0040);
        let cons = LocalRegisterCopy::<u32, CMDQ_CONS::Register>::new(0x0200_0013);
        assert_eq!(cons.read(CMDQ_CONS::RD), 0x13);
        assert!(cons.matches_all(CMDQ_CONS::ERR::Abt));
        assert_eq!((CMDQ_CONS::ERR.val(0x7f)).value, 0x7f00_0000);
        assert_eq!([QUEUE_PROD::OVFLG::SET.value, QUEUE_CONS::OVACKFLG::SET.value], [0x8000_0000, 0x8000_0000]);
        assert_eq!([QUEUE_PROD::WR.val(0xf_ffff).value, QUEUE_CONS::RD.val(0xf_ffff).value], [0xf_ffff, 0xf_ffff]);
    }
}
