//! Commands and the command queue: 3.5, 3.21.2, 4.1 to 4.4, 4.6.

use std::vec::Vec;

use super::bench::*;
use super::direct::*;
use crate::model::endpoint::Response;
use crate::model::engine::registers as reg;
use crate::model::profile::Profile;
use crate::model::smmu::Issued;
use crate::smmuv3::features::IdRegisters;
use crate::smmuv3::{PhysAddr, SubstreamId};

const SYNC: [u64; 2] = [0x46, 0];

/// A CMD_SYNC whose message is `data`, to [`DATA`].
fn message(data: u64) -> [u64; 2] {
    [0x1046 | data << 32, DATA]
}

/// A machine whose command queue, disabled, has in every slot a CMD_SYNC that tells the number of the slot plus one.
fn prepared() -> Bench {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.enable(ALL_ON & !8);
    for slot in 0..16 {
        let [word0, word1] = message(slot + 1);
        bench.poke(COMMANDS + slot * 16, word0);
        bench.poke(COMMANDS + slot * 16 + 8, word1);
    }
    bench
}

#[test]
fn queue_that_is_enabled_with_commands_is_consumed_from_cons_to_prod() {
    // Full, from slot 5 on; partly full; partly full around the wrap. The bit above the 4 of the index is the wrap bit.
    for (cons, prod, last) in [(0x05, 0x15, 5), (0x03, 0x0b, 11), (0x1c, 0x02, 2)] {
        let mut bench = prepared();
        bench.write(CMDQ_CONS, cons);
        bench.write(CMDQ_PROD, prod);
        bench.enable(ALL_ON);
        bench.run();
        assert_eq!((bench.read(CMDQ_CONS), bench.peek(DATA)), (prod, last));
        let entries = prod.wrapping_sub(cons) & 0x1f;
        let syncs = bench.take_raised().len() as u32;
        assert_eq!(syncs, entries, "each of them once");
    }
}

#[test]
fn queue_that_is_disabled_under_way_stops_at_the_first_command_that_was_not_executed() {
    let mut bench = Bench::reset();
    bench.set_up();
    bench.write64(CMDQ_BASE, COMMANDS | 8);
    for slot in 0..100 {
        bench.poke(COMMANDS + slot * 16, message(slot + 1)[0]);
        bench.poke(COMMANDS + slot * 16 + 8, DATA);
    }
    bench.enable(ALL_ON);
    bench.write(CMDQ_PROD, 100);
    bench.step();
    bench.write(CR0, ALL_ON & !8);
    bench.run();
    let cons = bench.read(CMDQ_CONS);
    assert!(0 < cons && cons < 100);
    assert_eq!(bench.peek(DATA), u64::from(cons));
    bench.enable(ALL_ON);
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS), bench.peek(DATA)), (100, 100));
}

#[test]
fn command_that_is_replaced_while_the_queue_is_disabled_is_executed_as_it_is_then() {
    let mut bench = prepared();
    bench.write(CMDQ_PROD, 1);
    bench.run();
    bench.poke(COMMANDS, message(0x55)[0]);
    bench.enable(ALL_ON);
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS), bench.peek(DATA)), (1, 0x55));
}

#[test]
fn prod_that_moves_back_is_taken_as_it_is_and_disabling_restores_order() {
    let mut bench = prepared();
    bench.enable(ALL_ON);
    // Back to what is consistent with CONS.
    bench.write(CMDQ_PROD, 10);
    bench.write(CMDQ_PROD, 4);
    bench.run();
    assert_eq!((bench.take_raised().len(), bench.peek(DATA)), (4, 4));
    // 2 is 30 ahead of 4 in a queue of 16: inconsistent, and nothing is consumed (3.5.1).
    bench.write(CMDQ_PROD, 2);
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR), bench.peek(DATA)), (4, 0, 4));
    bench.enable(ALL_ON & !8);
    bench.write(CMDQ_CONS, 2);
    bench.write(CMDQ_PROD, 3);
    bench.enable(ALL_ON);
    bench.run();
    assert_eq!((bench.read(CMDQ_CONS), bench.peek(DATA)), (3, 3));
}

