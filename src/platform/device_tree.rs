//! Reads the [`Board`] from its device tree.
//!
//! Devices are looked for directly below the root, and the GIC is taken for every interrupt's parent, as it is on this
//! board. Nodes whose `status` is not `okay` are not there.

mod node;

use core::ops::Range;

use dtoolkit::error::FdtParseError;
use dtoolkit::fdt::Fdt;
use heapless::{String, Vec};

use self::node::Node;
use super::board::{
    Board, Engine, Gic, Interrupt, Its, Messages, Mpidr, Pcie, PcieSpace, PcieWindow, Phandle, PsciMethod, Smmu,
    StreamMap, Trigger, Wires,
};
use crate::smmuv3::{StreamId, registers};
use crate::sync::cpu::MAX_CORES;

/// The largest tree, in bytes.
pub const MAX_SIZE: usize = 0x20_0000;

/// The first bytes of a tree: magic number and size.
pub const HEADER_SIZE: usize = 8;

/// The beginning of a node's name, at most 48 bytes of it.
pub type NodeName = String<48>;

/// Why a device tree can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    /// The bytes are no device tree.
    #[error("no device tree: it starts with {magic:#010x} {size:#x}")]
    NoTree {
        /// The first word.
        magic: u32,
        /// The second word, which would be the size in bytes.
        size: u32,
    },
    /// The tree's format is broken.
    #[error("malformed device tree: {0}")]
    Format(#[from] FdtParseError),
    /// Nothing of this kind is there.
    #[error("device tree: there is no {0}")]
    Missing(&'static str),
    /// A node has no such property.
    #[error("device tree: node {node} has no {property}")]
    NoProperty {
        /// Which node.
        node: NodeName,
        /// Which property.
        property: &'static str,
    },
    /// A property has a value that it can't have on this board.
    #[error("device tree: node {node} has an unusable {property}")]
    Property {
        /// Which node.
        node: NodeName,
        /// Which property.
        property: &'static str,
    },
    /// There is more of something than fits.
    #[error("device tree: more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many fit.
        limit: usize,
    },
    /// Two things lie at the same address.
    #[error("device tree: {first} and {second} overlap at {address:#x}")]
    Overlap {
        /// The one.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// The first address that both have.
        address: u64,
    },
    /// A device is said to be behind an SMMU that is not there.
    #[error("device tree: a {device} is behind {phandle:#x}, which is no SMMU")]
    NoSmmu {
        /// What kind of device.
        device: &'static str,
        /// What its `iommus` or `iommu-map` refers to.
        phandle: u32,
    },
}

/// The size in bytes of the tree that starts with `header`, at most [`MAX_SIZE`].
///
/// # Errors
///
/// [`BoardError::NoTree`] if it is no tree, or a larger one.
pub fn size(header: [u8; HEADER_SIZE]) -> Result<usize, BoardError> {
    let header = u64::from_be_bytes(header);
    let (magic, size) = ((header >> 32) as u32, header as u32);
    if magic != 0xd00d_feed || size as usize > MAX_SIZE {
        return Err(BoardError::NoTree { magic, size });
    }
    Ok(size as usize)
}

impl Board {
    /// Reads the tree that `bytes` start with.
    ///
    /// # Errors
    ///
    /// [`BoardError`] if it is malformed, lacks something that every board of this kind has, or contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, BoardError> {
        let header = *bytes.first_chunk().ok_or(BoardError::NoTree { magic: 0, size: 0 })?;
        // A tree that claims more than there is fails in `Fdt::new`.
        let tree = Fdt::new(bytes.get(..size(header)?).unwrap_or(bytes))?;
        let root = Node(tree.root());
        for property in ["#address-cells", "#size-cells"] {
            if root.cell(property)? != 2 {
                return Err(root.unusable(property));
            }
        }
        let board = Self {
            memory: memory(root)?,
            reserved: reserved(tree)?,
            cores: cores(root)?,
            psci: psci(root.compatible("arm,psci-0.2").next().ok_or(BoardError::Missing("PSCI 0.2"))?)?,
            gic: gic(root.compatible("arm,gic-v3").next().ok_or(BoardError::Missing("GICv3"))?)?,
            timer: timer(root.compatible("arm,armv8-timer").next().ok_or(BoardError::Missing("generic timer"))?)?,
            uart: root.compatible("arm,pl011").next().ok_or(BoardError::Missing("PL011"))?.window(0x1000)?,
            pcie: root.compatible("pci-host-ecam-generic").next().map(pcie).transpose()?,
            smmus: collect("SMMUs", root.compatible("arm,smmu-v3").map(smmu))?,
            engines: collect("DMA engines", root.compatible("smmu-iopf,dma-engine").map(engine))?,
            control: root.compatible("smmu-iopf,model-control").next().map(|node| node.window(0x1000)).transpose()?,
        };
        check_overlaps(&board)?;
        check_smmus(&board)?;
        Ok(board)
    }
}

