//! ID registers, bits from 6.3.

use std::string::ToString;

use super::*;

/// S2P, S1P, TTF 2, COHACC, HTTU 2, HYP, ATS, ASID16, PRI, VMID16, CD2L, ST_LEVEL 1; 16-bit StreamIDs, 20-bit
/// SubstreamIDs, queues of 2^10; RIL, PPS; 44 bits, all granules, 64 stalls.
pub(super) const EVERYTHING: IdRegisters = IdRegisters {
    idr0: 0x080d_169b,
    idr1: 0x014a_5510,
    idr3: 0x0000_0420,
    idr5: 0x0040_0074,
    iidr: 0x1230_043b,
    aidr: 0x0000_0002,
};

/// QEMU 7.2, `-M virt,iommu=smmuv3`, as read.
const QEMU: IdRegisters =
    IdRegisters { idr0: 0x0d40_101a, idr1: 0x0273_0010, idr3: 0x1404, idr5: 0x74, iidr: 0, aidr: 0 };

#[test]
fn everything_is_found() {
    let features = Features::decode(EVERYTHING).unwrap();
    assert_eq!((features.minor, features.implementer, features.product), (2, 0x43b, 0x123));
    assert!(features.stage1 && features.stage2 && features.aarch64 && !features.aarch32 && features.coherent);
    assert!(features.hyp && features.ats && features.split_ats && features.pri && features.pps);
    assert!(features.two_level && features.cd2l && features.range_invalidation);
    assert!(!features.msi && !features.sev && !features.broadcast_tlb && !features.term_model);
    assert_eq!(features.table_endianness, TableEndianness::Mixed);
    assert_eq!(features.httu, Httu::Dirty);
    assert_eq!((features.stall_model, features.stall_max), (StallModel::Configurable, 64));
    assert_eq!((features.asid_bits, features.vmid_bits), (16, 16));
    assert_eq!((features.sid_bits, features.ssid_bits), (16, 20));
    assert_eq!((features.command_queue.log2(), features.event_queue.log2()), (10, 10));
    assert_eq!(features.pri_queue, QueueSize::new(10));
    assert_eq!((features.oas.bits(), features.va_bits, features.ias()), (44, 48, 44));
    assert!(features.granule_4k && features.granule_16k && features.granule_64k);
}

#[test]
fn qemus_smmu_is_stage_1_only_and_never_stalls() {
    let features = Features::decode(QEMU).unwrap();
    assert!(features.stage1 && !features.stage2 && features.aarch64 && features.coherent && features.two_level);
    assert!(!features.ats && !features.pri && !features.cd2l && features.term_model && features.range_invalidation);
    assert_eq!(features.table_endianness, TableEndianness::Little);
    assert_eq!((features.stall_model, features.stall_max), (StallModel::Terminate, 0));
    assert_eq!((features.asid_bits, features.vmid_bits), (16, 8));
    assert_eq!((features.sid_bits, features.ssid_bits), (16, 0));
    assert_eq!((features.command_queue.log2(), features.event_queue.log2()), (19, 19));
    assert_eq!((features.pri_queue, features.oas.bits()), (None, 44));
    assert_eq!(
        features.to_string(),
        "SMMUv3.0 implementer 0x000 product 0x000: stage 1, AArch64 tables, coherent, 2-level stream table, range TLBI, \
         4K, 16K, 64K, little-endian tables, no stall, termination by abort, addresses 48 to 44 bits, ASID 16 VMID 8 \
         StreamID 16 SubstreamID 0 bits, queues 2^19 commands 2^19 events"
    );
}

#[test]
fn each_bit_of_idr0_is_where_6_3_1_has_it() {
    let with = |bits: u32| Features::decode(IdRegisters { idr0: 0xb | bits, ..EVERYTHING }).unwrap();
    assert!(!with(0).coherent && with(1 << 4).coherent);
    assert!(!with(0).broadcast_tlb && with(1 << 5).broadcast_tlb);
    assert_eq!([with(0).httu, with(1 << 6).httu, with(3 << 6).httu], [Httu::None, Httu::AccessFlag, Httu::Tables]);
    assert!(!with(0).hyp && with(1 << 9).hyp);
    assert!(!with(0).ats && with(1 << 10).ats);
    assert!(with(1 << 10).split_ats && !with(3 << 10).split_ats);
    assert_eq!([with(0).asid_bits, with(1 << 12).asid_bits], [8, 16]);
    assert!(!with(0).msi && with(1 << 13).msi);
    assert!(!with(0).sev && with(1 << 14).sev);
    assert!(!with(1 << 10).pri && with(1 << 10 | 1 << 16).pri);
    assert_eq!([with(0).vmid_bits, with(1 << 18).vmid_bits], [8, 16]);
    assert!(!with(0).cd2l && with(1 << 19).cd2l);
    assert_eq!(with(2 << 21).table_endianness, TableEndianness::Little);
    assert_eq!(with(3 << 21).table_endianness, TableEndianness::Big);
    assert!(!with(1 << 10).ats_record_errors && with(1 << 10 | 1 << 23).ats_record_errors);
    assert_eq!(with(1 << 24).stall_model, StallModel::Terminate);
    assert_eq!(with(2 << 24).stall_model, StallModel::Forced);
    assert!(!with(0).term_model && with(1 << 26).term_model);
    assert!(!with(0).two_level && with(1 << 27).two_level);
}