#[test]
fn low_bits_of_an_address_count_as_0() {
    // Bits [11:6] beside Size of a CMD_ATC_INV are reserved; of the other commands Leaf, TTL, TG, Size and Stride lie
    // there. The byte address of what is invalidated is that of its page.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.command([0x40 | STREAM << 32, 0x5000]);
    assert_eq!(direct.devices.invalidations[0].first, 0x5000);
    direct.stage1(0, CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(direct.reaches(0x5678, WRITE), DATA + 0x678);
    direct.map(0x5000, DATA + 0x1000, PAGE_RW);
    // CMD_TLBI_NH_VAA with Leaf.
    direct.command([0x13, 0x5001]);
    direct.command(SYNC);
    assert_eq!(direct.reaches(0x5678, WRITE), DATA + 0x1678);
}

/// NUM = 1 and TG = 4 KiB: with them SCALE, NUM, TG and TTL are fields of a command by address; without, none of their bits
/// may be set alone (4.4.1.1).
const NUM: u64 = 1 << 12;
const GRANULE: u64 = 1 << 10;

/// Every command there is, and the bits of its fields beside the opcode (4.2 to 4.7).
const COMMANDS_AND_FIELDS: [([u64; 2], [u64; 2]); 23] = [
    ([0x01, 0], [0xffff_ffff_ffff_f800, 0]),
    ([0x02, 0], [0xffff_ffff_ffff_f800, 0xffff_ffff_ffff_f3ff]),
    ([0x03, 0], [0xffff_ffff_0000_0000, 0x1]),
    ([0x04, 0], [0xffff_ffff_0000_0000, 0x1f]),
    ([0x05, 0], [0xffff_ffff_ffff_f000, 0x1]),
    ([0x06, 0], [0xffff_ffff_0000_0000, 0]),
    ([0x10, 0], [0x0000_ffff_0000_0000, 0]),
    ([0x11, 0], [0xffff_ffff_0000_0000, 0]),
    ([0x12 | NUM, GRANULE], [0xffff_ffff_01f1_f000, 0xffff_ffff_ffff_ff01]),
    ([0x12, 0], [0xffff_ffff_0000_0000, 0xffff_ffff_ffff_f001]),
    ([0x13 | NUM, GRANULE], [0x0000_ffff_01f1_f000, 0xffff_ffff_ffff_ff01]),
    ([0x20, 0], [0, 0]),
    ([0x21, 0], [0xffff_0000_0000_0000, 0]),
    ([0x22 | NUM, GRANULE], [0xffff_0000_01f1_f000, 0xffff_ffff_ffff_ff01]),
    ([0x23 | NUM, GRANULE], [0x0000_0000_01f1_f000, 0xffff_ffff_ffff_ff01]),
    ([0x28, 0], [0x0000_ffff_0000_0000, 0]),
    // Addresses that are not virtual end at bit 51 up to SMMUv3.3 (4.1.6).
    ([0x2a | NUM, GRANULE], [0x0000_ffff_01f1_f000, 0x000f_ffff_ffff_ff01]),
    ([0x30, 0], [0, 0]),
    ([0x40, 0], [0xffff_ffff_ffff_fa00, 0xffff_ffff_ffff_f03f]),
    ([0x41, 0], [0xffff_ffff_ffff_f800, 0x31ff]),
    ([0x44, 0], [0xffff_ffff_0000_3000, 0xffff]),
    ([0x45, 0], [0xffff_ffff_0000_0000, 0]),
    ([0x46, 0], [0xffff_ffff_0fc0_3000, 0x000f_ffff_ffff_fffc]),
];

#[test]
fn bit_of_no_field_is_illegal_in_every_command() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    for (command, fields) in COMMANDS_AND_FIELDS {
        for bit in 8..128 {
            let mut words = command;
            words[bit / 64] |= 1 << (bit % 64);
            let slot = direct.read(CMDQ_CONS) & 0x1f;
            direct.command(words);
            let active = (direct.read(GERROR) ^ direct.read(GERRORN)) & 1;
            if fields[bit / 64] >> (bit % 64) & 1 == 1 {
                assert_eq!((direct.read(CMDQ_CONS) & 0x1f, active), ((slot + 1) & 0x1f, 0), "{words:x?}");
            } else {
                assert_eq!((direct.read(CMDQ_CONS), active), (1 << 24 | slot, 1), "{words:x?}");
                let at = COMMANDS + u64::from(slot & 0xf) * 16;
                direct.poke(at, SYNC[0]);
                direct.poke(at + 8, SYNC[1]);
                direct.write(GERRORN, direct.read(GERROR));
                direct.step();
            }
        }
    }
}