/// All of `items`, or the first error among them.
fn collect<T, const N: usize>(
    what: &'static str,
    items: impl Iterator<Item = Result<T, BoardError>>,
) -> Result<Vec<T, N>, BoardError> {
    let mut all = Vec::new();
    for item in items {
        all.push(item?).map_err(|_| BoardError::TooMany { what, limit: N })?;
    }
    Ok(all)
}

fn memory<const N: usize>(root: Node<'_>) -> Result<Vec<Range<u64>, N>, BoardError> {
    let mut all = Vec::new();
    for node in root.children().filter(|node| node.is_called("memory")) {
        for range in node.windows()? {
            all.push(range?).map_err(|_| BoardError::TooMany { what: "pieces of memory", limit: N })?;
        }
    }
    if all.is_empty() { Err(BoardError::Missing("memory")) } else { Ok(all) }
}

/// What the reservation block lists, and `/reserved-memory`.
fn reserved<const N: usize>(tree: Fdt<'_>) -> Result<Vec<Range<u64>, N>, BoardError> {
    let full = BoardError::TooMany { what: "reserved pieces of memory", limit: N };
    let mut all = Vec::new();
    for entry in tree.memory_reservations() {
        let range = entry.address()..entry.address().saturating_add(entry.size());
        all.push(range).map_err(|_| full.clone())?;
    }
    for node in tree.find_node("/reserved-memory").into_iter().flat_map(|node| Node(node).children()) {
        // Without `reg` the node asks for memory anywhere, for a driver of its own.
        if node.has("reg") {
            for range in node.ranges()? {
                all.push(range?).map_err(|_| full.clone())?;
            }
        }
    }
    Ok(all)
}

fn cores(root: Node<'_>) -> Result<Vec<Mpidr, MAX_CORES>, BoardError> {
    let cpus = root.children().find(|node| node.is_called("cpus")).ok_or(BoardError::Missing("node cpus"))?;
    let mut all: Vec<Mpidr, MAX_CORES> = Vec::new();
    for node in cpus.children().filter(|node| node.is_called("cpu") && node.is_okay()) {
        // Aff3 is bits 39:32, Aff2 to Aff0 are bits 23:0.
        let mpidr = Mpidr(node.number("reg")?);
        if mpidr.0 & !0xff_00ff_ffff != 0 || all.contains(&mpidr) {
            return Err(node.unusable("reg"));
        }
        // The core that runs this needs no method to be started.
        if (node.has("enable-method") || !all.is_empty()) && !node.strings("enable-method")?.any(|name| name == "psci")
        {
            return Err(node.unusable("enable-method"));
        }
        all.push(mpidr).map_err(|_| BoardError::TooMany { what: "cores", limit: MAX_CORES })?;
    }
    if all.is_empty() { Err(BoardError::Missing("core")) } else { Ok(all) }
}

fn psci(node: Node<'_>) -> Result<PsciMethod, BoardError> {
    match node.strings("method")?.next() {
        Some("hvc") => Ok(PsciMethod::Hvc),
        Some("smc") => Ok(PsciMethod::Smc),
        _ => Err(node.unusable("method")),
    }
}

