//! Walks by features that the model's own ID registers do not offer, and what a walk's result tells a TLB.

use alloc::boxed::Box;

use super::*;
use crate::model::host::HostMemory;
use crate::smmuv3::AddressSize;
use crate::smmuv3::features::{TableEndianness, test_features};
use crate::smmuv3::ste::{Ste, StreamConfig};

const TABLES: u64 = 0x4001_0000;
/// T0SZ 22, TG0 1 (64 KiB), EPD1, V, IPS 6 (52 bits), AA64, A; 42 bits begin at level 2 (5.4).
const CD0: u64 = 0x0000_4206_c000_0056;
/// Page, AP 1, SH 3, AF, nG.
const PAGE: u64 = 0xf43;

/// 52 bits of physical address, mixed endianness, 16-bit ASIDs, HAD.
fn features() -> Features {
    Features {
        oas: AddressSize::Bits52,
        table_endianness: TableEndianness::Mixed,
        hierarchy_disable: true,
        ..test_features()
    }
}

fn memory() -> HostMemory {
    HostMemory::new(0x10_0000)
}

fn cd(features: &Features, word0: u64, table: u64) -> ContextDescriptor {
    // A stage 1 STE with one CD.
    let ste = Ste::decode([0xb, 0, 0, 0, 0, 0, 0, 0], features).unwrap();
    ContextDescriptor::decode([word0, table, 0, 0, 0, 0, 0, 0], features, ste.stage1().unwrap()).unwrap()
}

fn walker<'a, M>(
    features: &'a Features,
    caches: &'a mut Caches<Translation, Table>,
    memory: &'a M,
    purpose: Purpose,
) -> Walker<'a, M> {
    // Nothing fails on request.
    let injection = Box::leak(Box::new(Injection::new()));
    Walker { features, caches, injection, memory, vmid: Vmid(0), stage2: None, purpose }
}

fn stage1(features: &Features, memory: &HostMemory, cd: &ContextDescriptor, address: u64) -> Result<Mapping, Fault> {
    let mut caches = Caches::new();
    walker(features, &mut caches, memory, Purpose::Access).stage1(cd, StreamWorld::El1, address, Some(Access::READ))
}

#[test]
fn large_pages_have_52_bits_out() {
    let (features, memory) = (features(), memory());
    let cd = cd(&features, CD0, TABLES);
    memory.write64(PhysAddr(TABLES), (TABLES + 0x1_0000) | 3).unwrap();
    // Bits 15:12 are bits 51:48 of the address.
    memory.write64(PhysAddr(TABLES + 0x1_0000 + 5 * 8), 0x1234_5678_0000 | 0xa << 12 | PAGE).unwrap();
    let mapping = stage1(&features, &memory, &cd, 0x5_1234).unwrap();
    assert_eq!((mapping.output, mapping.shift), (0xa_1234_5678_0000, 16));
    assert_eq!((mapping.level, mapping.global, mapping.clean), (3, false, false));
    assert_eq!(mapping.translate(0x5_1234), 0xa_1234_5678_1234);
    // With 48 bits of physical address those bits mean nothing.
    let narrow = Features { oas: AddressSize::Bits48, ..features };
    assert_eq!(stage1(&narrow, &memory, &cd, 0x5_1234).unwrap().output, 0x1234_5678_0000);
    // IPS 5, 48 bits: an address size fault.
    let cd = super::tests::cd(&features, CD0 & !(7 << 32) | 5 << 32, TABLES);
    assert_eq!(stage1(&features, &memory, &cd, 0x5_1234), Err(Fault::stage1(FaultKind::AddressSize)));
}

#[test]
fn blocks_of_4_tib_come_with_52_bits() {
    let (features, memory) = (features(), memory());
    // T0SZ 16: level 1 of 2^42 first.
    let cd = cd(&features, CD0 & !0x3f | 16, TABLES);
    memory.write64(PhysAddr(TABLES + 3 * 8), 0x0800_0000_0000 | 0x1000 | PAGE & !2).unwrap();
    let mapping = stage1(&features, &memory, &cd, 0x0c00_0000_1234).unwrap();
    assert_eq!((mapping.output, mapping.shift, mapping.level), (0x1_0800_0000_0000, 42, 1));
    let narrow = Features { oas: AddressSize::Bits48, ..features };
    assert_eq!(stage1(&narrow, &memory, &cd, 0x0c00_0000_1234), Err(Fault::stage1(FaultKind::Translation)));
}