#[test]
fn streams_that_there_cannot_be_are_no_error_and_concern_nobody() {
    let mut direct = Direct::stalling(0);
    direct.map(0x6000, DATA, PAGE_RW);
    assert_eq!(direct.reaches(0x6000, WRITE), DATA);
    let (slot, tag) = direct.tagged(0x5000);
    // Whoever forgets the stream's STE or CD finds none in memory.
    direct.set_ste(0, 0, 0);
    direct.poke(CDS, 0);
    // SIDSIZE is 16: StreamIDs that are that one in the low 16 bits, and the largest.
    for stream in [0x1_0000 | STREAM, 0xffff_0000 | STREAM, 0xffff_ffff] {
        for opcode in [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x40, 0x41, 0x44, 0x45] {
            let word1 = if opcode == 0x44 { tag } else { 0 };
            direct.command([opcode | stream << 32, word1]);
        }
    }
    direct.command(SYNC);
    assert_eq!((direct.read(GERROR), direct.take_events().len(), direct.poll(slot)), (0, 0, WAITS));
    assert_eq!(direct.reaches(0x6000, WRITE), DATA);
    // Messages go to whoever has such a StreamID.
    let devices = &direct.devices;
    for sent in [
        devices.invalidations.iter().map(|message| message.stream.0).collect::<Vec<_>>(),
        devices.responses.iter().map(|message| message.stream.0).collect(),
    ] {
        assert_eq!(sent, [0x1_0100, 0xffff_0100, 0xffff_ffff]);
    }
}

#[test]
fn substreams_that_there_cannot_be_are_no_error_and_concern_nobody() {
    // SSIDSIZE is 8, and so is S1CDMax; S1DSS is 2. CDs 0 and 0xff are in use, and then there are none in memory.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.set_ste(STE0_STAGE1 | CDS | 8 << 59, STE1 | 2, 0);
    direct.map(0x5000, DATA, PAGE_RW);
    let cds = [CDS, CDS + 0xff * 64];
    for cd in cds {
        direct.poke(cd + 8, TABLES);
        direct.poke(cd, CD0 | CD_R | CD_A);
    }
    let ends = |direct: &mut Direct| [None, Some(0xff)].map(|substream| direct.issue(0x5000, WRITE, substream));
    let works = [Issued::Ended(Response::Physical(PhysAddr(DATA))); 2];
    assert_eq!(ends(&mut direct), works);
    cds.into_iter().for_each(|cd| direct.poke(cd, 0));
    for substream in [0x100, 0xf_ffff] {
        for opcode in [0x01, 0x02, 0x40, 0x41] {
            direct.command([opcode | 1 << 11 | substream << 12 | STREAM << 32, 0]);
        }
        direct.command([0x05 | substream << 12 | STREAM << 32, 0]);
    }
    direct.command(SYNC);
    assert_eq!((direct.read(GERROR), direct.take_events().len(), ends(&mut direct)), (0, 0, works));
    // Messages go to whoever has such a PASID.
    let devices = &direct.devices;
    for sent in [
        devices.invalidations.iter().map(|message| message.substream.map(SubstreamId::get)).collect::<Vec<_>>(),
        devices.responses.iter().map(|message| message.substream.map(SubstreamId::get)).collect(),
    ] {
        assert_eq!(sent, [Some(0x100), Some(0xf_ffff)]);
    }
}

