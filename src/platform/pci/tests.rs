use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;

use super::*;
use crate::platform::board::Pcie;

/// A function's configuration space as far as bring-up uses it: identity, class, header type, command, BARs.
#[derive(Clone, Debug)]
struct FakeFunction {
    address: DeviceFunction,
    identity: u32,
    header_type: u32,
    command: u32,
    bars: [u32; 6],
    /// The bits of each BAR that software can write.
    writable: [u32; 6],
}

/// The bus, and whatever went wrong on it.
#[derive(Clone, Debug, Default)]
struct FakeBus(Arc<Mutex<Vec<FakeFunction>>>);

impl ConfigurationAccess for FakeBus {
    fn read_word(&self, address: DeviceFunction, register: u8) -> u32 {
        let bus = self.0.lock().unwrap();
        let Some(function) = bus.iter().find(|function| function.address == address) else { return u32::MAX };
        match register {
            0x00 => function.identity,
            0x04 => function.command,
            0x08 => 0xff00_0000,
            0x0c => function.header_type << 16,
            0x10..0x28 => function.bars[(register as usize - 0x10) / 4],
            _ => panic!("register {register:#x}"),
        }
    }

    fn write_word(&mut self, address: DeviceFunction, register: u8, value: u32) {
        let mut bus = self.0.lock().unwrap();
        let function = bus.iter_mut().find(|function| function.address == address).unwrap();
        match register {
            0x04 => function.command = value,
            0x10..0x28 => {
                assert_eq!(function.command & 3, 0, "a BAR changed while it was decoded");
                let bar = (register as usize - 0x10) / 4;
                let writable = function.writable[bar];
                function.bars[bar] = function.bars[bar] & !writable | value & writable;
            }
            _ => panic!("register {register:#x}"),
        }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        self.clone()
    }
}

fn at(device: u8) -> DeviceFunction {
    DeviceFunction { bus: 0, device, function: 0 }
}

fn function(device: u8, bars: [u32; 6], writable: [u32; 6]) -> FakeFunction {
    FakeFunction { address: at(device), identity: 0x11e8_1234, header_type: 0, command: 0x7, bars, writable }
}

/// One BAR of 1 MiB, as QEMU's edu has it.
fn edu(device: u8) -> FakeFunction {
    function(device, [0; 6], [0xfff0_0000, 0, 0, 0, 0, 0])
}

/// `size` bytes in both windows.
fn bridge(size: u64) -> Pcie {
    let window =
        |space, start: u64| PcieWindow { space, pci: start, cpu: start + 0x100_0000..start + 0x100_0000 + size };
    Pcie {
        ecam: 0..0x10_0000,
        first_bus: 0,
        last_bus: 0,
        windows: [window(PcieSpace::Memory32, 0x1000_0000), window(PcieSpace::Memory64, 0x80_0000_0000)]
            .into_iter()
            .collect(),
        streams: Default::default(),
    }
}

#[test]
fn bars_are_placed_apart_and_enabled_without_dma() {
    let bus = FakeBus::default();
    // A BAR of 64 bits and 16 KiB at 4, and one of 256 bytes at 1.
    let virtio = function(2, [0, 0, 0, 0, 0xc, 0], [0, 0xffff_ff00, 0, 0, 0xffff_c000, u32::MAX]);
    *bus.0.lock().unwrap() = vec![edu(1), virtio];
    let root = RootBus::bring_up(bus.clone(), &bridge(0x100_0000)).unwrap();

    let found = root.find(0x1234, 0x11e8).unwrap();
    assert_eq!((found.address, found.requester()), (at(1), 0x0008));
    assert_eq!(found.bars, [Some(0x1100_0000..0x1110_0000), None, None, None, None, None]);
    let bars = &root.functions()[1].bars;
    assert_eq!(bars[1], Some(0x1110_0000..0x1110_0100));
    assert_eq!(bars[4], Some(0x1110_4000..0x1110_8000));

    let bus = bus.0.lock().unwrap();
    assert_eq!(bus[0].bars[0], 0x1000_0000);
    assert_eq!((bus[1].bars[1], bus[1].bars[4], bus[1].bars[5]), (0x1010_0000, 0x1010_400c, 0));
    assert!(bus.iter().all(|function| function.command == 0x2));
}

#[test]
fn a_wide_bar_goes_high_when_the_low_window_is_full() {
    let bus = FakeBus::default();
    *bus.0.lock().unwrap() = vec![edu(1), function(2, [4, 0, 0, 0, 0, 0], [0xfff0_0000, u32::MAX, 0, 0, 0, 0])];
    let root = RootBus::bring_up(bus.clone(), &bridge(0x10_0000)).unwrap();
    assert_eq!(root.functions()[1].bars[0], Some(0x80_0100_0000..0x80_0110_0000));
    assert_eq!(bus.0.lock().unwrap()[1].bars[..2], [4, 0x80]);
}

#[test]
fn a_bar_without_room_is_named() {
    let bus = FakeBus::default();
    *bus.0.lock().unwrap() = vec![edu(1), edu(2)];
    let error = RootBus::bring_up(bus, &bridge(0x10_0000)).unwrap_err();
    assert_eq!(error, PciError::NoRoom { function: at(2), bar: 0, size: 0x10_0000 });
}

#[test]
fn malformed_bars_are_refused() {
    // Of a reserved kind; only below 1 MiB; with holes in its size; of 64 bits without an upper half.
    let cases = [
        (0, function(1, [6, 0, 0, 0, 0, 0], [0xfff0_0000, 0, 0, 0, 0, 0])),
        (0, function(1, [2, 0, 0, 0, 0, 0], [0xfff0_0000, 0, 0, 0, 0, 0])),
        (0, function(1, [0; 6], [0xf0f0_0000, 0, 0, 0, 0, 0])),
        (5, function(1, [0, 0, 0, 0, 0, 4], [0, 0, 0, 0, 0, 0xfff0_0000])),
    ];
    for (bar, function) in cases {
        let bus = FakeBus::default();
        *bus.0.lock().unwrap() = vec![function];
        let error = RootBus::bring_up(bus, &bridge(0x100_0000)).unwrap_err();
        assert_eq!(error, PciError::Bar { function: at(1), bar });
    }
}

#[test]
fn bridges_and_io_bars_are_left_alone() {
    let bus = FakeBus::default();
    let with_io = function(1, [1, 0, 0, 0, 0, 0], [0xffff_ffe0, 0, 0, 0, 0, 0]);
    let behind = FakeFunction { header_type: 1, ..edu(2) };
    *bus.0.lock().unwrap() = vec![with_io, behind];
    let root = RootBus::bring_up(bus.clone(), &bridge(0x100_0000)).unwrap();
    assert_eq!(root.functions().len(), 1);
    assert_eq!(root.functions()[0].bars, [const { None }; 6]);
    assert_eq!(bus.0.lock().unwrap()[1].command, 0x7);
}

#[test]
fn dma_is_allowed_and_forbidden_by_function() {
    let bus = FakeBus::default();
    *bus.0.lock().unwrap() = vec![edu(1), edu(2)];
    let mut root = RootBus::bring_up(bus.clone(), &bridge(0x100_0000)).unwrap();
    let commands = || bus.0.lock().unwrap().iter().map(|function| function.command).collect::<Vec<_>>();
    root.allow_dma(at(2), true);
    assert_eq!(commands(), [0x2, 0x6]);
    root.allow_dma(at(2), false);
    assert_eq!(commands(), [0x2, 0x2]);
}
