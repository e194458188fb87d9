use std::string::{String, ToString};
use std::vec::Vec;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

use super::*;

/// The trees of `qemu-system-aarch64 -M virt,virtualization=on,gic-version=3,iommu=smmuv3 -m 1G` 7.2 with four cores
/// and with one, without the padding at their ends.
const FOUR_CORES: &[u8] = include_bytes!("../../../tests/data/virt-smp4.dtb");
const ONE_CORE: &[u8] = include_bytes!("../../../tests/data/virt-smp1.dtb");

const HIDDEN: Range<u64> = 0x7fc0_0000..0x8000_0000;

/// The tree with the model, as the EL2 image makes it.
fn spliced(tree: &[u8], hidden: Range<u64>) -> Result<Vec<u8>, TreeError> {
    spliced_with(tree, 4, hidden)
}

fn spliced_with(tree: &[u8], engines: usize, hidden: Range<u64>) -> Result<Vec<u8>, TreeError> {
    spliced_for(tree, Profile::Full, engines, hidden)
}

fn spliced_for(tree: &[u8], profile: Profile, engines: usize, hidden: Range<u64>) -> Result<Vec<u8>, TreeError> {
    let machine = survey(tree)?;
    let clock = machine.cores.get(1..).and_then(|others| others.last());
    let mut out = std::vec![0xa5; 0x1_0000];
    let length = splice(tree, &machine, hidden, clock, profile, engines, &mut out)?;
    out.truncate(length);
    Ok(out)
}

fn property(tree: &Fdt<'_>, path: &str, name: &str) -> Option<Vec<u8>> {
    tree.find_node(path).unwrap_or_else(|| panic!("{path} exists")).property(name).map(|p| p.value().to_vec())
}

