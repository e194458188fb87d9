//! The board that QEMU's device tree describes, with and without the model's nodes, and what broken trees come to.

use core::ops::Range;
use core::slice::from_ref;

use smmu_iopf::model::device_tree::{splice, survey};
use smmu_iopf::model::profile::Profile;
use smmu_iopf::platform::board::{
    Board, Interrupt, Its, Messages, Mpidr, PcieSpace, PcieWindow, Phandle, PsciMethod, StreamMap, Trigger, Wires,
};
use smmu_iopf::platform::device_tree::BoardError;
use smmu_iopf::smmuv3::StreamId;

/// The trees of `qemu-system-aarch64 -M virt,virtualization=on,gic-version=3,iommu=smmuv3 -m 1G` 7.2.
const FOUR_CORES: &[u8] = include_bytes!("data/virt-smp4.dtb");
const ONE_CORE: &[u8] = include_bytes!("data/virt-smp1.dtb");

/// `tree` as the model's image hands it on.
fn spliced(tree: &[u8]) -> Vec<u8> {
    let machine = survey(tree).unwrap();
    let clock = machine.cores.get(1..).and_then(|others| others.last());
    let mut out = vec![0; 0x1_0000];
    let length = splice(tree, &machine, 0x7fc0_0000..0x8000_0000, clock, Profile::Full, 4, &mut out).unwrap();
    out.truncate(length);
    out
}

fn edge(intid: u32) -> Interrupt {
    Interrupt { intid, trigger: Trigger::Edge }
}

/// The wires of the event queue, the PRI queue, CMD_SYNC and global errors.
fn separate([event_queue, pri_queue, command_sync, global_error]: [Interrupt; 4]) -> Wires {
    Wires::Separate { event_queue, pri_queue: Some(pri_queue), command_sync: Some(command_sync), global_error }
}

/// `tree` with the only occurrence of `old` overwritten.
fn with(tree: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let places: Vec<_> = (0..tree.len()).filter(|at| tree[*at..].starts_with(old)).collect();
    let [at] = places[..] else { panic!("{old:x?} is at {places:x?}") };
    let mut tree = tree.to_vec();
    tree[at..at + new.len()].copy_from_slice(new);
    tree
}