fn gic(node: Node<'_>) -> Result<Gic, BoardError> {
    if node.cell("#interrupt-cells")? != 3 {
        return Err(node.unusable("#interrupt-cells"));
    }
    let regions = if node.has("#redistributor-regions") { node.cell("#redistributor-regions")? } else { 1 };
    let mut windows = node.windows()?;
    let distributor = windows.next().ok_or_else(|| node.unusable("reg"))??;
    // What follows the redistributors are registers for a GICv2's software.
    let redistributors: Vec<_, _> = collect("GIC redistributor regions", windows.take(regions as usize))?;
    let frames_of_a_core = 0x2_0000;
    if redistributors.len() != regions as usize
        || redistributors.is_empty()
        || size_of_window(&distributor) < 0x1_0000
        || redistributors.iter().any(|region| size_of_window(region) < frames_of_a_core)
    {
        return Err(node.unusable("reg"));
    }
    let its = node.compatible("arm,gic-v3-its").next().map(its).transpose()?;
    Ok(Gic { distributor, redistributors, its })
}

fn its(node: Node<'_>) -> Result<Its, BoardError> {
    if node.cell("#msi-cells")? != 1 {
        return Err(node.unusable("#msi-cells"));
    }
    Ok(Its { phandle: Phandle(node.cell("phandle")?), window: node.window(0x2_0000)? })
}

fn size_of_window(window: &Range<u64>) -> u64 {
    window.end - window.start
}

/// The virtual timer's: the third, after the secure and the non-secure physical timer's.
fn timer(node: Node<'_>) -> Result<Interrupt, BoardError> {
    node.interrupts()?.nth(2).ok_or_else(|| node.unusable("interrupts"))?
}

fn pcie(node: Node<'_>) -> Result<Pcie, BoardError> {
    for (property, cells) in [("#address-cells", 3), ("#size-cells", 2)] {
        if node.cell(property)? != cells {
            return Err(node.unusable(property));
        }
    }
    let [first_bus, last_bus] = if node.has("bus-range") { node.only("bus-range")? } else { [0, 0xff] };
    let buses = match (u8::try_from(first_bus), u8::try_from(last_bus)) {
        (Ok(first_bus), Ok(last_bus)) if first_bus <= last_bus => first_bus..=last_bus,
        _ => return Err(node.unusable("bus-range")),
    };
    let ecam = node.window(buses.len() as u64 * 0x10_0000)?;
    let windows = node.arrays("ranges")?.map(|[space, pci @ .., cpu1, cpu0, size1, size0]: [u32; 7]| {
        let space = match space >> 24 & 3 {
            1 => PcieSpace::Io,
            2 => PcieSpace::Memory32,
            3 => PcieSpace::Memory64,
            _ => return Err(node.unusable("ranges")),
        };
        let cpu = node.pages("ranges", wide([cpu1, cpu0]), wide([size1, size0]))?;
        let pci = wide(pci);
        // The last address of the window must exist on its bus.
        let limit = if space == PcieSpace::Memory64 { u64::MAX } else { u32::MAX.into() };
        let last = pci.checked_add(size_of_window(&cpu) - 1).filter(|last| *last <= limit);
        last.map(|_| PcieWindow { space, pci, cpu }).ok_or_else(|| node.unusable("ranges"))
    });
    if node.has("iommu-map-mask") && node.cell("iommu-map-mask")? & 0xffff != 0xffff {
        return Err(node.unusable("iommu-map-mask"));
    }
    let streams = if node.has("iommu-map") { Some(node.arrays("iommu-map")?) } else { None };
    let streams = streams.into_iter().flatten().map(|[first_requester, smmu, first_stream, length]| {
        Ok(StreamMap { first_requester, length, smmu: Phandle(smmu), first_stream: StreamId(first_stream) })
    });
    Ok(Pcie {
        ecam,
        first_bus: *buses.start(),
        last_bus: *buses.end(),
        windows: collect("PCIe windows", windows)?,
        streams: collect("entries of an iommu-map", streams)?,
    })
}

