//! The register file: 6.2, 6.3.

use super::bench::*;
use crate::model::machine::Width;
use crate::model::profile::Profile;
use crate::model::smmu::Smmu;
use crate::smmuv3::features::IdRegisters;

#[test]
fn read_only_registers_and_reserved_bits_ignore_writes() {
    let mut bench = Bench::reset();
    for offset in (0..0x20).step_by(4) {
        let before = bench.read(offset);
        bench.write(offset, !before);
        assert_eq!(bench.read(offset), before, "{offset:#x}");
    }
    // CR0ACK, IRQ_CTRLACK, GERROR; S2PII, STATUSR, AGBPA, GATOS_*, MPAMIDR, VATOS_SEL, IDR6, DPT_BASE; identification
    // registers; the aliases of page 1 in page 0, and one of page 0 in page 1; CMDQ_CONTROL_PAGE_BASE0, S_IDR1, S_INIT.
    for offset in [
        CR0ACK,
        IRQ_CTRLACK,
        GERROR,
        0x30,
        0x34,
        0x40,
        0x48,
        0x100,
        0x108,
        0x110,
        0x118,
        0x130,
        0x180,
        0x190,
        0x200,
        0xfd0,
        0xfe0,
        0xffc,
        0xa8,
        0xac,
        0xc8,
        0xcc,
        0x10000,
        0x10020,
        0x4000,
        0x8004,
        0x803c,
    ] {
        bench.write(offset, !0);
        assert_eq!(bench.read(offset), 0, "{offset:#x}");
    }
    for (offset, bits) in [
        (CR0, 0x1f),
        (CR1, 0xfff),
        (CR2, 0x3),
        (IRQ_CTRL, 0x7),
        (GERRORN, 0x1fd),
        (STRTAB_BASE_CFG, 0x3_07ff),
        // Queues of one entry: an index is its wrap bit (6.3.27, 6.3.28).
        (CMDQ_PROD, 1),
        (CMDQ_CONS, 1),
        (EVENTQ_PROD, 0x8000_0001),
        (EVENTQ_CONS, 0x8000_0001),
        (PRIQ_PROD, 0x8000_0001),
        (PRIQ_CONS, 0x8000_0001),
        // ADDR[47:2], DATA, SH and MemAttr of each source, and LO (6.3.21 to 6.3.23, 6.3.36).
        (0x68, 0xffff_fffc),
        (0x6c, 0xffff),
        (0x70, 0xffff_ffff),
        (0x74, 0x3f),
        (0xb0, 0xffff_fffc),
        (0xb4, 0xffff),
        (0xb8, 0xffff_ffff),
        (0xbc, 0x3f),
        (0xd0, 0xffff_fffc),
        (0xd4, 0xffff),
        (0xd8, 0xffff_ffff),
        (0xdc, 0x8000_003f),
    ] {
        let mut bench = Bench::reset();
        bench.write(offset, !0);
        assert_eq!(bench.read(offset), bits, "{offset:#x}");
    }
}

#[test]
fn double_registers_take_double_and_half_accesses() {
    let mut bench = Bench::reset();
    bench.write64(CMDQ_BASE, !0);
    assert_eq!(bench.read64(CMDQ_BASE), 0x4000_ffff_ffff_ffff);
    bench.write(CMDQ_BASE, 0x1234_5668);
    assert_eq!(bench.read64(CMDQ_BASE), 0x4000_ffff_1234_5668);
    bench.write(CMDQ_BASE + 4, 0x9);
    assert_eq!((bench.read(CMDQ_BASE), bench.read(CMDQ_BASE + 4)), (0x1234_5668, 9));
    bench.write64(STRTAB_BASE, !0);
    assert_eq!(bench.read64(STRTAB_BASE), 0x4000_ffff_ffff_ffc0);
    // Two 32-bit registers side by side.
    bench.write64(CMDQ_PROD, 0x0000_0005_0000_0003);
    assert_eq!((bench.read(CMDQ_PROD), bench.read(CMDQ_CONS)), (3, 5));
    assert_eq!(bench.read64(CMDQ_PROD), 0x0000_0005_0000_0003);
}

#[test]
fn fields_of_cr2_exist_where_idr0_says_so() {
    // BTM is bit 5, ATS bit 10, PRI bit 16 and ATSRECERR bit 23 of IDR0 (6.3.1); RECINVSID is there always and E2H with HYP,
    // PTM with BTM, REC_CFG_ATS with ATSRECERR and ATS (6.3.12).
    let full = Profile::Full.id_registers();
    let ats_and_pri = 1 << 10 | 1 << 16;
    for (idr0, fields) in [
        (full.idr0, 0x3),
        (full.idr0 | 1 << 5, 0x7),
        (full.idr0 | 1 << 23, 0xb),
        (full.idr0 & !ats_and_pri | 1 << 23, 0x3),
    ] {
        let mut smmu = Smmu::with_ids(IdRegisters { idr0, ..full });
        smmu.write(CR2 as usize, Width::Word, 0xffff_ffff);
        assert_eq!(smmu.read(CR2 as usize, Width::Word), fields, "{idr0:#x}");
    }
}

