//! Profiles: 6.3.1 to 6.3.8, and what follows from the ID registers.

use super::bench::*;
use super::direct::{Direct, READ, S2HA, S2HD, STE2};
use crate::model::endpoint::{Response, Transaction};
use crate::model::engine::Engine;
use crate::model::engine::registers as reg;
use crate::model::host::HostMemory;
use crate::model::machine::Width;
use crate::model::memory::Memory;
use crate::model::profile::Profile;
use crate::model::smmu::{Issued, Smmu};
use crate::smmuv3::features::IdRegisters;
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
        // Neither COHACC nor HTTU.
        ("non-coherent", [0x084d_760b, idr1, idr3, idr5]),
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
    assert_eq!(Profile::ALL.len(), 11);
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
fn commands_of_features_that_the_id_registers_lack_are_illegal() {
    // The commands of IDR0.HYP (4.4.2), S2P (4.4.3), ATS, PRI and stalls. QEMU's SMMU has none of these but, later, S2P.
    let el2 = [0x20, 0x21, 0x22, 0x23];
    let stage2 = [0x28, 0x2a];
    let rest = [0x40, 0x41, 0x44, 0x45];
    for (profile, cr0, legal, illegal) in [
        (Profile::Full, ALL_ON, [&el2[..], &stage2].concat(), [].into()),
        (Profile::Qemu10, 0xd, stage2.into(), [&el2[..], &rest].concat()),
        (Profile::Qemu7, 0xd, [].into(), [&el2[..], &stage2, &rest].concat()),
    ] {
        // No profile has MPAM or a DPT.
        let illegal = [&illegal[..], &[0x07, 0x70, 0x73]].concat();
        for (opcodes, expected) in [(legal, (1, 0)), (illegal, (1 << 24, 1))] {
            for opcode in opcodes {
                let mut direct = Direct::of(profile, 0);
                direct.enable(cr0);
                direct.command([opcode, 0]);
                let ended = (direct.read(CMDQ_CONS), direct.read(GERROR));
                assert_eq!(ended, expected, "{} {opcode:#x}", profile.name());
            }
        }
    }
}

#[test]
fn hardware_update_of_flags_is_illegal_as_far_as_idr0_lacks_it() {
    // CD.HA and CD.HD (5.4), STE.S2HA and S2HD (5.2) with IDR0.HTTU = 0b00, 0b01, 0b10.
    const HA: u64 = 1 << 43;
    const HD: u64 = 1 << 42;
    let full = Profile::Full.id_registers();
    for httu in 0..=2 {
        let ids = IdRegisters { idr0: full.idr0 & !(3 << 6) | httu << 6, ..full };
        for (ha, hd, legal) in [(0, 0, true), (HA, 0, httu >= 1), (0, HD, httu == 2), (HA, HD, httu == 2)] {
            let mut direct = Direct::with_ids(ids);
            direct.stage1(0, CD_R | CD_A | ha | hd);
            direct.map(0x5000, DATA, PAGE_RW);
            if legal {
                assert_eq!(direct.reaches(0x5000, READ), DATA, "HTTU {httu}");
            } else {
                assert_eq!(direct.fault(0x5000, READ), [0x100_0000_000a, 0, 0, 0], "HTTU {httu}");
            }
        }
        for (flags, legal) in [(0, true), (S2HA, httu >= 1), (S2HD, httu == 2), (S2HA | S2HD, httu == 2)] {
            let mut direct = Direct::with_ids(ids);
            // Config = 0b110.
            direct.set_ste(0xd, STE1, STE2 | flags);
            if legal {
                assert_eq!(direct.reaches(DATA, READ), DATA, "HTTU {httu}");
            } else {
                assert_eq!(direct.fault(DATA, READ), [0x100_0000_0004, 0, 0, 0], "HTTU {httu}");
            }
        }
    }
}

#[test]
fn vmid_of_more_than_8_bits_is_illegal_without_vmid16_where_it_counts() {
    // 5.2, S2VMID, of 8 and of 9 bits.
    let full = Profile::Full.id_registers();
    let mut direct = Direct::with_ids(IdRegisters { idr0: full.idr0 & !(1 << 18), ..full });
    direct.stage1(0, CD_R | CD_A);
    direct.map(0x5000, DATA, PAGE_RW);
    let stage1 = STE0_STAGE1 | CDS;
    // Stage 1 of EL1 and of EL2 (STRW = 0b10), stage 2 (Config = 0b110), and bypass (0b100).
    for (word0, word1, word2, address, counts) in [
        (stage1, STE1, 0, 0x5000, true),
        (stage1, STE1 | 2 << 30, 0, 0x5000, false),
        (0xd, STE1, STE2 & !0xffff, DATA, true),
        (0x9, STE1, 0, DATA, false),
    ] {
        direct.set_ste(word0, word1, word2 | 0xff);
        direct.invalidate();
        assert_eq!(direct.reaches(address, READ), DATA, "{word0:#x}");
        direct.set_ste(word0, word1, word2 | 0x100);
        direct.invalidate();
        if counts {
            assert_eq!(direct.fault(address, READ), [0x100_0000_0004, 0, 0, 0], "{word0:#x}");
        } else {
            assert_eq!(direct.reaches(address, READ), DATA, "{word0:#x}");
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

/// The answer to the second Last request with PASID 1 in a queue of one entry, where the STE has the words `ste`.
fn overflow_answer(profile: Profile, ste: [u64; 2]) -> (PageResponse, Option<u32>) {
    let memory = HostMemory::new((END - 0x4000_0000) as usize);
    let mut smmu = Smmu::new();
    smmu.reset(profile);
    memory.write64(PhysAddr(STREAMS + 2 * 64), ste[0]).unwrap();
    memory.write64(PhysAddr(STREAMS + 2 * 64 + 8), ste[1]).unwrap();
    smmu.write(STRTAB_BASE as usize, Width::Double, STREAMS);
    smmu.write(STRTAB_BASE_CFG as usize, Width::Word, 2);
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
    let with_pasid = (PageResponse::Success, Some(1));
    let without = (PageResponse::Success, None);
    // No STE, one without PPAR, and one with it (8.1).
    for (ste, pps, ppar) in [
        ([0, 0], with_pasid, (PageResponse::Failure, None)),
        ([1, 0], with_pasid, without),
        ([1, PPAR], with_pasid, with_pasid),
    ] {
        assert_eq!(overflow_answer(Profile::Big, ste), pps, "PPS: {ste:x?}");
        assert_eq!(overflow_answer(Profile::Full, ste), ppar, "PPAR: {ste:x?}");
        assert_eq!(overflow_answer(Profile::Small, ste), without, "no substreams, no PASID: {ste:x?}");
    }
}
