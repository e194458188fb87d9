//! Profiles: 6.3.1 to 6.3.8, and what follows from the ID registers.

use super::bench::*;
use crate::model::endpoint::{Response, Transaction};
use crate::model::engine::Engine;
use crate::model::engine::registers as reg;
use crate::model::host::HostMemory;
use crate::model::machine::Width;
use crate::model::memory::Memory;
use crate::model::profile::Profile;
use crate::model::smmu::{Issued, Smmu};
use crate::smmuv3::page_request::PageRequest;
use crate::smmuv3::{Access, PageResponse, PhysAddr, PrgIndex, StreamId, SubstreamId};

#[test]
fn every_profile_has_its_id_registers() {
    // S2P, S1P, AArch64 tables, COHACC, HTTU 2, HYP, ATS, ASID16, MSI, SEV, PRI, VMID16, CD2L, little-endian tables, 2-level
    // stream table; 16 StreamID bits, 8 SubstreamID bits, queues of 2^10, ATTR_PERMS_OVR; HAD, XNX, FWB, RIL, BBML 1, E0PD,
    // PTWNNC; all granules, 48 bits out, 64 stalls.
    let full = [0x084d_769b, 0x054a_5210, 0x6d14, 0x0040_0075];
    let [idr0, idr1, idr3, idr5] = full;
    for (name, ids) in [
        // QEMU's: SMMUv3.1, read from 7.2.22 and from 11.1.3.
        ("qemu-7.2", [0x0d40_101a, 0x0273_0010, 0x1404, 0x74]),
        ("qemu-10", [0x0d44_101b, 0x0273_0010, 0x1414, 0x74]),
        ("full", full),
        // STALL_MODEL 0b01, and STALL_MAX is RES0 then (6.3.6).
        ("terminate-only", [0x094d_769b, idr1, idr3, 0x75]),
        // STALL_MODEL 0b10, not with PCIe (6.3.1).
        ("forced-stall", [0x0a4c_729b, idr1, idr3, idr5]),
        ("no-pri", [0x084c_769b, idr1, idr3, idr5]),
        ("no-ats", [0x084c_729b, idr1, idr3, idr5]),
        // SIDSIZE 6, since 7 and more need ST_LEVEL (6.3.2).
        ("linear-only", [0x0045_769b, 0x054a_5206, idr3, idr5]),
        ("small", [0x0845_769b, 0x0421_0804, idr3, idr5]),
        // 32 and 20 bits, queues of 2^19, PPS, 52 bits out.
        ("big", [idr0, 0x0673_9d20, 0x6d34, 0x0040_0076]),
    ] {
        let profile = Profile::from_name(name).unwrap();
        assert_eq!(profile.name(), name);
        let bench = Bench::of(profile);
        assert_eq!([0x00, 0x04, 0x0c, 0x14].map(|offset| bench.read(offset)), ids, "{name}");
        // SMMUv3.3 but for QEMU's; IDR2, IDR4 and IIDR hold nothing.
        let version = if name.starts_with("qemu") { 1 } else { 3 };
        assert_eq!([0x1c, 0x08, 0x10, 0x18].map(|offset| bench.read(offset)), [version, 0, 0, 0], "{name}");
    }
    assert_eq!(Profile::ALL.len(), 10);
    assert_eq!(Profile::from_name("Full"), None);
}

#[test]
fn engines_have_the_stream_ids_that_the_smmu_can_represent() {
    for profile in Profile::ALL {
        let first = match profile.name() {
            "linear-only" | "small" => 0,
            _ => 0x100,
        };
        let bench = Bench::of(*profile);
        let streams = [0, 1, 2, 3].map(|index| bench.engine(index, reg::STREAM_ID));
        assert_eq!(streams, [first, first + 1, first + 2, first + 3], "{}", profile.name());
    }
}

/// What `offset` reads as after all bits were written.
fn writable(profile: Profile, offset: u64) -> u32 {
    let mut bench = Bench::of(profile);
    bench.write(offset, !0);
    bench.read(offset)
}

