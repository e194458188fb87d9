//! The register file: 6.2, 6.3.

use super::bench::*;

#[test]
fn id_registers_hold_what_the_model_does() {
    let bench = Bench::reset();
    // Both stages, AArch64 tables, COHACC, HTTU 2, HYP, ATS, ASID16, PRI, VMID16, CD2L, little-endian tables, stall and
    // terminate, 2-level stream table.
    assert_eq!(bench.read(0x00), 0x084d_169b);
    // 16 StreamID bits, 8 SubstreamID bits, queues of 2^10, ATTR_PERMS_OVR.
    assert_eq!(bench.read(0x04), 0x054a_5210);
    // HAD, XNX, RIL, BBML 1.
    assert_eq!(bench.read(0x0c), 0x0000_0c14);
    // 64 stalls, all granules, 48 bits out.
    assert_eq!(bench.read(0x14), 0x0040_0075);
    assert_eq!(bench.read(0x1c), 2);
    // IDR2, IDR4 and IIDR hold nothing.
    assert_eq!((bench.read(0x08), bench.read(0x10), bench.read(0x18)), (0, 0, 0));
}

#[test]
fn read_only_registers_and_reserved_bits_ignore_writes() {
    let mut bench = Bench::reset();
    for offset in (0..0x20).step_by(4) {
        let before = bench.read(offset);
        bench.write(offset, !before);
        assert_eq!(bench.read(offset), before, "{offset:#x}");
    }
    // CR0ACK, IRQ_CTRLACK, GERROR; the MSI registers, which without MSIs are RES0; nothing at all.
    for offset in
        [CR0ACK, IRQ_CTRLACK, GERROR, 0x68, 0x6c, 0x70, 0x74, 0xb0, 0xb8, 0xd0, 0xdc, 0xa8, 0xc8, 0x200, 0x10000]
    {
        bench.write(offset, !0);
        assert_eq!(bench.read(offset), 0, "{offset:#x}");
    }
    for (offset, bits) in [
        (CR0, 0x1f),
        (CR1, 0xfff),
        (CR2, 0x3),
        (IRQ_CTRL, 0x7),
        (GERRORN, 0xd),
        (STRTAB_BASE_CFG, 0x3_07ff),
        (CMDQ_PROD, 0xf_ffff),
        (CMDQ_CONS, 0xf_ffff),
        (EVENTQ_PROD, 0x800f_ffff),
        (EVENTQ_CONS, 0x800f_ffff),
        (PRIQ_PROD, 0x800f_ffff),
        (PRIQ_CONS, 0x800f_ffff),
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