#[test]
fn prefetch_of_what_cannot_be_translated_leaves_no_record() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_S | CD_R | CD_A);
    direct.leaf_at(0);
    for [word0, word1] in [
        // No page, and an address that T0SZ does not reach.
        [0x02 | STREAM << 32, 0x5000],
        [0x02 | STREAM << 32, 0xffff_0000_0000_0000],
        [0x02 | STREAM << 32, 1 << 56],
        // SubstreamIDs on a stream without, within SSIDSIZE and beyond it; an invalid STE; StreamIDs beyond the table, for
        // which RECINVSID is set, and beyond SIDSIZE.
        [0x01 | 1 << 11 | 5 << 12 | STREAM << 32, 0],
        [0x01 | 1 << 11 | 0xf_ffff << 12 | STREAM << 32, 0],
        [0x01 | 0x101 << 32, 0],
        [0x02 | 0x101 << 32, 0x5000],
        [0x01 | 0x1234 << 32, 0],
        [0x02 | 0x1234 << 32, 0x5000],
        [0x01 | 0x1_0100 << 32, 0],
    ] {
        direct.command([word0, word1]);
    }
    // An invalid CD.
    direct.poke(CDS, 0);
    direct.invalidate();
    direct.command([0x01 | STREAM << 32, 0]);
    direct.command([0x02 | STREAM << 32, 0x5000]);
    assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR), direct.take_events().len()), (16, 0, 0));
    assert_eq!(direct.read(crate::model::smmu::diagnostics::STALLED as u64), 0);
}

#[test]
fn prefetch_changes_nothing_for_transactions() {
    for prefetched in [false, true] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.stage1(0, CD_R | CD_A);
        direct.map(0x5000, DATA, PAGE_RO);
        direct.memory.take_read(0..u64::MAX);
        if prefetched {
            direct.command([0x01 | STREAM << 32, 0]);
            direct.command([0x02 | STREAM << 32, 0x5000]);
            let read = direct.memory.take_read(0..u64::MAX);
            assert!(read.iter().all(|address| (COMMANDS..COMMANDS + 0x100).contains(address)), "{read:x?}");
        }
        assert_eq!(direct.reaches(0x5008, READ), DATA + 8);
        assert_eq!(direct.fault(0x5008, WRITE), [0x100_0000_0013, IN, 0x5008, 0]);
        assert_eq!(direct.fault(0x6000, WRITE), [0x100_0000_0010, IN, 0x6000, 0]);
    }
}

#[test]
fn prefetch_sets_no_access_flag_on_the_way_to_a_cd() {
    // S2HA; AF, bit 10, of the leaf for the CD is 0: the transaction that reads the CD sets it.
    let mut direct = Direct::nested_in_pages(S2HA, CD_R | CD_A);
    direct.change2(IPA_OF_CD, |leaf| leaf & !(1 << 10));
    for command in [[0x01 | STREAM << 32, 0], [0x02 | STREAM << 32, 0x5000], [0x46, 0]] {
        direct.command(command);
    }
    assert_eq!(direct.peek(leaf2(IPA_OF_CD)), CDS | S2_RW & !(1 << 10));
    assert_eq!(direct.reaches(0x5000, READ), DATA);
    assert_eq!(direct.peek(leaf2(IPA_OF_CD)), CDS | S2_RW);
}