#[test]
fn registers_have_the_fields_that_the_id_registers_offer() {
    for (profile, offset, bits) in [
        // PRIQEN and ATSCHK (6.3.9), the PRI queue's interrupt (6.3.16) and errors (6.3.19).
        (Profile::NoPri, CR0, 0x1d),
        (Profile::NoAts, CR0, 0xd),
        (Profile::NoPri, IRQ_CTRL, 5),
        (Profile::NoPri, GERRORN, 0x1b5),
        // Everything of the PRI queue, LO too (6.3.33 to 6.3.36, 6.3.97).
        (Profile::NoPri, PRIQ_BASE, 0),
        (Profile::NoPri, PRIQ_BASE + 4, 0),
        (Profile::NoPri, PRIQ_PROD, 0),
        (Profile::NoPri, PRIQ_CONS, 0),
        (Profile::NoPri, 0xd0, 0),
        (Profile::NoPri, 0xd8, 0),
        (Profile::NoPri, 0xdc, 0),
        // FMT and SPLIT (6.3.25).
        (Profile::LinearOnly, STRTAB_BASE_CFG, 0x3f),
        (Profile::Small, STRTAB_BASE_CFG, 0x3_07ff),
    ] {
        assert_eq!(writable(profile, offset), bits, "{} {offset:#x}", profile.name());
    }
}

#[test]
fn commands_of_what_is_absent_are_illegal() {
    let resume = [0x44 | 1 << 12 | 0x100 << 32, 0];
    let stall_term = [0x45 | 0x100 << 32, 0];
    let atc_inv = [0x40 | 0x102 << 32, 52];
    let pri_resp = [0x41 | 0x102 << 32, 0];
    for (profile, illegal) in [
        (Profile::Full, [false, false, false, false]),
        // 4.7.1, 4.7.2.
        (Profile::TerminateOnly, [true, true, false, false]),
        (Profile::ForcedStall, [false, false, true, true]),
        // 4.5.1, 4.5.2.
        (Profile::NoPri, [false, false, false, true]),
        (Profile::NoAts, [false, false, true, true]),
    ] {
        for (command, illegal) in [resume, stall_term, atc_inv, pri_resp].into_iter().zip(illegal) {
            let mut bench = Bench::of(profile);
            bench.write64(CMDQ_BASE, COMMANDS | 4);
            // SMMUEN is 0: ILLEGAL comes before IGNORED (4.1.3).
            bench.enable(8);
            bench.command(command);
            let expected = if illegal { (1 << 24, 1) } else { (1, 0) };
            assert_eq!((bench.read(CMDQ_CONS), bench.read(GERROR)), expected, "{} {command:x?}", profile.name());
        }
    }
}

#[test]
fn cd_must_stall_as_the_stall_model_has_it() {
    for (profile, flags, id) in [
        (Profile::TerminateOnly, CD_S | CD_A | CD_R, 0x0a),
        (Profile::TerminateOnly, CD_A | CD_R, 0x10),
        (Profile::ForcedStall, CD_A | CD_R, 0x0a),
        (Profile::ForcedStall, CD_S | CD_A | CD_R, 0x10),
    ] {
        let mut bench = Bench::of(profile);
        bench.set_up();
        let enables = bench.read(0) >> 16 & 1;
        bench.enable(0xd | enables << 1);
        bench.attach(0x100, 0, 0, flags);
        bench.write_word(0, 0x5000);
        // C_BAD_CD, or F_TRANSLATION with Stall as the profile forces it (5.5).
        let record = bench.take_event();
        assert_eq!(record[0] & 0xff, id, "{} {flags:#x}", profile.name());
        let stalls = id == 0x10 && profile == Profile::ForcedStall;
        assert_eq!(record[1] >> 31 & 1, u64::from(stalls), "{} {flags:#x}", profile.name());
    }
}