fn be(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn message(tree: &[u8]) -> String {
    Board::parse(tree).unwrap_err().to_string()
}

#[test]
fn qemus_tree_gives_the_board() {
    let board = Board::parse(FOUR_CORES).unwrap();
    assert_eq!(*board.memory, *from_ref(&(0x4000_0000..0x8000_0000)));
    assert!(board.reserved.is_empty());
    assert_eq!(board.cores, [0, 1, 2, 3].map(Mpidr));
    assert_eq!(board.psci, PsciMethod::Smc);
    assert_eq!(board.gic.distributor, 0x0800_0000..0x0801_0000);
    assert_eq!(*board.gic.redistributors, *from_ref(&(0x080a_0000..0x0900_0000)));
    assert_eq!(board.gic.its, Some(Its { phandle: Phandle(0x8006), window: 0x0808_0000..0x080a_0000 }));
    assert_eq!(board.control, None);
    assert_eq!(board.timer, Interrupt { intid: 27, trigger: Trigger::Level });
    assert_eq!(board.uart, 0x0900_0000..0x0900_1000);
    assert!(board.engines.is_empty());

    let [smmu] = &board.smmus[..] else { panic!("one SMMU") };
    assert_eq!(smmu.window, 0x0905_0000..0x0907_0000);
    assert_eq!(smmu.phandle, Phandle(0x8007));
    assert_eq!(smmu.wires, Some(separate([106, 107, 108, 109].map(edge))));
    assert_eq!(smmu.messages, None);
    assert!(smmu.coherent);
}

#[test]
fn qemus_tree_gives_the_pcie_host_bridge() {
    let pcie = Board::parse(FOUR_CORES).unwrap().pcie.unwrap();
    assert_eq!(pcie.ecam, 0x40_1000_0000..0x40_2000_0000);
    assert_eq!((pcie.first_bus, pcie.last_bus), (0, 255));
    let window = |space, pci, cpu: Range<u64>| PcieWindow { space, pci, cpu };
    assert_eq!(
        pcie.windows,
        [
            window(PcieSpace::Io, 0, 0x3eff_0000..0x3f00_0000),
            window(PcieSpace::Memory32, 0x1000_0000, 0x1000_0000..0x3eff_0000),
            window(PcieSpace::Memory64, 0x80_0000_0000, 0x80_0000_0000..0x100_0000_0000),
        ]
    );
    let all = StreamMap { first_requester: 0, length: 0x1_0000, smmu: Phandle(0x8007), first_stream: StreamId(0) };
    assert_eq!(pcie.streams, [all]);
    assert_eq!(pcie.stream(0x0008), Some((Phandle(0x8007), StreamId(8))));
    // In one window of memory as a whole; a window of I/O is none.
    assert_eq!(pcie.cpu_address(0x1000_4000, 0x1000), Some(0x1000_4000));
    assert_eq!(pcie.cpu_address(0x3efe_f000, 0x1000), Some(0x3efe_f000));
    assert_eq!(pcie.cpu_address(0x3efe_f001, 0x1000), None);
    assert_eq!(pcie.cpu_address(u64::MAX, 2), None);
    assert_eq!(pcie.cpu_address(0x1000, 4), None);
}

#[test]
fn the_models_nodes_are_found_and_its_share_is_gone() {
    let board = Board::parse(&spliced(FOUR_CORES)).unwrap();
    assert_eq!(*board.memory, *from_ref(&(0x4000_0000..0x7fc0_0000)));
    assert_eq!(board.cores, [0, 1, 2].map(Mpidr));
    assert_eq!(board.smmus.iter().map(|smmu| smmu.window.start).collect::<Vec<_>>(), [0x0905_0000, 0x0b00_0000]);
    let smmu = board.smmu(Phandle(0x8009)).unwrap();
    assert_eq!(smmu.window, 0x0b00_0000..0x0b02_0000);
    assert_eq!(smmu.wires, Some(separate([232, 233, 234, 235].map(edge))));
    assert_eq!(smmu.messages, Some(Messages { its: Phandle(0x8006), device: 0 }));

    let engines: Vec<_> =
        board.engines.iter().map(|engine| (engine.window.start, engine.stream, engine.interrupt)).collect();
    assert_eq!(
        engines,
        [
            (0x0b10_0000, StreamId(0x100), edge(240)),
            (0x0b11_0000, StreamId(0x101), edge(241)),
            (0x0b12_0000, StreamId(0x102), edge(242)),
            (0x0b13_0000, StreamId(0x103), edge(243)),
        ]
    );
    let faults: Vec<_> = board.engines.iter().map(|engine| (engine.can_stall, engine.pasid_bits)).collect();
    assert_eq!(faults, [(true, 0), (true, 0), (false, 8), (false, 8)]);
    assert!(board.engines.iter().all(|engine| engine.smmu == Phandle(0x8009)));
    assert_eq!(board.control, Some(0x0b08_0000..0x0b08_1000));
}

#[test]
fn a_board_without_an_its_has_nobody_to_take_messages() {
    let board = Board::parse(&spliced(&with(FOUR_CORES, b"arm,gic-v3-its\0", b"arm,gic-v3-ixx\0"))).unwrap();
    assert_eq!(board.gic.its, None);
    assert!(board.smmus.iter().all(|smmu| smmu.messages.is_none()));
}

/// The binding's names, in what order they like, and flags 1 for an edge, 4 for a level.
#[test]
fn an_smmus_interrupts_are_found_by_name_and_are_edges_or_levels_as_their_cells_say() {
    let wires = |tree: &[u8]| Board::parse(tree).unwrap().smmus[0].wires;
    let names = b"eventq\0priq\0cmdq-sync\0gerror\0";
    let level = with(FOUR_CORES, &be(&[0, 0x4a, 1]), &be(&[0, 0x4a, 4]));
    let event_queue = Interrupt { intid: 106, trigger: Trigger::Level };
    assert_eq!(wires(&level), Some(separate([event_queue, edge(107), edge(108), edge(109)])));
    let others = with(FOUR_CORES, names, b"gerror\0priq\0cmdq-sync\0eventq\0");
    assert_eq!(wires(&others), Some(separate([109, 107, 108, 106].map(edge))));
    // The one for all goes before the others, whatever its place.
    let combined = with(FOUR_CORES, names, b"eventq\0priq\0combined\0\0gerror\0");
    assert_eq!(wires(&combined), Some(Wires::Combined(edge(108))));
    let combined = with(&combined, &be(&[0, 0x4c, 1]), &be(&[0, 0x4c, 4]));
    assert_eq!(wires(&combined), Some(Wires::Combined(Interrupt { intid: 108, trigger: Trigger::Level })));
    let without = with(FOUR_CORES, names, b"eventq\0priq\0cmdq-sync\0herror\0");
    assert_eq!(message(&without), "device tree: node smmuv3@9050000 has an unusable interrupt-names");
}

#[test]
fn an_smmu_may_have_messages_and_no_wires() {
    let mut tree = spliced(FOUR_CORES);
    let place = |bytes: &[u8]| tree.windows(bytes.len()).position(|other| other == bytes).unwrap();
    // Before the value of a property there are 4 bytes with the place of its name in the strings, whose own is at byte 12. The
    // model's interrupts, from SPI 200 on, become those of another name.
    let value = place(&be(&[0, 200, 1]));
    let name = place(b"interrupt-map\0") - u32::from_be_bytes(*tree[12..].first_chunk().unwrap()) as usize;
    tree[value - 4..value].copy_from_slice(&(name as u32).to_be_bytes());
    let board = Board::parse(&tree).unwrap();
    let smmu = board.smmu(Phandle(0x8009)).unwrap();
    assert_eq!((smmu.wires, smmu.messages), (None, Some(Messages { its: Phandle(0x8006), device: 0 })));
}

#[test]
fn the_only_core_stays() {
    assert_eq!(Board::parse(&spliced(ONE_CORE)).unwrap().cores, [Mpidr(0)]);
}

#[test]
fn bytes_after_the_tree_are_ignored() {
    let mut tree = FOUR_CORES.to_vec();
    tree.extend([0xa5; 100]);
    assert_eq!(Board::parse(&tree).unwrap(), Board::parse(FOUR_CORES).unwrap());
}

#[test]
fn what_is_no_tree_is_refused() {
    assert_eq!(Board::parse(&[]), Err(BoardError::NoTree { magic: 0, size: 0 }));
    assert_eq!(Board::parse(&[0xff; 64]), Err(BoardError::NoTree { magic: u32::MAX, size: u32::MAX }));
    assert!(matches!(Board::parse(&FOUR_CORES[..FOUR_CORES.len() - 1]), Err(BoardError::Format(_))));
}

#[test]
fn errors_name_node_and_property() {
    let uart = with(FOUR_CORES, &be(&[0, 0x0900_0000, 0, 0x1000]), &be(&[0, 0x0900_0010, 0, 0x1000]));
    assert_eq!(message(&uart), "device tree: node pl011@9000000 has an unusable reg");
    let gone = with(FOUR_CORES, b"arm,gic-v3\0", b"arm,gic-v9\0");
    assert_eq!(message(&gone), "device tree: there is no GICv3");
    let trigger = with(FOUR_CORES, &be(&[0, 0x4d, 1]), &be(&[0, 0x4d, 2]));
    assert_eq!(message(&trigger), "device tree: node smmuv3@9050000 has an unusable interrupts");
    let unnamed = with(FOUR_CORES, b"gerror\0", b"herror\0");
    assert_eq!(message(&unnamed), "device tree: node smmuv3@9050000 has an unusable interrupt-names");
    let behind = with(FOUR_CORES, &be(&[0, 0x8007, 0, 0x1_0000]), &be(&[0, 0x8003, 0, 0x1_0000]));
    assert_eq!(message(&behind), "device tree: a PCIe function is behind 0x8003, which is no SMMU");
    let above = with(FOUR_CORES, &be(&[0, 0x4000_0000, 0, 0x4000_0000]), &be(&[0, 0x0900_0000, 0, 0x4000_0000]));
    assert_eq!(message(&above), "device tree: memory and UART overlap at 0x9000000");
    let unnamed = with(FOUR_CORES, b"enable-method\0", b"enable-Method\0");
    assert_eq!(message(&unnamed), "device tree: node cpu@1 has no enable-method");
}

/// What the kernel builds on without looking again.
fn assert_sane(board: &Board) {
    assert!(!board.memory.is_empty() && !board.cores.is_empty());
    let all: Vec<_> = board.memory.iter().chain(board.windows().map(|(_, window)| window)).collect();
    for (index, a) in all.iter().enumerate() {
        assert!(a.start < a.end && a.end <= 1 << 48 && a.start % 0x1000 == 0 && a.end % 0x1000 == 0, "{a:x?}");
        assert!(all[index + 1..].iter().all(|b| a.end <= b.start || b.end <= a.start), "{a:x?} in {all:x?}");
    }
    for smmu in &board.smmus {
        assert!(smmu.window.end - smmu.window.start >= 0x2_0000);
        assert!(smmu.wires.is_some() || smmu.messages.is_some());
        assert!(smmu.wires.into_iter().flat_map(Wires::all).all(|wire| (16..1020).contains(&wire.intid)));
    }
    for engine in &board.engines {
        assert!(board.smmu(engine.smmu).is_some() && engine.pasid_bits <= 20);
    }
}

/// Splitmix64: enough for picking places.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[test]
fn mutated_trees_give_an_error_or_a_sane_board() {
    let trees = [FOUR_CORES.to_vec(), spliced(FOUR_CORES)];
    let (mut random, mut refused) = (Random(1), 0);
    const TREES: usize = 10_000;
    for index in 0..TREES {
        let mut tree = trees[index % trees.len()].clone();
        for _ in 0..=random.below(3) {
            let at = random.below(tree.len());
            match random.below(4) {
                0 => tree[at] ^= 1 << random.below(8),
                1 => tree[at] = random.next() as u8,
                // A word that means something, where words are.
                2 => {
                    let word = [0, 1, 2, 3, 4, 9, 0x7fff_ffff, 0xffff_ffff][random.below(8)];
                    let at = at & !3;
                    let end = tree.len().min(at + 4);
                    tree[at..end].copy_from_slice(&u32::to_be_bytes(word)[..end - at]);
                }
                _ => {
                    let from = random.below(tree.len());
                    let length = random.below(64).min(tree.len() - from).min(tree.len() - at);
                    tree.copy_within(from..from + length, at);
                }
            }
        }
        // Once in a while the tree ends early, and its header says so.
        if random.below(16) == 0 {
            tree.truncate(random.below(tree.len()));
            let length = tree.len() as u32;
            if let Some(size) = tree.get_mut(4..8) {
                size.copy_from_slice(&length.to_be_bytes());
            }
        }
        match Board::parse(&tree) {
            Ok(board) => assert_sane(&board),
            Err(_) => refused += 1,
        }
    }
    // Some mutations break the format or what the board uses, and some hit what it ignores.
    assert!((TREES / 10..TREES * 9 / 10).contains(&refused), "{refused} refused");
}
