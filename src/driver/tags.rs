//! Whose translations a TLB entry is of: ASIDs and VMIDs, given out and taken back (3.17).
//!
//! A tag is given out again when [`Smmu::forget`] has proved that no entry with it is left, and not before. The smallest one comes
//! first, so that what holds them is as small as what is in use.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use super::error::DriverError;
use super::registers::Registers;
use super::{Delay, Smmu};
use crate::smmuv3::{Asid, Vmid};
use crate::sync::Cpu;

/// The tags of a kind. Tag 0 is not given out: [`NO_TABLES`](super::NO_TABLES), [`HOST`](super::HOST).
pub(super) struct Tags {
    bits: u8,
    /// Those in use, a bit each, as far as there were any at a time.
    used: Vec<u64>,
}

impl Tags {
    /// The tags of `bits` bits, 8 or 16.
    pub(super) const fn new(bits: u8) -> Self {
        Self { bits, used: Vec::new() }
    }

    /// The smallest tag that is not in use; `None` if all are.
    fn take(&mut self) -> Result<Option<u16>, TryReserveError> {
        let free = self.used.iter().position(|word| *word != u64::MAX);
        let index = match free {
            Some(index) => index,
            None if self.used.len() << 6 >> self.bits != 0 => return Ok(None),
            None => {
                self.used.try_reserve(1)?;
                self.used.push(u64::from(self.used.is_empty()));
                self.used.len() - 1
            }
        };
        let Some(word) = self.used.get_mut(index) else { return Ok(None) };
        let bit = word.trailing_ones();
        *word |= 1 << bit;
        Ok(Some((index << 6) as u16 | bit as u16))
    }

    /// `tag`, which nothing has any more, may be given out again. Does nothing if it was not given out.
    pub(super) fn give_back(&mut self, tag: u16) {
        if let Some(word) = self.used.get_mut(usize::from(tag >> 6)).filter(|_| tag != 0) {
            *word &= !(1 << (tag & 63));
        }
    }
}

impl<R: Registers, D: Delay> Smmu<R, D> {
    /// An ASID that no other address space of this SMMU has, until [`Smmu::forget`] has succeeded for it. One that came to no use is given
    /// back by `forget` with its [`Tag`](super::Tag).
    ///
    /// A kernel that chooses tags itself chooses all of them.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoAsid`] when all are in use, [`DriverError::HeapFull`], [`DriverError::Busy`].
    pub fn take_asid(&self, cpu: &mut Cpu) -> Result<Asid, DriverError> {
        let mut control = self.control(cpu)?;
        control.asids.take()?.map(Asid).ok_or(DriverError::NoAsid { bits: self.features.asid_bits })
    }

    /// A VMID that no other virtual machine of this SMMU has; see [`Smmu::take_asid`].
    ///
    /// # Errors
    ///
    /// [`DriverError::NoVmid`] when all are in use, [`DriverError::HeapFull`], [`DriverError::Busy`].
    pub fn take_vmid(&self, cpu: &mut Cpu) -> Result<Vmid, DriverError> {
        let mut control = self.control(cpu)?;
        control.vmids.take()?.map(Vmid).ok_or(DriverError::NoVmid { bits: self.features.vmid_bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_but_0_is_given_out_once_and_again_when_it_is_back() {
        for (bits, last) in [(8, 255), (16, 65535)] {
            let mut tags = Tags::new(bits);
            assert!((1..=last).all(|tag| tags.take() == Ok(Some(tag))));
            assert_eq!((tags.take(), tags.take()), (Ok(None), Ok(None)));
            for back in [1, 63, 64, last, 200] {
                tags.give_back(back);
                assert_eq!((tags.take(), tags.take()), (Ok(Some(back)), Ok(None)));
            }
            tags.give_back(7);
            tags.give_back(5);
            assert_eq!([tags.take(), tags.take(), tags.take()], [Ok(Some(5)), Ok(Some(7)), Ok(None)]);
        }
    }

    #[test]
    fn what_was_not_given_out_is_not_taken_back() {
        let mut tags = Tags::new(8);
        [0, 1, 300, 65535].into_iter().for_each(|tag| tags.give_back(tag));
        assert_eq!(tags.take(), Ok(Some(1)));
        [0, 2, 300, 65535].into_iter().for_each(|tag| tags.give_back(tag));
        assert_eq!(tags.take(), Ok(Some(2)));
    }
}