#[test]
fn fields_of_idr3_are_where_6_3_4_has_them() {
    let with = |idr3| Features::decode(IdRegisters { idr3, ..EVERYTHING }).unwrap();
    assert_eq!([!(1 << 13), 1 << 13].map(|idr3| with(idr3).unprivileged_disable), [false, true]);
    // BBML: levels 0 to 2.
    assert_eq!([0, 1, 2].map(|level| with(level << 11).free_block_changes), [false, false, true]);
}

#[test]
fn what_depends_on_a_missing_feature_is_off() {
    let without_ats = Features::decode(IdRegisters { idr0: EVERYTHING.idr0 & !(1 << 10), ..EVERYTHING }).unwrap();
    assert!(!without_ats.pri && !without_ats.pps && !without_ats.split_ats && without_ats.pri_queue.is_none());
    // XNX is bit 4 of IDR3.
    let with_xnx = IdRegisters { idr3: EVERYTHING.idr3 | 1 << 4, ..EVERYTHING };
    assert!(Features::decode(with_xnx).unwrap().stage2_execute_by_privilege);
    let without_stage2 = Features::decode(IdRegisters { idr0: EVERYTHING.idr0 & !1, ..with_xnx }).unwrap();
    assert!(!without_stage2.hyp && !without_stage2.split_ats && !without_stage2.stage2_execute_by_privilege);
    // STALL_MAX where nothing stalls (6.3.6), and PPS without substreams (6.3.4).
    let without_stall = Features::decode(IdRegisters { idr0: EVERYTHING.idr0 | 1 << 24, ..EVERYTHING }).unwrap();
    assert_eq!((without_stall.stall_model, without_stall.stall_max), (StallModel::Terminate, 0));
    let without_substreams = IdRegisters { idr1: EVERYTHING.idr1 & !(0x1f << 6), ..EVERYTHING };
    assert!(!Features::decode(without_substreams).unwrap().pps);
}

#[test]
fn one_granule_and_one_format_of_tables_are_enough() {
    // GRAN4K, GRAN16K and GRAN64K are bits 4 to 6 of IDR5.
    for granule in 4..=6 {
        let features = Features::decode(IdRegisters { idr5: 1 << granule | 4, ..EVERYTHING }).unwrap();
        let found = [features.granule_4k, features.granule_16k, features.granule_64k];
        assert_eq!(found, [4, 5, 6].map(|bit| bit == granule));
    }
    // TTF 1, 2 and 3: VMSAv8-32, VMSAv8-64, both.
    for (formats, expected) in [(1, (true, false)), (2, (false, true)), (3, (true, true))] {
        let features = Features::decode(IdRegisters { idr0: 3 | formats << 2, ..EVERYTHING }).unwrap();
        assert_eq!((features.aarch32, features.aarch64), expected, "TTF {formats}");
    }
}

#[test]
fn the_intermediate_size_is_at_least_40_bits_with_aarch32_tables() {
    // TTF 3 and OAS 1, 36 bits (3.4).
    let ids = IdRegisters { idr0: EVERYTHING.idr0 | 0xc, idr5: 0x71, ..EVERYTHING };
    assert_eq!(Features::decode(ids).unwrap().ias(), 40);
    assert_eq!(Features::decode(IdRegisters { idr0: EVERYTHING.idr0, ..ids }).unwrap().ias(), 36);
    // OAS 4, 44 bits.
    assert_eq!(Features::decode(IdRegisters { idr5: 0x74, ..ids }).unwrap().ias(), 44);
}

#[test]
fn reserved_values_are_refused_by_name() {
    let reserved = |register, field, value| Err(FeaturesError::Reserved { register, field, value });
    let idr0 = |idr0| Features::decode(IdRegisters { idr0, ..EVERYTHING });
    let idr1 = |idr1| Features::decode(IdRegisters { idr1, ..EVERYTHING });
    let idr5 = |idr5| Features::decode(IdRegisters { idr5, ..EVERYTHING });
    assert_eq!(idr0(0x080d_1698), Err(FeaturesError::NoStage(0x080d_1698)));
    assert_eq!(idr0(0x0000_0003), reserved(Register::Idr0, "TTF", 0));
    assert_eq!(idr0(0x0020_000b), reserved(Register::Idr0, "TTENDIAN", 1));
    assert_eq!(idr0(0x0300_000b), reserved(Register::Idr0, "STALL_MODEL", 3));
    assert_eq!(idr0(0x1000_000b), reserved(Register::Idr0, "ST_LEVEL", 2));
    assert_eq!(idr1(0x014a_5521), reserved(Register::Idr1, "SIDSIZE", 33));
    assert_eq!(idr1(0x014a_5550), reserved(Register::Idr1, "SSIDSIZE", 21));
    assert_eq!(idr1(0x028a_5510), reserved(Register::Idr1, "CMDQS", 20));
    assert_eq!(idr1(0x0154_5510), reserved(Register::Idr1, "EVENTQS", 20));
    assert_eq!(idr1(0x014a_a510), reserved(Register::Idr1, "PRIQS", 20));
    assert_eq!(idr5(0x0000_0c74), reserved(Register::Idr5, "VAX", 3));
    assert_eq!(idr5(0x0040_0004), Err(FeaturesError::NoGranule(0x0040_0004)));
}
