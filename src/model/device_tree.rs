//! Adds the model to the board's device tree, and takes away what the model keeps for itself.
//!
//! The tree comes as a flattened blob and goes as one, slice to slice: nothing is allocated, and whatever the bytes hold
//! the result is a tree that a strict parser accepts, or an error. Added are the SMMU's node and the engines'; taken
//! away are the memory that hides the model's image and the node of the core that is the model's clock.

mod walk;
mod write;

#[cfg(test)]
mod tests;

use core::ops::Range;

use heapless::Vec;

use self::walk::{Blocks, Token, Walk, word};
use self::write::{Name, Writer};
use super::board::{self, EngineKind};
use super::profile::Profile;
use super::wire::Wire;
use crate::sync::cpu::MAX_CORES;

/// The first cell of an interrupt specifier for a shared peripheral interrupt, and the last one for an edge.
const GIC_SPI: u32 = 0;
const EDGE_RISING: u32 = 1;

/// The most memory ranges that a tree may have.
const MAX_MEMORY: usize = 8;

/// Why a device tree can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// It does not start with the magic number.
    #[error("no device tree: it starts with {0:#010x}")]
    Magic(u32),
    /// Its format is not version 17.
    #[error("device tree version {version}, compatible down to {oldest}: version 17 is needed")]
    Version {
        /// The version of the format.
        version: u32,
        /// The oldest version it is compatible with.
        oldest: u32,
    },
    /// A block reaches past the bytes it must lie in.
    #[error("device tree: the {block} block ends at {end:#x}, past the end")]
    Truncated {
        /// Which block.
        block: &'static str,
        /// The end that it should have, in bytes.
        end: usize,
    },
    /// An unknown token, or one in the wrong place.
    #[error("device tree: token {token:#x} at {offset:#x} of the structure block")]
    Token {
        /// Where it is in the structure block, in bytes.
        offset: usize,
        /// The token.
        token: u32,
    },
    /// The name of a node or a property is malformed or missing.
    #[error("device tree: a malformed name at {offset:#x} of the structure block")]
    Name {
        /// Where the node or the property is in the structure block, in bytes.
        offset: usize,
    },
    /// A property is not what the board needs.
    #[error("device tree: {node} has no usable {property}")]
    Property {
        /// Which node.
        node: &'static str,
        /// Which property.
        property: &'static str,
    },
    /// A node is missing.
    #[error("device tree: no {0}")]
    Missing(&'static str),
    /// There is more of something than fits.
    #[error("device tree: more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many fit.
        limit: usize,
    },
    /// Another device's registers lie where the model's are.
    #[error("device tree: the device at {0:#x} lies where the model's registers are")]
    Overlap(u64),
    /// What is to be hidden is not all in one piece of memory.
    #[error("device tree: {start:#x}..{end:#x} is not all memory")]
    NotMemory {
        /// Where it starts.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// The new tree is too large.
    #[error("device tree: the new tree does not fit into {capacity} bytes")]
    Full {
        /// The size of the room for it, in bytes.
        capacity: usize,
    },
}

/// A core that a tree names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core {
    /// The affinity fields of its MPIDR_EL1.
    pub mpidr: u64,
    phandle: Option<u32>,
}

/// An interrupt translation service (ITS), which makes interrupts of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Its {
    /// Where its registers are.
    pub base: u64,
    phandle: u32,
}

/// What a tree says about the machine, as far as the model needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The cores in the tree's order.
    pub cores: Vec<Core, MAX_CORES>,
    /// Where memory is.
    pub memory: Vec<Range<u64>, MAX_MEMORY>,
    /// Where the registers of the GICv3's distributor are.
    pub distributor: u64,
    /// Where the registers of its redistributors are, in one piece.
    pub redistributors: u64,
    /// The GIC's ITS, if it has one.
    pub its: Option<Its>,
    /// A phandle that no node has.
    phandle: u32,
}