#[test]
fn big_endian_tables_are_read_and_updated_as_such() {
    let (features, memory) = (features(), memory());
    // ENDI, HA.
    let cd = cd(&features, CD0 | 1 << 15 | 1 << 43, TABLES);
    memory.write64(PhysAddr(TABLES), ((TABLES + 0x1_0000) | 3).swap_bytes()).unwrap();
    memory.write64(PhysAddr(TABLES + 0x1_0000), (0x4008_0000 | PAGE & !0x400_u64).swap_bytes()).unwrap();
    assert_eq!(stage1(&features, &memory, &cd, 0x1234).unwrap().output, 0x4008_0000);
    assert_eq!(memory.read64(PhysAddr(TABLES + 0x1_0000)).unwrap().swap_bytes(), 0x4008_0000 | PAGE);
}

#[test]
fn mapping_stays_clean_until_a_write_walks() {
    let (features, memory) = (features(), memory());
    // HA, HD.
    let cd = cd(&features, CD0 | 3 << 42, TABLES);
    memory.write64(PhysAddr(TABLES), (TABLES + 0x1_0000) | 3).unwrap();
    // AP[2] and DBM.
    let clean = 0x4008_0000 | PAGE | 1 << 7 | 1 << 51;
    memory.write64(PhysAddr(TABLES + 0x1_0000), clean).unwrap();
    let mut caches = Caches::new();
    let read = walker(&features, &mut caches, &memory, Purpose::Access)
        .stage1(&cd, StreamWorld::El1, 0, Some(Access::READ))
        .unwrap();
    assert!(read.clean && read.permissions.unprivileged.write);
    // A look alone changes nothing.
    let look = walker(&features, &mut caches, &memory, Purpose::Look)
        .stage1(&cd, StreamWorld::El1, 0, Some(Access::WRITE))
        .unwrap();
    assert!(look.clean);
    assert_eq!(memory.read64(PhysAddr(TABLES + 0x1_0000)).unwrap(), clean);
    let mut walker = walker(&features, &mut caches, &memory, Purpose::Access);
    assert!(!walker.stage1(&cd, StreamWorld::El1, 0, Some(Access::WRITE)).unwrap().clean);
    assert_eq!(memory.read64(PhysAddr(TABLES + 0x1_0000)).unwrap(), clean & !(1 << 7));
}

/// Memory in which every look at a word changes it in a bit that only software uses, as if a core were always faster.
struct Restless(HostMemory);

impl Memory for Restless {
    fn read64(&self, address: PhysAddr) -> Result<u64, crate::model::memory::Abort> {
        let word = self.0.read64(address)?;
        self.0.write64(address, word ^ 1 << 55)?;
        Ok(word)
    }

    fn write64(&self, address: PhysAddr, value: u64) -> Result<(), crate::model::memory::Abort> {
        self.0.write64(address, value)
    }

    fn write32(&self, address: PhysAddr, value: u32) -> Result<(), crate::model::memory::Abort> {
        self.0.write32(address, value)
    }

    fn compare_exchange64(
        &self,
        address: PhysAddr,
        expected: u64,
        new: u64,
    ) -> Result<u64, crate::model::memory::Abort> {
        self.0.compare_exchange64(address, expected, new)
    }

    fn read(&self, address: PhysAddr, bytes: &mut [u8]) -> Result<(), crate::model::memory::Abort> {
        self.0.read(address, bytes)
    }

    fn write(&self, address: PhysAddr, bytes: &[u8]) -> Result<(), crate::model::memory::Abort> {
        self.0.write(address, bytes)
    }
}

#[test]
fn descriptor_that_never_holds_still_ends_the_walk() {
    let features = features();
    let memory = Restless(memory());
    let cd = cd(&features, CD0 | 1 << 43, TABLES);
    memory.write64(PhysAddr(TABLES), (TABLES + 0x1_0000) | 3).unwrap();
    memory.write64(PhysAddr(TABLES + 0x1_0000), 0x4008_0000 | PAGE & !0x400).unwrap();
    let mut caches = Caches::new();
    let mut walker = walker(&features, &mut caches, &memory, Purpose::Access);
    let fault = walker.stage1(&cd, StreamWorld::El1, 0, Some(Access::READ)).unwrap_err();
    assert_eq!(fault.cause, Cause::Walk(PhysAddr(TABLES + 0x1_0000)));
}

