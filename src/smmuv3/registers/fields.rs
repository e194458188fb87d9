//! The fields of the registers, for [`tock_registers::LocalRegisterCopy`] (6.3).
//!
//! A field is named as in the specification. `CR0` also describes `CR0ACK`, `IRQ_CTRL` also `IRQ_CTRLACK`, and
//! `GERROR` also `GERRORN`.

#![expect(missing_docs, reason = "the macro gives the registers' own structs and constants none")]

use tock_registers::register_bitfields;

register_bitfields![u32,
    /// Features (6.3.1).
    pub IDR0 [
        /// Stage 2 is supported.
        S2P OFFSET(0) NUMBITS(1) [],
        /// Stage 1 is supported.
        S1P OFFSET(1) NUMBITS(1) [],
        /// Translation table formats.
        TTF OFFSET(2) NUMBITS(2) [Aarch32 = 1, Aarch64 = 2, Both = 3],
        /// The SMMU's own accesses are coherent.
        COHACC OFFSET(4) NUMBITS(1) [],
        /// Broadcast TLB maintenance is received.
        BTM OFFSET(5) NUMBITS(1) [],
        /// Hardware update of Access flag and dirty state.
        HTTU OFFSET(6) NUMBITS(2) [None = 0, AccessFlag = 1, AccessFlagAndDirty = 2, Tables = 3],
        /// Dormant hint.
        DORMHINT OFFSET(8) NUMBITS(1) [],
        /// EL2 contexts are supported.
        HYP OFFSET(9) NUMBITS(1) [],
        /// ATS is supported.
        ATS OFFSET(10) NUMBITS(1) [],
        /// Split-stage ATS is *not* supported.
        NS1ATS OFFSET(11) NUMBITS(1) [],
        /// ASIDs have 16 bits, else 8.
        ASID16 OFFSET(12) NUMBITS(1) [],
        /// Message signalled interrupts are supported.
        MSI OFFSET(13) NUMBITS(1) [],
        /// WFE wake-up events are supported.
        SEV OFFSET(14) NUMBITS(1) [],
        /// Address translation operations are supported.
        ATOS OFFSET(15) NUMBITS(1) [],
        /// The page request interface is supported.
        PRI OFFSET(16) NUMBITS(1) [],
        /// VMID wildcards are supported.
        VMW OFFSET(17) NUMBITS(1) [],
        /// VMIDs have 16 bits, else 8.
        VMID16 OFFSET(18) NUMBITS(1) [],
        /// 2-level context descriptor tables are supported.
        CD2L OFFSET(19) NUMBITS(1) [],
        /// Virtual address translation operations are supported.
        VATOS OFFSET(20) NUMBITS(1) [],
        /// Endianness of translation table walks.
        TTENDIAN OFFSET(21) NUMBITS(2) [Mixed = 0, Little = 2, Big = 3],
        /// Configuration errors of ATS and PRI can be recorded.
        ATSRECERR OFFSET(23) NUMBITS(1) [],
        /// Whether faults can, cannot or must stall.
        STALL_MODEL OFFSET(24) NUMBITS(2) [StallAndTerminate = 0, TerminateOnly = 1, StallForced = 2],
        /// A terminated transaction is always aborted, never RAZ/WI.
        TERM_MODEL OFFSET(26) NUMBITS(1) [],
        /// Stream table formats.
        ST_LEVEL OFFSET(27) NUMBITS(2) [Linear = 0, TwoLevel = 1],
    ],

    /// Sizes (6.3.2).
    pub IDR1 [
        /// Bits of a StreamID, 0 to 32.
        SIDSIZE OFFSET(0) NUMBITS(6) [],
        /// Bits of a SubstreamID, 0 to 20; 0: no substreams.
        SSIDSIZE OFFSET(6) NUMBITS(5) [],
        /// log2 of the entries the PRI queue can have, 0 to 19.
        PRIQS OFFSET(11) NUMBITS(5) [],
        /// log2 of the entries the event queue can have, 0 to 19.
        EVENTQS OFFSET(16) NUMBITS(5) [],
        /// log2 of the entries the command queue can have, 0 to 19.
        CMDQS OFFSET(21) NUMBITS(5) [],
        /// Incoming permission attributes can be overridden.
        ATTR_PERMS_OVR OFFSET(26) NUMBITS(1) [],
        /// Incoming memory types can be overridden.
        ATTR_TYPES_OVR OFFSET(27) NUMBITS(1) [],
        /// Preset bases are offsets from page 0.
        REL OFFSET(28) NUMBITS(1) [],
        /// The queues' places are fixed.
        QUEUES_PRESET OFFSET(29) NUMBITS(1) [],
        /// The stream table's place is fixed.
        TABLES_PRESET OFFSET(30) NUMBITS(1) [],
        /// Enhanced command queues are supported.
        ECMDQ OFFSET(31) NUMBITS(1) [],
    ],

    /// Minor features (6.3.4).
    pub IDR3 [
        /// Hierarchical attribute disable.
        HAD OFFSET(2) NUMBITS(1) [],
        /// Page-based hardware attributes.
        PBHA OFFSET(3) NUMBITS(1) [],
        /// Execute-never by exception level at stage 2.
        XNX OFFSET(4) NUMBITS(1) [],
        /// Automatic PRI responses always carry the request's PASID.
        PPS OFFSET(5) NUMBITS(1) [],
        /// Memory partitioning and monitoring.
        MPAM OFFSET(7) NUMBITS(1) [],
        /// Stage 2 control of memory types.
        FWB OFFSET(8) NUMBITS(1) [],
        /// Small translation tables.
        STT OFFSET(9) NUMBITS(1) [],
        /// TLB invalidation by range and with level hint.
        RIL OFFSET(10) NUMBITS(1) [],
        /// Break-before-make level.
        BBML OFFSET(11) NUMBITS(2) [],
        /// Unprivileged access to half of the addresses can be prevented.
        E0PD OFFSET(13) NUMBITS(1) [],
        /// Stage 1 tables in Device memory are read as Normal Non-cacheable.
        PTWNNC OFFSET(14) NUMBITS(1) [],
    ],

    /// Address sizes (6.3.6).
    pub IDR5 [
        /// Output address size.
        OAS OFFSET(0) NUMBITS(3) [Bits32 = 0, Bits36 = 1, Bits40 = 2, Bits42 = 3, Bits44 = 4, Bits48 = 5, Bits52 = 6,
            Bits56 = 7],
        /// 4 KiB granule.
        GRAN4K OFFSET(4) NUMBITS(1) [],
        /// 16 KiB granule.
        GRAN16K OFFSET(5) NUMBITS(1) [],
        /// 64 KiB granule.
        GRAN64K OFFSET(6) NUMBITS(1) [],
        /// 52-bit addresses with 4 KiB and 16 KiB granules.
        DS OFFSET(7) NUMBITS(1) [],
        /// 128-bit descriptors.
        D128 OFFSET(8) NUMBITS(1) [],
        /// Virtual address size.
        VAX OFFSET(10) NUMBITS(2) [Bits48 = 0, Bits52 = 1, Bits56 = 2],
        /// How many stalled transactions there can be at once.
        STALL_MAX OFFSET(16) NUMBITS(16) [],
    ],

    /// Enables, and what of them has taken effect (6.3.9, 6.3.10).
    pub CR0 [
        /// Translation is enabled.
        SMMUEN OFFSET(0) NUMBITS(1) [],
        /// The PRI queue is written.
        PRIQEN OFFSET(1) NUMBITS(1) [],
        /// The event queue is written.
        EVENTQEN OFFSET(2) NUMBITS(1) [],
        /// Commands are processed.
        CMDQEN OFFSET(3) NUMBITS(1) [],
        /// Translated transactions are checked against the stream table.
        ATSCHK OFFSET(4) NUMBITS(1) [],
        /// VMID bits that invalidations ignore.
        VMW OFFSET(6) NUMBITS(3) [],
    ],

    /// Memory attributes of table and queue accesses (6.3.11).
    pub CR1 [
        /// Inner cacheability of queue accesses.
        QUEUE_IC OFFSET(0) NUMBITS(2) [NonCacheable = 0, WriteBack = 1, WriteThrough = 2],
        /// Outer cacheability of queue accesses.
        QUEUE_OC OFFSET(2) NUMBITS(2) [NonCacheable = 0, WriteBack = 1, WriteThrough = 2],
        /// Shareability of queue accesses.
        QUEUE_SH OFFSET(4) NUMBITS(2) [NonShareable = 0, OuterShareable = 2, InnerShareable = 3],
        /// Inner cacheability of table accesses.
        TABLE_IC OFFSET(6) NUMBITS(2) [NonCacheable = 0, WriteBack = 1, WriteThrough = 2],
        /// Outer cacheability of table accesses.
        TABLE_OC OFFSET(8) NUMBITS(2) [NonCacheable = 0, WriteBack = 1, WriteThrough = 2],
        /// Shareability of table accesses.
        TABLE_SH OFFSET(10) NUMBITS(2) [NonShareable = 0, OuterShareable = 2, InnerShareable = 3],
    ],

    /// What is recorded and which broadcasts are followed (6.3.12).
    pub CR2 [
        /// EL2 streams use the E2H regime.
        E2H OFFSET(0) NUMBITS(1) [],
        /// `C_BAD_STREAMID` events are recorded.
        RECINVSID OFFSET(1) NUMBITS(1) [],
        /// Broadcast TLB maintenance is not followed.
        PTM OFFSET(2) NUMBITS(1) [],
        /// Configuration errors of ATS and PRI are recorded.
        REC_CFG_ATS OFFSET(3) NUMBITS(1) [],
    ],

    /// Transactions while the SMMU is disabled (6.3.14).
    pub GBPA [
        /// They are aborted.
        ABORT OFFSET(20) NUMBITS(1) [],
        /// Set by software to make a write take effect, cleared by the SMMU when it has.
        UPDATE OFFSET(31) NUMBITS(1) [],
    ],

    /// Interrupt enables, and what of them has taken effect (6.3.16, 6.3.18).
    pub IRQ_CTRL [
        /// Global errors.
        GERROR OFFSET(0) NUMBITS(1) [],
        /// PRI queue.
        PRIQ OFFSET(1) NUMBITS(1) [],
        /// Event queue.
        EVENTQ OFFSET(2) NUMBITS(1) [],
    ],

    /// Global errors: one is active while its bits in GERROR and GERRORN differ (6.3.19, 6.3.20).
    pub GERROR [
        /// A command cannot be processed; `CMDQ_CONS.ERR` says why.
        CMDQ_ERR OFFSET(0) NUMBITS(1) [],
        /// An event queue access was aborted: events may be lost.
        EVENTQ_ABT_ERR OFFSET(2) NUMBITS(1) [],
        /// A PRI queue access was aborted.
        PRIQ_ABT_ERR OFFSET(3) NUMBITS(1) [],
        /// The MSI of a `CMD_SYNC` was aborted.
        MSI_CMDQ_ABT_ERR OFFSET(4) NUMBITS(1) [],
        /// An event queue MSI was aborted.
        MSI_EVENTQ_ABT_ERR OFFSET(5) NUMBITS(1) [],
        /// A PRI queue MSI was aborted.
        MSI_PRIQ_ABT_ERR OFFSET(6) NUMBITS(1) [],
        /// A global error MSI was aborted.
        MSI_GERROR_ABT_ERR OFFSET(7) NUMBITS(1) [],
        /// The SMMU entered service failure mode.
        SFM_ERR OFFSET(8) NUMBITS(1) [],
    ],

    /// Memory attributes of an MSI (6.3.23, 6.3.32, 6.3.36).
    pub IRQ_CFG2 [
        /// Memory type, coded as `STE.MemAttr`.
        MEMATTR OFFSET(0) NUMBITS(4) [],
        /// Shareability.
        SH OFFSET(4) NUMBITS(2) [NonShareable = 0, OuterShareable = 2, InnerShareable = 3],
        /// PRI queue only: interrupt on each Last (1) instead of when the queue becomes non-empty (0).
        LO OFFSET(31) NUMBITS(1) [],
    ],

    /// Format and size of the stream table (6.3.25).
    pub STRTAB_BASE_CFG [
        /// log2 of the number of StreamIDs that the table covers.
        LOG2SIZE OFFSET(0) NUMBITS(6) [],
        /// StreamID bits that index the lower level of a 2-level table.
        SPLIT OFFSET(6) NUMBITS(5) [Bits6 = 6, Bits8 = 8, Bits10 = 10],
        /// Linear or 2-level.
        FMT OFFSET(16) NUMBITS(2) [Linear = 0, TwoLevel = 1],
    ],

    /// The command queue's read index and error (6.3.28).
    pub CMDQ_CONS [
        /// Read index and wrap bit.
        RD OFFSET(0) NUMBITS(20) [],
        /// Why the command at RD cannot be processed, while `GERROR.CMDQ_ERR` is active (7.1).
        ERR OFFSET(24) NUMBITS(7) [None = 0, Ill = 1, Abt = 2, AtcInvSync = 3],
    ],

    /// The write index of the event or PRI queue (6.3.95, 6.3.97).
    pub QUEUE_PROD [
        /// Write index and wrap bit.
        WR OFFSET(0) NUMBITS(20) [],
        /// Overflow, active while it differs from `OVACKFLG`.
        OVFLG OFFSET(31) NUMBITS(1) [],
    ],

    /// The read index of the event or PRI queue (6.3.96, 6.3.98).
    pub QUEUE_CONS [
        /// Read index and wrap bit.
        RD OFFSET(0) NUMBITS(20) [],
        /// Acknowledges an overflow when made equal to `OVFLG`.
        OVACKFLG OFFSET(31) NUMBITS(1) [],
    ]
];

register_bitfields![u64,
    /// Where the stream table is (6.3.24).
    pub STRTAB_BASE [
        /// Bits 55:6 of its physical address.
        ADDR OFFSET(6) NUMBITS(50) [],
        /// Read-allocate hint.
        RA OFFSET(62) NUMBITS(1) [],
    ],

    /// Where a queue is and how big (6.3.26, 6.3.29, 6.3.33).
    pub QUEUE_BASE [
        /// log2 of its number of entries.
        LOG2SIZE OFFSET(0) NUMBITS(5) [],
        /// Bits 55:5 of its physical address.
        ADDR OFFSET(5) NUMBITS(51) [],
        /// Allocation hint: of reads for the command queue, of writes for the others.
        ALLOCATE OFFSET(62) NUMBITS(1) [],
    ],

    /// Where an MSI is written (6.3.21, 6.3.30, 6.3.34).
    pub IRQ_CFG0 [
        /// Bits 55:2 of the physical address; 0: no MSI.
        ADDR OFFSET(2) NUMBITS(54) [],
    ]
];