#[test]
fn small_queues_hold_two_entries_whatever_log2size_says() {
    let mut bench = Bench::of(Profile::Small);
    bench.set_up();
    bench.enable(ALL_ON);
    for _ in 0..3 {
        bench.write_word(0, 0x5000);
    }
    assert_eq!(bench.read(EVENTQ_PROD), 1 << 31 | 2, "full at two, and one lost");
    assert_eq!(bench.read64(EVENTQ_BASE) & 0x1f, 4, "reads back as written (6.3.29)");
    let mut bench = Bench::of(Profile::Small);
    bench.set_up();
    bench.enable(ALL_ON);
    for count in 1..=5 {
        let at = COMMANDS + u64::from((count - 1) & 1) * 16;
        bench.poke(at, 0x46);
        bench.write(CMDQ_PROD, count & 3);
        bench.run();
        assert_eq!(bench.read(CMDQ_CONS), count & 3);
    }
}

/// What an SMMU of `profile` does with an access of `stream` through a 2-level table that covers 2^20 StreamIDs.
fn access(profile: Profile, stream: u32) -> Issued {
    let memory = HostMemory::new((END - 0x4000_0000) as usize);
    let mut smmu = Smmu::new();
    smmu.reset(profile);
    // The L1 descriptor of StreamIDs 0x1_0000 to 0x1_00ff: SPAN 9, and a bypass STE (Config = 0b100) for the third.
    memory.write64(PhysAddr(STREAMS + 0x100 * 8), (STREAMS + 0x1_0000) | 9).unwrap();
    memory.write64(PhysAddr(STREAMS + 0x1_0000 + 2 * 64), 0x9).unwrap();
    memory.write64(PhysAddr(STREAMS + 0x1_0000 + 2 * 64 + 8), STE1).unwrap();
    smmu.write(STRTAB_BASE as usize, Width::Double, STREAMS);
    smmu.write(STRTAB_BASE_CFG as usize, Width::Word, 1 << 16 | 8 << 6 | 20);
    smmu.write(CR0 as usize, Width::Word, 1);
    smmu.step(&memory, &mut Raised::default(), &mut [] as &mut [Engine]);
    let transaction = Transaction { stream: StreamId(stream), substream: None, address: DATA, access: Access::READ };
    smmu.access(&transaction, &memory, &mut Raised::default())
}

#[test]
fn stream_ids_reach_as_far_as_sidsize_and_the_table() {
    let through = Issued::Ended(Response::Physical(PhysAddr(DATA)));
    assert_eq!(access(Profile::Big, 0x1_0002), through);
    assert_eq!(access(Profile::Big, 0x1_0003), Issued::Ended(Response::Abort), "an invalid STE");
    assert_eq!(access(Profile::Big, 0x11_0002), Issued::Ended(Response::Abort), "beyond LOG2SIZE");
    // LOG2SIZE counts as SIDSIZE at most (6.3.25).
    assert_eq!(access(Profile::Full, 0x1_0002), Issued::Ended(Response::Abort));
}

/// The answer to the second Last request with PASID 1 in a queue of one entry, without any STE.
fn overflow_answer(profile: Profile) -> (PageResponse, Option<u32>) {
    let memory = HostMemory::new((END - 0x4000_0000) as usize);
    let mut smmu = Smmu::new();
    smmu.reset(profile);
    smmu.write(PRIQ_BASE as usize, Width::Double, PAGE_REQUESTS);
    smmu.write(CR0 as usize, Width::Word, 3);
    smmu.step(&memory, &mut Raised::default(), &mut [] as &mut [Engine]);
    let request = PageRequest {
        stream: StreamId(0x2),
        substream: SubstreamId::new(1),
        access: Access::READ,
        last: true,
        group: PrgIndex::from_low_bits(7),
        address: 0x5000,
    };
    assert_eq!(smmu.page_request(&request, &memory, &mut Raised::default()), None);
    let answer = smmu.page_request(&request, &memory, &mut Raised::default()).unwrap();
    (answer.response, answer.substream.map(SubstreamId::get))
}

#[test]
fn overflow_answer_goes_by_pps_before_the_ste() {
    assert_eq!(overflow_answer(Profile::Big), (PageResponse::Success, Some(1)), "PPS: no STE is needed (8.1)");
    assert_eq!(overflow_answer(Profile::Full), (PageResponse::Failure, None), "PPAR is in the STE (8.1)");
    assert_eq!(overflow_answer(Profile::Small), (PageResponse::Success, None), "no substreams, no PASID (8.1)");
}
