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
pub const SIZE: usize = 0x2_0000;
