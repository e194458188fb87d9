//! The stage 1 table walk: VMSAv8-64 with a 4 KiB granule, and the TLB before it.

use super::Smmu;
use super::cache::{Conflict, Place, Space, Tags};
use super::registers::OUTPUT_BITS;
use crate::model::memory::Memory;
use crate::smmuv3::cd::{ContextDescriptor, TableBase};
use crate::smmuv3::descriptor::{Descriptor, InputSize, Level, PageDescriptor, TableDescriptor};
use crate::smmuv3::{Access, Granule, PhysAddr, Shareability, Vmid};

/// nT of a block (3.21.1.1).
const NO_TRANSLATION_CACHING: u64 = 1 << 16;

/// Why a walk found no leaf, in the order in which it is found (7.3.22).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The address is out of range, or a descriptor is not valid.
    Translation,
    /// A descriptor outputs an address out of range.
    AddressSize,
    /// The leaf was not accessed before.
    Access,
    /// The leaf does not grant the access.
    Permission,
    /// No memory where a descriptor should be, at this address.
    Abort(PhysAddr),
    /// Two entries of the TLB translate the address.
    Conflict,
}

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// With the limits of the tables that led there.
    descriptor: PageDescriptor,
    /// The bits of the address within the leaf.
    offset: u64,
}

impl Leaf {
    /// The lowest 512 GiB translate to themselves, and everything is permitted.
    pub(super) const IDENTITY: Self = Self {
        descriptor: PageDescriptor {
            output: PhysAddr(0),
            attributes: 0,
            shareability: Shareability::InnerShareable,
            accessed: true,
            not_global: false,
            unprivileged: true,
            read_only: false,
            privileged_execute_never: false,
            unprivileged_execute_never: false,
        },
        offset: (1 << 39) - 1,
    };

    /// Whether `access` is permitted.
    pub(super) fn grants(&self, access: Access) -> bool {
        self.descriptor.permits(access)
    }

    /// The physical address of `address`.
    pub(super) fn physical(&self, address: u64) -> PhysAddr {
        PhysAddr(self.descriptor.output.0 | address & self.offset)
    }
}

/// Where a walk has come to: the next table, and the limits of all tables that led there.
pub(super) type Table = TableDescriptor;

impl Smmu {
    /// Translates `address` by the tables of `cd` or by what is kept of them. Keeps what it reads but for what leads to a
    /// fault (Arm DDI 0487, D8.17).
    pub(super) fn stage1(&mut self, cd: &ContextDescriptor, address: u64, memory: &impl Memory) -> Result<Leaf, Fault> {
        let (base, size, input) = select(cd, address).ok_or(Fault::Translation)?;
        let address = if base.ignore_top_byte { (address << 8).cast_signed() >> 8 } else { address.cast_signed() };
        let address = address.cast_unsigned();
        // Without stage 2 there are no VMIDs (3.17).
        let space = Space::El1 { vmid: Vmid(0), asid: cd.asid, private_asid: cd.private_asid };
        if let Some(leaf) = self.caches.tlb.look_up(space, address).map_err(|Conflict| Fault::Conflict)? {
            return Ok(leaf);
        }
        let output_bits = u32::from(cd.output_size.bits()).min(OUTPUT_BITS);
        let in_range =
            |PhysAddr(output)| if output >> output_bits == 0 { Ok(PhysAddr(output)) } else { Err(Fault::AddressSize) };
        let mut level = size.start_level();
        let mut limits = TableDescriptor::new(size.start_table(base.table));
        let kept = self.caches.tlb.look_up_table(space, address, Granule::Size4K, level as u8);
        if let Some((at, table)) = kept {
            limits = table;
            while level as u8 <= at
                && let Some(next) = level.next()
            {
                level = next;
            }
        }
        loop {
            let at = PhysAddr(limits.table.0 + level.index(input) as u64 * 8);
            let word = memory.read64(at).map_err(|_| Fault::Abort(at))?;
            let place = Place { granule: Granule::Size4K, level: level as u8 };
            match (Descriptor::decode(word, level), level.next()) {
                (Descriptor::Table(next), Some(next_level)) => {
                    limits = TableDescriptor {
                        table: in_range(next.table)?,
                        read_only: limits.read_only || next.read_only,
                        privileged_only: limits.privileged_only || next.privileged_only,
                        privileged_execute_never: limits.privileged_execute_never || next.privileged_execute_never,
                        unprivileged_execute_never: limits.unprivileged_execute_never
                            || next.unprivileged_execute_never,
                    };
                    self.caches.insert_table(Tags::table(space, address, place), limits);
                    level = next_level;
                }
                (Descriptor::Leaf(descriptor), _) => {
                    in_range(descriptor.output)?;
                    if !descriptor.accessed && !cd.access_flag_fault_disabled {
                        return Err(Fault::Access);
                    }
                    let leaf = Leaf { descriptor: descriptor.limited_by(&limits), offset: (1 << level.shift()) - 1 };
                    // A block on its way to another size is not kept (3.21.1.2).
                    if level == Level::Three || word & NO_TRANSLATION_CACHING == 0 {
                        let global = !descriptor.not_global;
                        self.caches.insert_leaf(Tags::leaf(space, global, address, place), leaf);
                    }
                    return Ok(leaf);
                }
                _ => return Err(Fault::Translation),
            }
        }
    }
}

/// The tables for `address`, how large their half is, and the address within it; `None` if it is in neither half (3.4.1).
fn select(cd: &ContextDescriptor, address: u64) -> Option<(TableBase, InputSize, u64)> {
    let upper = address >> 55 & 1 != 0;
    let base = if upper { cd.ttb1? } else { cd.ttb0? };
    // Bits above the half are copies of bit 55; of the top byte this may not be asked.
    let above = if upper { !address } else { address };
    let above = if base.ignore_top_byte { above << 8 >> 8 } else { above };
    let size = InputSize::new(base.tsz)?;
    let within = address & ((1 << size.bits()) - 1);
    size.contains(above).then_some((base, size, within))
}
