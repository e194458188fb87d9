//! The stage 1 table walk: VMSAv8-64 with a 4 KiB granule.

use crate::model::memory::Memory;
use crate::smmuv3::cd::{ContextDescriptor, TableBase};
use crate::smmuv3::descriptor::{Descriptor, InputSize, PageDescriptor, TableDescriptor};
use crate::smmuv3::{Access, PhysAddr};

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
    /// Whether `access` is permitted.
    pub(super) fn grants(&self, access: Access) -> bool {
        self.descriptor.permits(access)
    }

    /// It translates `1 << bits` bytes.
    pub(super) fn bits(&self) -> u8 {
        self.offset.count_ones() as u8
    }

    /// The physical address of `address`.
    pub(super) fn physical(&self, address: u64) -> PhysAddr {
        PhysAddr(self.descriptor.output.0 | address & self.offset)
    }
}

/// Walks the tables of `cd` for `address`, on an SMMU with `output_bits` bits of physical address.
pub(super) fn translate(
    cd: &ContextDescriptor,
    address: u64,
    output_bits: u32,
    memory: &impl Memory,
) -> Result<Leaf, Fault> {
    let (base, size, input) = select(cd, address).ok_or(Fault::Translation)?;
    let output_bits = u32::from(cd.output_size.bits()).min(output_bits);
    let in_range =
        |PhysAddr(output)| if output >> output_bits == 0 { Ok(PhysAddr(output)) } else { Err(Fault::AddressSize) };
    let mut limits = TableDescriptor::new(PhysAddr(0));
    let mut table = size.start_table(base.table);
    let mut level = size.start_level();
    loop {
        let at = PhysAddr(table.0 + level.index(input) as u64 * 8);
        let word = memory.read64(at).map_err(|_| Fault::Abort(at))?;
        match (Descriptor::decode(word, level), level.next()) {
            (Descriptor::Table(next), Some(next_level)) => {
                table = in_range(next.table)?;
                limits = TableDescriptor {
                    table,
                    read_only: limits.read_only || next.read_only,
                    privileged_only: limits.privileged_only || next.privileged_only,
                    privileged_execute_never: limits.privileged_execute_never || next.privileged_execute_never,
                    unprivileged_execute_never: limits.unprivileged_execute_never || next.unprivileged_execute_never,
                };
                level = next_level;
            }
            (Descriptor::Leaf(leaf), _) => {
                in_range(leaf.output)?;
                if !leaf.accessed && !cd.access_flag_fault_disabled {
                    return Err(Fault::Access);
                }
                return Ok(Leaf { descriptor: leaf.limited_by(&limits), offset: (1 << level.shift()) - 1 });
            }
            _ => return Err(Fault::Translation),
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