#[test]
fn every_stage2_word_is_walked_within_bounds() {
    // Nothing that can be set up makes a walk read outside its tables or overflow.
    let (features, memory) = (features(), memory());
    let mut caches = Caches::new();
    let mut words = 0;
    for t0sz in 12..=39_u64 {
        for sl0 in 0..4_u64 {
            for granule in 0..3_u64 {
                let third = t0sz << 32 | sl0 << 38 | granule << 46 | 6 << 48 | 1 << 51;
                let Ok(ste) = Ste::decode([0xd, 0, third, TABLES, 0, 0, 0, 0], &features) else { continue };
                let StreamConfig::Stage2(stage2) = ste.config else { panic!() };
                let mut walker = walker(&features, &mut caches, &memory, Purpose::Access);
                for ipa in [0, (1 << (64 - t0sz)) - 1, u64::MAX] {
                    assert!(walker.stage2(&stage2, ipa, FaultClass::Input, Some(Access::READ)).is_err());
                }
                words += 1;
            }
        }
    }
    assert!(words > 50, "{words}");
}

/// S2T0SZ 22, S2SL0 1 and S2TG 1 (64 KiB, from level 2), S2PS 6 (52 bits), S2AA64, with more of word 2 (5.2): where IPA
/// 0x5_1234 leads, if `access` is permitted, and whether the leaf is kept.
fn at_stage2(
    features: &Features,
    memory: &HostMemory,
    more: u64,
    purpose: Purpose,
    access: Access,
) -> (Option<u64>, bool) {
    let third = 22 << 32 | 1 << 38 | 1 << 46 | 6 << 48 | 1 << 51 | more;
    let ste = Ste::decode([0xd, 0, third, TABLES, 0, 0, 0, 0], features).unwrap();
    let StreamConfig::Stage2(stage2) = ste.config else { panic!() };
    let mut caches = Caches::new();
    let mut walker = walker(features, &mut caches, memory, purpose);
    let mapping = walker.stage2(&stage2, 0x5_1234, FaultClass::Input, Some(access));
    let kept = caches.tlb.look_up(Space::Stage2 { vmid: Vmid(0) }, 0x5_1234).unwrap().is_some();
    (mapping.ok().map(|mapping| mapping.output), kept)
}

#[test]
fn stage2_tables_may_be_big_endian_and_have_52_bits_out() {
    // S2ENDI is w2[52], S2HA w2[56].
    const BIG: u64 = 1 << 52 | 1 << 56;
    let (features, memory) = (features(), memory());
    let page = PhysAddr(TABLES + 0x1_0000 + 5 * 8);
    // Page, Normal memory, S2AP 3, SH 3; AF is bit 10. Bits 15:12 are bits 51:48 of the address.
    let word = 0x1234_5678_0000 | 0xa << 12 | 0x3ff_u64;
    memory.write64(PhysAddr(TABLES), ((TABLES + 0x1_0000) | 3).swap_bytes()).unwrap();
    memory.write64(page, word.swap_bytes()).unwrap();
    // A look alone changes nothing.
    assert_eq!(at_stage2(&features, &memory, BIG, Purpose::Look, Access::READ).0, Some(0xa_1234_5678_0000));
    assert_eq!(memory.read64(page).unwrap().swap_bytes(), word);
    assert_eq!(at_stage2(&features, &memory, BIG, Purpose::Access, Access::READ), (Some(0xa_1234_5678_0000), true));
    assert_eq!(memory.read64(page).unwrap().swap_bytes(), word | 1 << 10);
    // With 48 bits of physical address those bits mean nothing.
    let narrow = Features { oas: AddressSize::Bits48, ..features };
    assert_eq!(at_stage2(&narrow, &memory, BIG, Purpose::Access, Access::READ).0, Some(0x1234_5678_0000));
}

#[test]
fn what_is_denied_while_its_access_flag_is_0_is_not_for_caching() {
    // Arm DDI 0487, D8.17: a descriptor that gives an Access flag fault is not cached, nor is one that would but for HA.
    let (features, memory) = (features(), memory());
    let cd = cd(&features, CD0 | 1 << 43, TABLES);
    memory.write64(PhysAddr(TABLES), (TABLES + 0x1_0000) | 3).unwrap();
    for (flag, kept) in [(0, false), (1 << 10, true)] {
        // AP[2]: read only.
        memory.write64(PhysAddr(TABLES + 0x1_0000 + 5 * 8), 0x4008_0000 | 0xbc3 | flag).unwrap();
        let mut caches = Caches::new();
        let mut walker = walker(&features, &mut caches, &memory, Purpose::Access);
        let mapping = walker.stage1(&cd, StreamWorld::El1, 0x5_1234, Some(Access::WRITE)).unwrap();
        assert_eq!(mapping.fleeting, !kept);
        // S2AP 1: read only; S2HA.
        memory.write64(PhysAddr(TABLES + 0x1_0000 + 5 * 8), 0x4008_0000 | 0x37f | flag).unwrap();
        assert_eq!(at_stage2(&features, &memory, 1 << 56, Purpose::Access, Access::WRITE), (None, kept));
    }
}