/// Reads what `tree` says about the machine.
///
/// # Errors
///
/// [`TreeError`] if the tree is malformed, or the machine is not one that the model's nodes can be added to: it needs
/// addresses and sizes of 64 bits at the root, cores, memory, a GICv3 that interrupts go to by default, and nothing
/// where the [board] has the model.
pub fn survey(tree: &[u8]) -> Result<Machine, TreeError> {
    let mut machine = Machine::default();
    let (mut interrupt_parent, mut in_cpus, mut in_gic) = (None, false, false);
    let mut walk = Blocks::parse(tree)?.walk();
    while let Some((_, token)) = walk.next()? {
        match (walk.depth(), token) {
            (1, Token::Begin(_)) => {
                let needed = [("#address-cells", 2), ("#size-cells", 2)];
                for (property, value) in needed {
                    if cell(&walk, property)? != Some(value) {
                        return Err(TreeError::Property { node: "the root", property });
                    }
                }
                interrupt_parent = cell(&walk, "interrupt-parent")?;
            }
            (2, Token::Begin(name)) => {
                (in_cpus, in_gic) = (name == "cpus", is_compatible(&walk, b"arm,gic-v3")?);
                if is_memory(name) {
                    add_memory(&mut machine, &walk)?;
                } else {
                    add_device(&mut machine, &walk, interrupt_parent)?;
                }
            }
            (3, Token::Begin(name)) if in_cpus && name.starts_with("cpu@") => {
                let core = Core { mpidr: mpidr(&walk)?, phandle: cell(&walk, "phandle")? };
                let full = TreeError::TooMany { what: "cores", limit: MAX_CORES };
                machine.cores.push(core).map_err(|_| full)?;
            }
            (3, Token::Begin(_)) if in_gic && is_compatible(&walk, b"arm,gic-v3-its")? => {
                machine.its = machine.its.or(its(&walk)?);
            }
            (_, Token::Property("phandle", value)) => {
                machine.phandle = machine.phandle.max(word(value, 0).unwrap_or(0));
            }
            _ => {}
        }
    }
    // Phandles 0 and 0xffff_ffff are reserved.
    machine.phandle =
        machine.phandle.checked_add(1).filter(|free| *free != u32::MAX).ok_or(TreeError::Missing("free phandle"))?;
    match () {
        () if machine.cores.is_empty() => Err(TreeError::Missing("core")),
        () if machine.memory.is_empty() => Err(TreeError::Missing("memory")),
        () if machine.distributor == 0 => Err(TreeError::Missing("GICv3 (gic-version=3)")),
        () => Ok(machine),
    }
}

/// Writes `tree` to `out` with the nodes of a model of `profile` with `engines` engines, without the memory `hidden` and without
/// the core `clock`, and gives the length of the new tree in bytes. `machine` is what [`survey`] found in the same tree.
///
/// # Errors
///
/// [`TreeError`] if the tree is malformed, `hidden` is not all in one piece of memory, or `out` is too small.
pub fn splice(
    tree: &[u8],
    machine: &Machine,
    hidden: Range<u64>,
    clock: Option<&Core>,
    profile: Profile,
    engines: usize,
    out: &mut [u8],
) -> Result<usize, TreeError> {
    if !machine.memory.iter().any(|range| range.start <= hidden.start && hidden.end <= range.end) {
        return Err(TreeError::NotMemory { start: hidden.start, end: hidden.end });
    }
    let blocks = Blocks::parse(tree)?;
    let mut writer = Writer::new(blocks, out)?;
    let mut walk = blocks.walk();
    let (mut in_memory, mut in_cpus) = (false, false);
    while let Some((place, token)) = walk.next()? {
        match (walk.depth(), token) {
            (2, Token::Begin(name)) => (in_memory, in_cpus) = (is_memory(name), name == "cpus"),
            (3.., Token::Begin(name)) if in_cpus && is_clock(&walk, name, clock)? => {
                walk.skip_node()?;
                continue;
            }
            (2, Token::Property("reg", value)) if in_memory => {
                let name = word(blocks.structure, place.start + 8).unwrap_or_default();
                write_memory(&mut writer, name, value, &hidden)?;
                continue;
            }
            (0, Token::End) => write_model(&mut writer, machine, profile, engines)?,
            _ => {}
        }
        writer.bytes(&blocks.structure[place])?;
    }
    writer.finish()
}

/// What is left of `range` without what lies in `hidden`.
pub fn without(range: &Range<u64>, hidden: &Range<u64>) -> impl Iterator<Item = Range<u64>> + Clone + use<> {
    let (below, above) = (range.start..range.end.min(hidden.start), range.start.max(hidden.end)..range.end);
    [below, above].into_iter().filter(|range| !range.is_empty())
}

