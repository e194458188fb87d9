//! Words of descriptors, written by hand from Arm DDI 0487, D8.3.

use super::*;

fn page() -> PageDescriptor {
    PageDescriptor {
        output: PhysAddr(0x4020_0000),
        attributes: 1,
        shareability: Shareability::InnerShareable,
        accessed: true,
        not_global: true,
        unprivileged: true,
        read_only: false,
        privileged_execute_never: true,
        unprivileged_execute_never: true,
    }
}

#[track_caller]
fn check(word: u64, level: Level, descriptor: PageDescriptor) {
    assert_eq!(descriptor.encode(level), word, "encode {descriptor:?}");
    assert_eq!(Descriptor::decode(word, level), Descriptor::Leaf(descriptor), "decode {word:#x}");
}

#[test]
fn pages_have_bits_1_and_0_set_and_blocks_bit_0() {
    check(0x0060_0000_4020_0f47, Level::Three, page());
    check(0x0060_0000_4020_0f45, Level::Two, page());
    check(0x0060_0000_4000_0f45, Level::One, PageDescriptor { output: PhysAddr(0x4000_0000), ..page() });
    // Read-only, privileged, global, AF 0, attribute 7, SH 2, executable.
    check(
        0x0000_ffff_ffff_f29f,
        Level::Three,
        PageDescriptor {
            output: PhysAddr(0xffff_ffff_f000),
            attributes: 7,
            shareability: Shareability::OuterShareable,
            accessed: false,
            not_global: false,
            unprivileged: false,
            read_only: true,
            privileged_execute_never: false,
            unprivileged_execute_never: false,
        },
    );
}

#[test]
fn tables_have_bits_1_and_0_set_and_limits_from_bit_59() {
    let table = TableDescriptor::new(PhysAddr(0x8000_3000));
    assert_eq!(table.encode(), 0x8000_3003);
    for level in [Level::Zero, Level::One, Level::Two] {
        assert_eq!(Descriptor::decode(0x8000_3003, level), Descriptor::Table(table));
    }
    for (word, limited) in [
        (0x0800_0000_8000_3003, TableDescriptor { privileged_execute_never: true, ..table }),
        (0x1000_0000_8000_3003, TableDescriptor { unprivileged_execute_never: true, ..table }),
        (0x2000_0000_8000_3003, TableDescriptor { privileged_only: true, ..table }),
        (0x4000_0000_8000_3003, TableDescriptor { read_only: true, ..table }),
    ] {
        assert_eq!(limited.encode(), word);
        assert_eq!(Descriptor::decode(word, Level::One), Descriptor::Table(limited));
    }
}

#[test]
fn what_is_reserved_is_invalid() {
    for level in [Level::Zero, Level::One, Level::Two, Level::Three] {
        assert_eq!(Descriptor::decode(0x8000_3002, level), Descriptor::Invalid);
        assert_eq!(Descriptor::decode(Descriptor::INVALID, level), Descriptor::Invalid);
    }
    // No blocks at levels 0 and 3.
    assert_eq!(Descriptor::decode(0x4020_0f45, Level::Zero), Descriptor::Invalid);
    assert_eq!(Descriptor::decode(0x4020_0f45, Level::Three), Descriptor::Invalid);
    assert_eq!(page().encode(Level::Zero), Descriptor::INVALID);
}

#[test]
fn permissions_are_those_of_ap_pxn_and_uxn() {
    const EXECUTE: Access = Access { read: false, write: false, execute: true, privileged: false };
    let privileged = |access| Access { privileged: true, ..access };
    let all = [Access::READ, Access::WRITE, EXECUTE].map(|access| [access, privileged(access)]);
    // For each AP[2:1], with execution never forbidden: read, write, execute, each unprivileged and privileged.
    for (unprivileged, read_only, expected) in [
        (false, false, [[false, true], [false, true], [true, true]]),
        (true, false, [[true, true], [true, true], [true, false]]),
        (false, true, [[false, true], [false, false], [true, true]]),
        (true, true, [[true, true], [false, false], [true, true]]),
    ] {
        let page = PageDescriptor {
            unprivileged,
            read_only,
            privileged_execute_never: false,
            unprivileged_execute_never: false,
            ..page()
        };
        assert_eq!(all.map(|pair| pair.map(|access| page.permits(access))), expected, "{unprivileged} {read_only}");
        let never = PageDescriptor { privileged_execute_never: true, unprivileged_execute_never: true, ..page };
        assert!(!never.permits(EXECUTE) && !never.permits(privileged(EXECUTE)));
    }
    // Neither read nor write nor execute is always permitted.
    assert!(page().permits(Access::default()));
}

#[test]
fn tables_limit_what_is_behind_them() {
    let open = PageDescriptor { privileged_execute_never: false, unprivileged_execute_never: false, ..page() };
    let table = TableDescriptor::new(PhysAddr(0));
    assert_eq!(open.limited_by(&table), open);
    let closed = open.limited_by(&TableDescriptor { read_only: true, ..table });
    assert!(closed.permits(Access::READ) && !closed.permits(Access::WRITE));
    let closed = open.limited_by(&TableDescriptor { privileged_only: true, ..table });
    assert!(!closed.permits(Access::READ));
    let closed =
        open.limited_by(&TableDescriptor { privileged_execute_never: true, unprivileged_execute_never: true, ..table });
    assert!(closed.privileged_execute_never && closed.unprivileged_execute_never);
}

#[test]
fn walks_begin_at_the_level_that_the_size_needs() {
    for (tsz, level, entries) in [
        (16, Level::Zero, 512),
        (24, Level::Zero, 2),
        (25, Level::One, 512),
        (33, Level::One, 2),
        (34, Level::Two, 512),
        (39, Level::Two, 16),
        (42, Level::Two, 2),
        (43, Level::Three, 512),
        (48, Level::Three, 16),
    ] {
        let size = InputSize::new(tsz).unwrap();
        assert_eq!((size.start_level(), size.start_entries()), (level, entries), "TxSZ {tsz}");
        assert_eq!((size.tsz(), size.bits()), (tsz, 64 - u32::from(tsz)));
    }
    assert_eq!((InputSize::new(15), InputSize::new(49)), (None, None));
    let size = InputSize::new(25).unwrap();
    assert!(size.contains(0x7f_ffff_ffff) && !size.contains(0x80_0000_0000) && !size.contains(u64::MAX));
    assert_eq!(size.start_table(PhysAddr(0x8000_1fff)).0, 0x8000_1000);
    assert_eq!(InputSize::new(33).unwrap().start_table(PhysAddr(0x8000_107f)).0, 0x8000_1070);
}

#[test]
fn nine_bits_of_the_address_select_an_entry() {
    let address = 0x0000_8040_6050_7abc;
    let indices = [Level::Zero, Level::One, Level::Two, Level::Three].map(|level| level.index(address));
    assert_eq!(indices, [0x100, 0x101, 0x102, 0x107]);
    assert_eq!(Level::Zero.next().and_then(Level::next).and_then(Level::next), Some(Level::Three));
    assert_eq!(Level::Three.next(), None);
}