#[test]
fn misaligned_accesses_do_nothing() {
    let mut bench = Bench::reset();
    bench.write(CR0 + 2, !0);
    bench.write64(STRTAB_BASE + 4, !0);
    assert_eq!((bench.read(CR0), bench.read64(STRTAB_BASE)), (0, 0));
    assert_eq!(bench.read(CR0 + 1), 0);
}

#[test]
fn acknowledgements_come_after_the_write() {
    let mut bench = Bench::reset();
    bench.write(CR0, 0xc);
    bench.write(IRQ_CTRL, 5);
    assert_eq!((bench.read(CR0), bench.read(CR0ACK)), (0xc, 0));
    assert_eq!((bench.read(IRQ_CTRL), bench.read(IRQ_CTRLACK)), (5, 0));
    assert!(bench.step());
    assert_eq!((bench.read(CR0ACK), bench.read(IRQ_CTRLACK)), (0xc, 5));
    assert!(!bench.step());
}

#[test]
fn field_that_is_being_updated_ignores_writes_and_its_neighbours_do_not() {
    let mut bench = Bench::reset();
    bench.write(CR0, 8);
    bench.write(CR0, 4);
    assert_eq!(bench.read(CR0), 0xc);
    bench.step();
    assert_eq!(bench.read(CR0ACK), 0xc);
    bench.write(CR0, 0);
    bench.step();
    assert_eq!(bench.read(CR0ACK), 0);
}

#[test]
fn gbpa_changes_only_with_update_and_one_at_a_time() {
    let mut bench = Bench::reset();
    bench.write(GBPA, 1 << 20);
    assert_eq!(bench.read(GBPA), 0, "without Update");
    bench.write(GBPA, 1 << 31 | 1 << 20);
    assert_eq!(bench.read(GBPA), 1 << 31 | 1 << 20, "readable at once");
    bench.write(GBPA, 1 << 31);
    bench.step();
    assert_eq!(bench.read(GBPA), 1 << 20, "the second write came while the first was under way");
}

#[test]
fn guarded_registers_are_read_only_while_what_guards_them_is_on() {
    let mut bench = Bench::enabled();
    let guarded = [
        CR2,
        STRTAB_BASE,
        STRTAB_BASE + 4,
        STRTAB_BASE_CFG,
        CMDQ_BASE,
        CMDQ_BASE + 4,
        CMDQ_CONS,
        EVENTQ_BASE,
        EVENTQ_PROD,
        PRIQ_BASE,
        PRIQ_PROD,
        CR1,
    ];
    for offset in guarded {
        let before = bench.read(offset);
        bench.write(offset, !before);
        assert_eq!(bench.read(offset), before, "{offset:#x}");
    }
    // Still guarded while the update to 0 is under way, and when it is written but not complete.
    bench.write(CR0, 0);
    bench.write(CMDQ_CONS, 7);
    assert_eq!(bench.read(CMDQ_CONS), 0);
    bench.step();
    bench.write(CMDQ_CONS, 7);
    assert_eq!(bench.read(CMDQ_CONS), 7);
    bench.write(CR0, 8);
    bench.write(CMDQ_CONS, 8);
    assert_eq!(bench.read(CMDQ_CONS), 7);
}

#[test]
fn table_and_queue_attributes_are_guarded_apart() {
    let mut bench = Bench::reset();
    bench.write(CR1, 0xd75);
    bench.enable(1);
    bench.write(CR1, 0);
    assert_eq!(bench.read(CR1), 0xd40);
    bench.enable(4);
    bench.write(CR1, 0x3f);
    assert_eq!(bench.read(CR1), 0);
}

#[test]
fn smaller_queue_truncates_its_indices() {
    let mut bench = Bench::reset();
    bench.write64(EVENTQ_BASE, EVENTS | 6);
    bench.write(EVENTQ_PROD, 0x800f_ff7f);
    bench.write(EVENTQ_CONS, 0x65);
    assert_eq!((bench.read(EVENTQ_PROD), bench.read(EVENTQ_CONS)), (0x8000_007f, 0x65));
    // From the wrap flag downward (6.3.95).
    bench.write64(EVENTQ_BASE, EVENTS | 4);
    assert_eq!((bench.read(EVENTQ_PROD), bench.read(EVENTQ_CONS)), (0x8000_001f, 0x5));
}