fn is_memory(name: &str) -> bool {
    name == "memory" || name.starts_with("memory@")
}

/// A property of one cell of the node that `walk` is in.
fn cell(walk: &Walk<'_>, property: &'static str) -> Result<Option<u32>, TreeError> {
    let value = walk.property_of_node(property)?;
    Ok(value.filter(|value| value.len() == 4).and_then(|value| word(value, 0)))
}

/// Adds the ranges of the memory node that `walk` is in.
fn add_memory(machine: &mut Machine, walk: &Walk<'_>) -> Result<(), TreeError> {
    let unusable = TreeError::Property { node: "memory", property: "reg" };
    for (start, size) in pairs(walk.property_of_node("reg")?).ok_or(unusable)? {
        let end = start.checked_add(size).ok_or(unusable)?;
        let full = TreeError::TooMany { what: "memory ranges", limit: MAX_MEMORY };
        machine.memory.push(start..end).map_err(|_| full)?;
    }
    Ok(())
}

/// Checks that the device that `walk` is in leaves the model's registers alone, and notes the GIC's distributor.
fn add_device(machine: &mut Machine, walk: &Walk<'_>, interrupt_parent: Option<u32>) -> Result<(), TreeError> {
    let Some(registers) = pairs(walk.property_of_node("reg")?) else { return Ok(()) };
    for (start, size) in registers.clone() {
        if start < board::WINDOW.end && start.saturating_add(size) > board::WINDOW.start {
            return Err(TreeError::Overlap(start));
        }
    }
    if is_compatible(walk, b"arm,gic-v3")? {
        if cell(walk, "#interrupt-cells")? != Some(3) {
            return Err(TreeError::Property { node: "the GIC", property: "#interrupt-cells" });
        }
        if interrupt_parent.is_none() || cell(walk, "phandle")? != interrupt_parent {
            return Err(TreeError::Property { node: "the root", property: "interrupt-parent" });
        }
        let mut bases = registers.map(|(base, _)| base);
        let unusable = TreeError::Property { node: "the GIC", property: "reg" };
        (machine.distributor, machine.redistributors) = bases.next().zip(bases.next()).ok_or(unusable)?;
    }
    Ok(())
}

/// Whether the node that `walk` is in is of the kind `name`.
fn is_compatible(walk: &Walk<'_>, name: &[u8]) -> Result<bool, TreeError> {
    let compatible = walk.property_of_node("compatible")?.unwrap_or_default();
    Ok(compatible.split(|byte| *byte == 0).any(|other| other == name))
}

/// The ITS whose node `walk` is in, if messages can be sent to it by a DeviceID.
fn its(walk: &Walk<'_>) -> Result<Option<Its>, TreeError> {
    let registers = pairs(walk.property_of_node("reg")?).and_then(|mut pairs| pairs.next());
    let base = registers.filter(|(_, size)| *size >= board::ITS_SIZE).map(|(base, _)| base);
    let phandle = cell(walk, "phandle")?.filter(|_| matches!(cell(walk, "#msi-cells"), Ok(Some(1))));
    Ok(base.zip(phandle).map(|(base, phandle)| Its { base, phandle }))
}

/// The address and size pairs of a `reg` with 64 bits of each.
fn pairs(reg: Option<&[u8]>) -> Option<impl Iterator<Item = (u64, u64)> + Clone> {
    let (pairs, rest) = reg?.as_chunks::<16>();
    let split = |pair: &[u8; 16]| ((u128::from_be_bytes(*pair) >> 64) as u64, u128::from_be_bytes(*pair) as u64);
    rest.is_empty().then(|| pairs.iter().map(split))
}

/// The affinity that the `reg` of the core's node that `walk` is in gives: one cell, or two.
fn mpidr(walk: &Walk<'_>) -> Result<u64, TreeError> {
    let reg = walk.property_of_node("reg")?;
    reg.and_then(cells64).ok_or(TreeError::Property { node: "a core", property: "reg" })
}