fn wide([high, low]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn smmu(node: Node<'_>) -> Result<Smmu, BoardError> {
    if node.cell("#iommu-cells")? != 1 {
        return Err(node.unusable("#iommu-cells"));
    }
    let messages = if node.has("msi-parent") {
        let [its, device] = node.only("msi-parent")?;
        Some(Messages { its: Phandle(its), device })
    } else {
        None
    };
    Ok(Smmu {
        phandle: Phandle(node.cell("phandle")?),
        window: node.window(registers::SIZE as u64)?,
        // An SMMU may have no wires if it has messages (3.18).
        wires: if node.has("interrupts") || messages.is_none() { Some(wires(node)?) } else { None },
        messages,
        coherent: node.has("dma-coherent"),
    })
}

/// An SMMU's interrupts by their names. Where one is for all, it is the only one, or the others are not to be used.
fn wires(node: Node<'_>) -> Result<Wires, BoardError> {
    let wire = |name| -> Result<Option<Interrupt>, BoardError> {
        let Some(index) = node.strings("interrupt-names")?.position(|other| other == name) else { return Ok(None) };
        node.interrupts()?.nth(index).ok_or_else(|| node.unusable("interrupts"))?.map(Some)
    };
    let needed = |wire: Option<Interrupt>| wire.ok_or_else(|| node.unusable("interrupt-names"));
    Ok(match wire("combined")? {
        Some(interrupt) => Wires::Combined(interrupt),
        None => Wires::Separate {
            event_queue: needed(wire("eventq")?)?,
            pri_queue: wire("priq")?,
            command_sync: wire("cmdq-sync")?,
            global_error: needed(wire("gerror")?)?,
        },
    })
}

fn engine(node: Node<'_>) -> Result<Engine, BoardError> {
    let [smmu, stream] = node.only("iommus")?;
    let pasid_bits = if node.has("pasid-num-bits") { node.cell("pasid-num-bits")? } else { 0 };
    Ok(Engine {
        window: node.window(0x1000)?,
        interrupt: node.interrupts()?.next().ok_or_else(|| node.unusable("interrupts"))??,
        smmu: Phandle(smmu),
        stream: StreamId(stream),
        can_stall: node.has("dma-can-stall"),
        pasid_bits: u8::try_from(pasid_bits)
            .ok()
            .filter(|bits| *bits <= 20)
            .ok_or_else(|| node.unusable("pasid-num-bits"))?,
    })
}

/// The interrupt that the three cells of a GIC's specifier name.
fn interrupt([kind, number, flags]: [u32; 3]) -> Option<Interrupt> {
    let intid = match (kind, number) {
        (0, 0..=987) => 32 + number,
        (1, 0..=15) => 16 + number,
        _ => return None,
    };
    // Above bit 7 a private interrupt's flags may say which cores have it.
    let trigger = match flags & 0xf {
        1 => Trigger::Edge,
        4 => Trigger::Level,
        _ => return None,
    };
    Some(Interrupt { intid, trigger })
}

/// Whether everything lies apart.
fn check_overlaps(board: &Board) -> Result<(), BoardError> {
    let things = || board.memory.iter().map(|range| ("memory", range)).chain(board.windows());
    for (index, (first, a)) in things().enumerate() {
        for (second, b) in things().skip(index + 1) {
            let address = a.start.max(b.start);
            if address < a.end.min(b.end) {
                return Err(BoardError::Overlap { first, second, address });
            }
        }
    }
    Ok(())
}

/// Whether the devices behind SMMUs are behind SMMUs that are there, and each SMMU has a name of its own.
fn check_smmus(board: &Board) -> Result<(), BoardError> {
    let functions = board.pcie.iter().flat_map(|pcie| &pcie.streams).map(|map| ("PCIe function", map.smmu));
    let engines = board.engines.iter().map(|engine| ("DMA engine", engine.smmu));
    for (device, phandle) in functions.chain(engines) {
        if board.smmus.iter().filter(|smmu| smmu.phandle == phandle).count() != 1 {
            return Err(BoardError::NoSmmu { device, phandle: phandle.0 });
        }
    }
    Ok(())
}