#[test]
fn prefetch_takes_any_size_and_stride_and_bounded_work() {
    // Size and Stride are 5 bits each, in [4:0] and [9:5] of word 1 (4.2.2).
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    for (number, fields) in (0..1 << 10).enumerate() {
        direct.memory.take_read(0..u64::MAX);
        direct.command([0x02 | STREAM << 32, 0x5000 | fields]);
        assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR)), ((number as u32 + 1) & 0x1f, 0), "{fields:x}");
        assert!(direct.memory.take_read(0..u64::MAX).len() < 1000);
    }
}

#[test]
fn prefetch_marks_nothing_dirty() {
    // HA and HD; DBM, writable-clean.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_A | 3 << 42);
    direct.map(0x5000, DATA, PAGE_RO | 1 << 51);
    direct.command([0x02 | STREAM << 32, 0x5000]);
    direct.command(SYNC);
    assert_eq!(direct.peek(TABLES + 0x2028), DATA | PAGE_RO | 1 << 51);
}

#[test]
fn commands_of_dpt_are_illegal() {
    for opcode in [0x70, 0x73] {
        let mut direct = Direct::enabled(ALL_ON, 0);
        direct.command([opcode, 0]);
        assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR)), (1 << 24, 1));
    }
}

#[test]
fn tlb_command_of_all_of_secure_state_is_illegal() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.command([0x60, 0]);
    assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR)), (1 << 24, 1));
}

#[test]
fn invalidations_of_all_kinds_fail_no_transaction_that_runs() {
    let mut bench = Bench::enabled();
    bench.attach(0x100, 0, 0, CD_R | CD_A);
    for page in 0..16 {
        bench.map(0, 0x1_0000 + page * 0x1000, DATA + page * 0x1000, PAGE_RW);
        bench.map(0, 0x2_0000 + page * 0x1000, DATA + 0x1_0000 + page * 0x1000, PAGE_RW);
    }
    for word in 0..0x2000 {
        bench.poke(DATA + word * 8, word);
    }
    bench.set_engine(0, reg::DEPTH, 4);
    bench.set_engine64(0, reg::SOURCE, 0x1_0000);
    bench.set_engine64(0, reg::DESTINATION, 0x2_0000);
    bench.set_engine64(0, reg::LENGTH, 0x1_0000);
    bench.set_engine(0, reg::CONTROL, 1);
    let mut commands = [
        [0x03 | 0x100 << 32, 0],
        [0x04 | 0x100 << 32, 3],
        [0x04, 31],
        [0x05 | 0x100 << 32, 0],
        [0x06 | 0x100 << 32, 0],
        [0x10, 0],
        [0x11 | 1 << 48, 0],
        [0x12 | 1 << 48, 0x1_0000],
        [0x13, 0x1_0000],
        [0x20, 0],
        [0x28, 0],
        [0x2a, 0x1_0000],
        [0x30, 0],
    ]
    .into_iter()
    .cycle();
    let mut steps = 0;
    while bench.state(0) == 1 {
        bench.submit(commands.next().unwrap());
        bench.step();
        steps += 1;
    }
    assert!(steps > 13, "{steps}");
    assert_eq!((bench.state(0), bench.take_events().len(), bench.read(GERROR)), (2, 0, 0));
    assert!((0..0x2000).all(|word| bench.peek(DATA + 0x1_0000 + word * 8) == word));
}

#[test]
fn no_tlb_command_fails_by_its_address() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    let mut number = 0;
    // CMD_TLBI_NH_VA, NH_VAA, EL2_VA, EL2_VAA.
    for opcode in [0x12, 0x13, 0x22, 0x23] {
        for address in [0, 0x80_0000_0000, 0x8000_0000_0000_0000, 0xff12_3456_789a_b000, 0xffff_ffff_ffff_f000] {
            // Without and with a range: TG 4 KiB, NUM 31, SCALE 31, not aligned; TG 16 KiB with TTL 1, which counts as none.
            for (word0, word1) in [(0, 0), (31 << 12 | 31 << 20, 1 << 10), (1 << 12, 2 << 10 | 1 << 8)] {
                direct.command([opcode | word0, address | word1]);
                number = (number + 1) & 0x1f;
                assert_eq!((direct.read(CMDQ_CONS), direct.read(GERROR)), (number, 0), "{opcode:x} {address:x}");
            }
        }
    }
}