fn be(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// Every node's path, in order.
fn paths(tree: &Fdt<'_>) -> Vec<String> {
    fn visit(node: FdtNode<'_>, prefix: &str, paths: &mut Vec<String>) {
        for child in node.children() {
            let path = prefix.to_string() + "/" + child.name();
            paths.push(path.clone());
            visit(child, &path, paths);
        }
    }
    let mut paths = Vec::new();
    visit(tree.root(), "", &mut paths);
    paths
}

#[test]
fn survey_reads_cores_memory_and_the_gic() {
    let machine = survey(FOUR_CORES).unwrap();
    assert_eq!(machine.cores.iter().map(|core| core.mpidr).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(machine.cores.last().unwrap().phandle, Some(0x8001));
    assert_eq!(*machine.memory, *core::slice::from_ref(&(0x4000_0000..0x8000_0000)));
    assert_eq!(machine.distributor, 0x0800_0000);
    assert_eq!(machine.redistributors, 0x080a_0000);
    assert_eq!(machine.its, Some(Its { base: 0x0808_0000, phandle: 0x8006 }));
    assert_eq!(machine.phandle, 0x8009);
}

#[test]
fn smmu_node_is_what_an_smmu_v3_driver_binds_to() {
    let bytes = spliced(FOUR_CORES, HIDDEN).unwrap();
    let tree = Fdt::new(&bytes).unwrap();
    let smmu = |name| property(&tree, "/iommu@b000000", name);
    assert_eq!(smmu("compatible").unwrap(), b"arm,smmu-v3\0");
    assert_eq!(smmu("reg").unwrap(), be(&[0, 0x0b00_0000, 0, 0x2_0000]));
    assert_eq!(smmu("interrupts").unwrap(), be(&[0, 200, 1, 0, 201, 1, 0, 202, 1, 0, 203, 1]));
    assert_eq!(smmu("interrupt-names").unwrap(), b"eventq\0priq\0cmdq-sync\0gerror\0");
    assert_eq!(smmu("dma-coherent").unwrap(), b"");
    assert_eq!(smmu("#iommu-cells").unwrap(), be(&[1]));
    assert_eq!(smmu("phandle").unwrap(), be(&[0x8009]));
    assert_eq!(smmu("msi-parent").unwrap(), be(&[0x8006, 0]));
}

#[test]
fn an_smmu_whose_accesses_are_not_coherent_has_coherent_engines_all_the_same() {
    let bytes = spliced_for(FOUR_CORES, Profile::NonCoherent, 4, HIDDEN).unwrap();
    let tree = Fdt::new(&bytes).unwrap();
    assert_eq!(property(&tree, "/iommu@b000000", "dma-coherent"), None);
    assert_eq!(property(&tree, "/dma@b100000", "dma-coherent").unwrap(), b"");
}

#[test]
fn where_the_smmu_has_one_wire_it_is_called_combined() {
    let bytes = spliced_for(FOUR_CORES, Profile::Small, 4, HIDDEN).unwrap();
    let smmu = |name| property(&Fdt::new(&bytes).unwrap(), "/iommu@b000000", name).unwrap();
    assert_eq!((smmu("interrupts"), smmu("interrupt-names")), (be(&[0, 200, 1]), b"combined\0".to_vec()));
}

#[test]
fn where_there_is_no_its_the_smmu_has_nobody_to_send_messages_to() {
    // Of an unknown kind, or without a DeviceID with its messages.
    for (name, other) in [(&b"arm,gic-v3-its\0"[..], &b"arm,gic-v3-ixx\0"[..]), (b"#msi-cells\0", b"#msi-xxxxx\0")] {
        let mut bytes = FOUR_CORES.to_vec();
        let places: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(name)).collect();
        let [at] = places[..] else { panic!("{places:x?}") };
        bytes[at..at + other.len()].copy_from_slice(other);
        assert_eq!(survey(&bytes).unwrap().its, None);
        let bytes = spliced(&bytes, HIDDEN).unwrap();
        assert_eq!(property(&Fdt::new(&bytes).unwrap(), "/iommu@b000000", "msi-parent"), None);
    }
}

#[test]
fn engine_nodes_name_their_stream_and_how_they_fault() {
    let bytes = spliced(FOUR_CORES, HIDDEN).unwrap();
    let tree = Fdt::new(&bytes).unwrap();
    for (path, base, spi, stream) in [
        ("/dma@b100000", 0x0b10_0000, 208, 0x100),
        ("/dma@b110000", 0x0b11_0000, 209, 0x101),
        ("/dma@b120000", 0x0b12_0000, 210, 0x102),
        ("/dma@b130000", 0x0b13_0000, 211, 0x103),
    ] {
        assert_eq!(property(&tree, path, "compatible").unwrap(), b"smmu-iopf,dma-engine\0");
        assert_eq!(property(&tree, path, "reg").unwrap(), be(&[0, base, 0, 0x1000]));
        assert_eq!(property(&tree, path, "interrupts").unwrap(), be(&[0, spi, 1]));
        assert_eq!(property(&tree, path, "iommus").unwrap(), be(&[0x8009, stream]));
    }
    assert_eq!(property(&tree, "/dma@b110000", "dma-can-stall").unwrap(), b"");
    assert_eq!(property(&tree, "/dma@b110000", "pasid-num-bits"), None);
    assert_eq!(property(&tree, "/dma@b120000", "dma-can-stall"), None);
    assert_eq!(property(&tree, "/dma@b120000", "pasid-num-bits").unwrap(), be(&[8]));
}

#[test]
fn engines_have_pasids_as_wide_as_the_smmu_has_substreams() {
    let bytes = spliced_for(FOUR_CORES, Profile::Big, 4, HIDDEN).unwrap();
    let tree = Fdt::new(&bytes).unwrap();
    assert_eq!(property(&tree, "/dma@b120000", "pasid-num-bits").unwrap(), be(&[20]));
}

#[test]
fn control_page_has_a_node() {
    let bytes = spliced(FOUR_CORES, HIDDEN).unwrap();
    let tree = Fdt::new(&bytes).unwrap();
    assert_eq!(property(&tree, "/control@b080000", "compatible").unwrap(), b"smmu-iopf,model-control\0");
    assert_eq!(property(&tree, "/control@b080000", "reg").unwrap(), be(&[0, 0x0b08_0000, 0, 0x1000]));
}

#[test]
fn sixty_four_engines_have_interrupts_of_their_own() {
    let bytes = spliced_with(FOUR_CORES, 64, HIDDEN).unwrap();
    let tree = Fdt::new(&bytes).unwrap();
    for (path, spi, stream, stalls) in [
        ("/dma@b130000", 211, 0x103, false),
        ("/dma@b140000", 212, 0x104, true),
        ("/dma@b1f0000", 223, 0x10f, false),
        ("/dma@b200000", 152, 0x110, true),
        ("/dma@b4f0000", 199, 0x13f, false),
    ] {
        assert_eq!(property(&tree, path, "interrupts").unwrap(), be(&[0, spi, 1]));
        assert_eq!(property(&tree, path, "iommus").unwrap(), be(&[0x8009, stream]));
        assert_eq!(property(&tree, path, "dma-can-stall").is_some(), stalls);
        assert_eq!(property(&tree, path, "pasid-num-bits").is_some(), !stalls);
    }
    let one = spliced_with(FOUR_CORES, 1, HIDDEN).unwrap();
    let engines = paths(&Fdt::new(&one).unwrap()).into_iter().filter(|path| path.starts_with("/dma@"));
    assert_eq!(engines.collect::<Vec<_>>(), ["/dma@b100000"]);
}

#[test]
fn number_of_engines_is_one_to_sixty_four() {
    let parsed = ["1", "4", "64", "0", "65", "-1", "four", "", "4 "].map(board::parse_engines);
    assert_eq!(parsed, [Some(1), Some(4), Some(64), None, None, None, None, None, None]);
}

#[test]
fn clock_core_disappears_and_nothing_else() {
    let before = paths(&Fdt::new(FOUR_CORES).unwrap());
    let bytes = spliced(FOUR_CORES, HIDDEN).unwrap();
    let after = paths(&Fdt::new(&bytes).unwrap());
    let gone: Vec<_> = before.iter().filter(|path| !after.contains(path)).collect();
    assert_eq!(gone, ["/cpus/cpu-map/socket0/cluster0/core3", "/cpus/cpu@3"]);
    let new: Vec<_> = after.iter().filter(|path| !before.contains(path)).collect();
    assert_eq!(
        new,
        ["/iommu@b000000", "/control@b080000", "/dma@b100000", "/dma@b110000", "/dma@b120000", "/dma@b130000"]
    );
}

#[test]
fn properties_of_other_nodes_stay() {
    let bytes = spliced(FOUR_CORES, HIDDEN).unwrap();
    let (before, after) = (Fdt::new(FOUR_CORES).unwrap(), Fdt::new(&bytes).unwrap());
    for path in paths(&before).iter().filter(|path| !path.ends_with("core3") && !path.ends_with("cpu@3")) {
        let (old, new) = (before.find_node(path).unwrap(), after.find_node(path).unwrap());
        for (old, new) in old.properties().zip(new.properties()) {
            assert_eq!(old.name(), new.name());
            assert!(old.value() == new.value() || path == "/memory@40000000", "{path} {}", old.name());
        }
        assert_eq!(old.properties().count(), new.properties().count());
    }
}

#[test]
fn only_core_stays() {
    let bytes = spliced(ONE_CORE, HIDDEN).unwrap();
    assert!(Fdt::new(&bytes).unwrap().find_node("/cpus/cpu@0").is_some());
}

#[test]
fn hidden_memory_is_cut_from_the_end_and_from_the_middle() {
    let memory = |hidden| {
        let bytes = spliced(FOUR_CORES, hidden).unwrap();
        property(&Fdt::new(&bytes).unwrap(), "/memory@40000000", "reg").unwrap()
    };
    assert_eq!(memory(HIDDEN), be(&[0, 0x4000_0000, 0, 0x3fc0_0000]));
    assert_eq!(memory(0x5000_0000..0x5010_0000), be(&[0, 0x4000_0000, 0, 0x1000_0000, 0, 0x5010_0000, 0, 0x2ff0_0000]));
}

#[test]
fn hidden_range_outside_memory_is_an_error() {
    let error = spliced(FOUR_CORES, 0x7fc0_0000..0x8000_1000).unwrap_err();
    assert_eq!(error, TreeError::NotMemory { start: 0x7fc0_0000, end: 0x8000_1000 });
}

#[test]
fn spliced_tree_is_refused_since_the_model_is_there_already() {
    let bytes = spliced(FOUR_CORES, HIDDEN).unwrap();
    assert_eq!(survey(&bytes).unwrap_err(), TreeError::Overlap(0x0b00_0000));
}

#[test]
fn every_short_buffer_is_an_error() {
    let machine = survey(ONE_CORE).unwrap();
    let length = spliced(ONE_CORE, HIDDEN).unwrap().len();
    for capacity in (0..length).step_by(7) {
        let error =
            splice(ONE_CORE, &machine, HIDDEN, None, Profile::Full, 4, &mut std::vec![0; capacity]).unwrap_err();
        assert_eq!(error, TreeError::Full { capacity });
    }
}

#[test]
fn every_truncated_tree_is_an_error() {
    for length in (0..FOUR_CORES.len()).step_by(5) {
        assert!(spliced(&FOUR_CORES[..length], HIDDEN).is_err(), "{length} bytes");
    }
}

/// A tree of these words as its structure block, and "a" as its only property name.
fn tree_of(structure: &[u32]) -> Vec<u8> {
    let strings = 56 + 4 * structure.len() as u32;
    let header = [0xd00d_feed, strings + 2, 56, strings, 40, 17, 16, 0, 2, 4 * structure.len() as u32];
    let mut tree = be(&header);
    tree.extend([0; 16]);
    tree.extend(be(structure));
    tree.extend(b"a\0");
    tree
}

#[test]
fn misplaced_tokens_are_errors_that_name_them() {
    let (begin, end, property, stop) = (1, 2, 3, 9);
    let child = u32::from_be_bytes(*b"b\0\0\0");
    let at = |offset, token| TreeError::Token { offset, token };
    for (structure, expected) in [
        (&[begin, 0, end, stop][..], TreeError::Property { node: "the root", property: "#address-cells" }),
        (&[4, 4, begin, 0, end, stop], TreeError::Property { node: "the root", property: "#address-cells" }),
        (&[stop], at(0, stop)),
        (&[end, stop], at(0, end)),
        (&[property, 0, 0, stop], at(0, property)),
        (&[begin, child, end, stop], TreeError::Name { offset: 0 }),
        (&[begin, 0, property, 0, 7, end, stop], TreeError::Name { offset: 8 }),
        (&[begin, 0, property, 9, 0, end, stop], TreeError::Truncated { block: "structure", end: 32 }),
        (&[begin, 0, 5, end, stop], at(8, 5)),
    ] {
        assert_eq!(survey(&tree_of(structure)).unwrap_err(), expected, "{structure:x?}");
    }
    // The same behind the root's start, where the survey has nothing else to say.
    for (structure, expected) in [
        (&[begin, 0, begin, child, end, property, 0, 0, end, stop][..], at(20, property)),
        (&[begin, 0, end, begin, 0, end, stop], at(12, begin)),
        (&[begin, 0, begin, child, stop], at(16, stop)),
        (&[begin, 0, end], TreeError::Truncated { block: "structure", end: 16 }),
    ] {
        let tree = tree_of(structure);
        let mut walk = Blocks::parse(&tree).unwrap().walk();
        let error = loop {
            match walk.next() {
                Ok(token) => assert!(token.is_some(), "{structure:x?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error, expected, "{structure:x?}");
    }
}

#[test]
fn ten_thousand_mutated_trees_give_an_error_or_a_tree() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    const WORDS: [u32; 10] = [0, 1, 2, 3, 4, 9, 0x7fff_ffff, 0x8000_0000, 0xffff_fffc, 0xffff_ffff];
    let (mut good, mut bad) = (0, 0);
    for _ in 0..10_000 {
        let mut tree = FOUR_CORES.to_vec();
        for _ in 0..=random(4) {
            // Half of them hit the header and the nodes that count, which are few among many.
            let at = if random(2) == 0 { random(0x200) } else { random(tree.len()) };
            match random(3) {
                0 => tree[at] ^= 1 << random(8),
                1 => tree[at] = random(256) as u8,
                _ => tree[at & !3..][..4].copy_from_slice(&WORDS[random(WORDS.len())].to_be_bytes()),
            }
        }
        match spliced(&tree, HIDDEN) {
            Ok(bytes) => {
                let tree = Fdt::new(&bytes).unwrap_or_else(|error| panic!("{error}"));
                assert!(tree.find_node("/iommu@b000000").is_some());
                good += 1;
            }
            Err(_) => bad += 1,
        }
    }
    // Both outcomes are really tested.
    assert!(good > 1000 && bad > 1000, "{good} good, {bad} bad");
}