#[test]
fn message_registers_are_guarded_by_their_enable() {
    for (enable, first) in [(1, 0x68), (2, 0xd0), (4, 0xb0)] {
        let mut bench = Bench::reset();
        bench.write64(first, DATA);
        bench.write(IRQ_CTRL, enable);
        let written = |bench: &mut Bench| {
            bench.write64(first, !0);
            bench.write(first + 8, 7);
            bench.write(first + 12, 0x8000_003f);
            (bench.read64(first), bench.read(first + 8), bench.read(first + 12))
        };
        assert_eq!(written(&mut bench), (DATA, 0, 0), "the update to 1 is under way");
        bench.step();
        assert_eq!(written(&mut bench), (DATA, 0, 0), "enabled");
        bench.write(IRQ_CTRL, 0);
        assert_eq!(written(&mut bench), (DATA, 0, 0), "the update to 0 is under way");
        bench.step();
        let last_only = if enable == 2 { 1 << 31 } else { 0 };
        assert_eq!(written(&mut bench), (0xffff_ffff_fffc, 7, last_only | 0x3f));
    }
}

#[test]
fn what_reset_leaves_unknown_follows_from_the_seed_and_nothing_else_does() {
    // CR1, CR2, GBPA; GERROR_IRQ_CFG0 to CFG2; STRTAB_BASE and _CFG; the queues with their messages (6.3.11 to 6.3.36, 6.3.95
    // to 6.3.98). Upper halves of 64-bit registers too, 17 of them.
    let unknown = [
        CR1,
        CR2,
        GBPA,
        0x68,
        0x6c,
        0x70,
        0x74,
        0x80,
        0x84,
        0x88,
        0x90,
        0x94,
        0x98,
        0x9c,
        0xa0,
        0xa4,
        0xb0,
        0xb4,
        0xb8,
        0xbc,
        0xc0,
        0xc4,
        0xd0,
        0xd4,
        0xd8,
        0xdc,
        EVENTQ_PROD,
        EVENTQ_CONS,
        PRIQ_PROD,
        PRIQ_CONS,
    ];
    let values = |seed: u32| {
        let mut bench = Bench::reset();
        bench.write(REGISTER_POISON, seed);
        let offsets = (0..0x100).step_by(4).chain((0x1_0000..0x1_0100).step_by(4));
        offsets.map(|offset| (offset, bench.read(offset))).collect::<std::collections::BTreeMap<u64, u32>>()
    };
    let (zero, seeds) = (values(0), (1..64).map(values).collect::<std::vec::Vec<_>>());
    for (offset, value) in &zero {
        let differs = seeds.iter().any(|seed| seed[offset] != *value);
        assert_eq!(differs, unknown.contains(offset), "{offset:#x}");
    }
    assert_eq!(values(0x5eed), values(0x5eed));
    // Not Update of GBPA (6.3.14), not OVFLG of the PRI queue (6.3.97); those of the event queue and ERR are.
    let ever = |offset: u64, bits: u32| seeds.iter().any(|seed| seed[&offset] & bits != 0);
    assert!(!ever(GBPA, 1 << 31) && !ever(PRIQ_PROD, 1 << 31));
    assert!(
        ever(GBPA, 1 << 20) && ever(PRIQ_CONS, 1 << 31) && ever(EVENTQ_PROD, 1 << 31) && ever(CMDQ_CONS, 0x7f << 24)
    );
}

/// Anything: CR0 or IRQ_CTRL, written or acknowledged, on or off again.
#[test]
fn once_anything_is_enabled_the_seed_changes_nothing() {
    let changed = |prepare: &dyn Fn(&mut Bench)| {
        let mut bench = Bench::reset();
        prepare(&mut bench);
        let before = bench.read64(CMDQ_BASE);
        bench.write(REGISTER_POISON, 77);
        bench.read64(CMDQ_BASE) != before
    };
    assert!(changed(&|_| {}));
    for register in [CR0, IRQ_CTRL] {
        assert!(!changed(&|bench| bench.write(register, 1)));
        let on = |bench: &mut Bench| {
            bench.write(register, 1);
            bench.step();
        };
        assert!(!changed(&on));
        let off = |bench: &mut Bench| {
            on(bench);
            bench.write(register, 0);
        };
        assert!(!changed(&off));
    }
    // Both, which together are on and off; one on and the other about to be.
    let both = |bench: &mut Bench| {
        bench.write(CR0, 1);
        bench.write(IRQ_CTRL, 1);
    };
    assert!(!changed(&both));
    assert!(!changed(&|bench| {
        both(bench);
        bench.step();
    }));
    assert!(!changed(&|bench| {
        bench.write(CR0, 1);
        bench.step();
        bench.write(IRQ_CTRL, 1);
    }));
}