#[test]
fn structures_are_seen_whole_before_and_after_the_sequence_of_3_21_3_1() {
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_R | CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    let tables = 0x4014_0000;
    direct.poke(tables, (tables + 0x1000) | 3);
    direct.poke(tables + 0x1000, (tables + 0x2000) | 3);
    direct.poke(tables + 0x2028, (DATA + 0x1000) | PAGE_RW);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    // V = 0, fill, CFGI, SYNC: C_BAD_STE; V = 1, CFGI, SYNC: another CD, complete before anything points to it.
    direct.set_ste(0, 0, 0);
    direct.invalidate();
    for _ in 0..3 {
        assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_0004, 0, 0, 0]);
    }
    direct.poke(CDS + 0x48, tables);
    direct.poke(CDS + 0x40, CD0 | CD_A);
    direct.set_ste(STE0_STAGE1 | (CDS + 0x40), STE1, 0);
    direct.invalidate();
    assert_eq!(direct.reaches(0x5000, WRITE), DATA + 0x1000);
    // The same with the CD: C_BAD_CD.
    direct.poke(CDS + 0x40, 0);
    direct.invalidate();
    assert_eq!(direct.fault(0x5000, WRITE), [0x100_0000_000a, 0, 0, 0]);
    direct.poke(CDS + 0x48, TABLES);
    direct.poke(CDS + 0x40, CD0 | CD_A);
    direct.invalidate();
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
}

#[test]
fn change_within_one_word_needs_no_invalid_structure_between() {
    // Config from stage 1 to abort, in word 0.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.stage1(0, CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    assert_eq!(direct.reaches(0x5000, WRITE), DATA);
    direct.poke(STREAMS + STREAM * 64, 1);
    let between = direct.access(0x5000, WRITE);
    assert!(between == Response::Abort || between == Response::Physical(PhysAddr(DATA)));
    direct.invalidate();
    assert_eq!((direct.access(0x5000, WRITE), direct.take_events().len()), (Response::Abort, 0));
}

#[test]
fn tick_tells_whether_a_command_was_consumed() {
    // CMD_CFGI_ALL, and a CMD_SYNC that waits for a device.
    let mut direct = Direct::enabled(ALL_ON, 0);
    direct.devices.invalidating = true;
    direct.submit([0x04, 31]);
    direct.submit([0x46, 0]);
    assert_eq!((direct.tick(), direct.read(CMDQ_CONS)), (true, 1));
    assert_eq!((direct.tick(), direct.read(CMDQ_CONS)), (false, 1));
    direct.devices.invalidating = false;
    assert_eq!((direct.tick(), direct.read(CMDQ_CONS)), (true, 2));
    assert!(!direct.tick());
}

#[test]
fn messages_to_devices_have_no_pasid_where_there_are_none() {
    // IDR1.SSIDSIZE = 0, bits 10:6, else the full profile: SSV counts as 0 (4.5.1, 4.5.2).
    let full = Profile::Full.id_registers();
    let mut direct = Direct::with_ids(IdRegisters { idr1: full.idr1 & !(0x1f << 6), ..full });
    direct.command([0x40 | 1 << 11 | 5 << 12 | STREAM << 32, 52]);
    direct.command([0x41 | 1 << 11 | 5 << 12 | STREAM << 32, 2 << 12 | 7]);
    assert_eq!(direct.devices.invalidations.iter().map(|message| message.substream).collect::<Vec<_>>(), [None]);
    assert_eq!(direct.devices.responses.iter().map(|message| message.substream).collect::<Vec<_>>(), [None]);
}