fn cells64(value: &[u8]) -> Option<u64> {
    match value.len() {
        4 => word(value, 0).map(u64::from),
        8 => value.first_chunk().map(|word| u64::from_be_bytes(*word)),
        _ => None,
    }
}

/// Whether the node called `name` below `/cpus`, which `walk` is in, is the clock core's: its own, or its place in the
/// topology.
fn is_clock(walk: &Walk<'_>, name: &str, clock: Option<&Core>) -> Result<bool, TreeError> {
    let Some(clock) = clock else { return Ok(false) };
    if walk.depth() == 3 && name.starts_with("cpu@") {
        return Ok(mpidr(walk)? == clock.mpidr);
    }
    Ok(clock.phandle.is_some() && cell(walk, "cpu")? == clock.phandle)
}

/// Writes a memory node's `reg`, whose name is at `name`, without what lies in `hidden`.
fn write_memory(writer: &mut Writer<'_, '_>, name: u32, reg: &[u8], hidden: &Range<u64>) -> Result<(), TreeError> {
    let ranges = pairs(Some(reg)).into_iter().flatten().map(|(start, size)| start..start.saturating_add(size));
    let kept = ranges.flat_map(|range| without(&range, hidden));
    writer.property_header(name, 16 * kept.clone().count())?;
    for range in kept {
        writer.bytes(&range.start.to_be_bytes())?;
        writer.bytes(&(range.end - range.start).to_be_bytes())?;
    }
    Ok(())
}

/// Writes the nodes of the SMMU, of the control page, and of the `engines` engines.
fn write_model(
    writer: &mut Writer<'_, '_>,
    machine: &Machine,
    profile: Profile,
    engines: usize,
) -> Result<(), TreeError> {
    let phandle = machine.phandle;
    let interrupt = |wire| [GIC_SPI, board::spi(wire), EDGE_RISING];
    let reg = |base: u64, size: u64| [base, size].map(|word| [(word >> 32) as u32, word as u32]);

    writer.begin("iommu", board::SMMU_BASE)?;
    writer.property(Name::Compatible, b"arm,smmu-v3\0")?;
    writer.cells(Name::Reg, reg(board::SMMU_BASE, board::SMMU_SIZE).as_flattened())?;
    if profile.has_one_wire() {
        writer.cells(Name::Interrupts, &interrupt(Wire::EventQueue))?;
        writer.property(Name::InterruptNames, b"combined\0")?;
    } else {
        let wires = [Wire::EventQueue, Wire::PriQueue, Wire::CommandSync, Wire::GlobalError];
        writer.cells(Name::Interrupts, wires.map(interrupt).as_flattened())?;
        writer.property(Name::InterruptNames, b"eventq\0priq\0cmdq-sync\0gerror\0")?;
    }
    if profile.features().coherent {
        writer.property(Name::DmaCoherent, b"")?;
    }
    writer.cells(Name::IommuCells, &[1])?;
    if let Some(its) = machine.its {
        writer.cells(Name::MsiParent, &[its.phandle, board::MESSAGE_DEVICE])?;
    }
    writer.cells(Name::Phandle, &[phandle])?;
    writer.end()?;

    writer.begin("control", board::CONTROL_BASE)?;
    writer.text(Name::Compatible, board::CONTROL_COMPATIBLE)?;
    writer.cells(Name::Reg, reg(board::CONTROL_BASE, board::CONTROL_SIZE).as_flattened())?;
    writer.end()?;

    for index in 0..engines.min(board::MAX_ENGINES) {
        writer.begin("dma", board::engine_base(index))?;
        writer.text(Name::Compatible, board::ENGINE_COMPATIBLE)?;
        writer.cells(Name::Reg, reg(board::engine_base(index), board::ENGINE_SIZE).as_flattened())?;
        writer.cells(Name::Interrupts, &interrupt(Wire::Engine(index as u8)))?;
        writer.property(Name::DmaCoherent, b"")?;
        writer.cells(Name::Iommus, &[phandle, profile.engine_stream(index).0])?;
        match board::engine_kind(index) {
            EngineKind::Stall => writer.property(Name::DmaCanStall, b"")?,
            EngineKind::PageRequest => {
                writer.cells(Name::PasidNumBits, &[board::pasid_bits(&profile.features()).into()])?
            }
        }
        writer.end()?;
    }
    Ok(())
}
