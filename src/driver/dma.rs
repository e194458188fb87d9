//! Memory that the CPU and the SMMU both reach.

use alloc::sync::Arc;
use core::fmt;
use core::hint;
use core::sync::atomic::AtomicU64;

use super::error::{DriverError, Unsupported};
use crate::smmuv3::features::Features;
use crate::smmuv3::{AddressSize, PhysAddr};

/// No memory of the size and alignment asked for is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {bytes} bytes of device memory with alignment {align} left")]
pub struct NoMemory {
    /// The size asked for, in bytes.
    pub bytes: usize,
    /// The alignment asked for, in bytes.
    pub align: usize,
}

/// Gives out memory that is physically contiguous and that an SMMU can read and write.
///
/// What it gives out is in use for ever, but for what the driver [gives back](Self::free): an SMMU may still read it when the CPU has no
/// more use for it. Tables of streams that are detached stay the driver's, which uses them again.
pub trait DmaMemory: Send + Sync {
    /// A region of `bytes` (a multiple of 8), zeroed, aligned to `align` (a power of two, at least 8).
    ///
    /// Where there is [`maintenance`](Self::maintenance), no cache line with a part of it has a part of anything else: lines as long as the
    /// longest that a cache writes back (CTR_EL0.CWG). The CPU would write back its neighbour over what the SMMU wrote.
    ///
    /// # Errors
    ///
    /// [`NoMemory`] when none is left.
    fn allocate(&self, bytes: usize, align: usize) -> Result<DmaRegion, NoMemory>;

    /// Takes a region back that [`allocate`](Self::allocate) gave out, whole and once: no SMMU reads or writes it any more, nor does the
    /// driver. It may be given out again, zeroed.
    ///
    /// [`Smmu::probe`](super::Smmu::probe) calls it when it fails, in the opposite order of its allocations, once CR0 = 0 is acknowledged
    /// (6.3.9). What an SMMU that does not acknowledge may still reach is never given back. A region that ends beyond IDR5.OAS goes back at once.
    /// By default it is lost.
    fn free(&self, region: DmaRegion) {
        let _ = region;
    }

    /// How the CPU's caches are maintained for this memory. An SMMU whose accesses are not coherent (IDR0.COHACC = 0, 6.3.1) is refused
    /// without; nothing of it is called for one whose are.
    ///
    /// Memory that the CPU maps as non-cacheable needs none, and says so by maintenance that is a barrier.
    fn maintenance(&self) -> Option<&'static dyn CacheMaintenance> {
        None
    }
}

/// Cache maintenance by address, to the point of coherency (Arm DDI 0487, D7.5.8), on all cores.
///
/// `words` may begin and end within a cache line: the whole line is meant.
pub trait CacheMaintenance: Send + Sync {
    /// What the CPU wrote to `words`, on this core or, if this one has seen it, on another, is what an SMMU reads there when this returns,
    /// and before anything that this core writes afterwards: on Arm `DC CVAC` for each line, then `DSB SY`.
    fn clean(&self, words: &[AtomicU64]);

    /// What the CPU reads from `words` after this has returned is no older than what was in memory when it was called: on Arm `DC IVAC`, or
    /// `DC CIVAC`, for each line, then `DSB SY`. The CPU has written nothing there since the last [`clean`](Self::clean).
    fn invalidate(&self, words: &[AtomicU64]);
}

/// A piece of memory shared with devices: 64-bit words, each read and written as one.
///
/// Words are atomic because a device may access them at any time. Relaxed accesses are enough: what orders them against
/// the device is the register access between (see [`Registers`](super::registers::Registers)).
#[derive(Clone, Copy, Debug)]
pub struct DmaRegion {
    /// Where devices see it.
    pub phys: PhysAddr,
    /// What the CPU sees.
    pub words: &'static [AtomicU64],
}

/// How the CPU and an SMMU come to see the same in memory: by themselves, or by cache maintenance. Without need, both operations do
/// nothing.
#[derive(Clone, Copy)]
pub struct Coherence(Option<&'static dyn CacheMaintenance>);

impl Coherence {
    /// The SMMU's accesses are coherent with the CPU's caches (IDR0.COHACC = 1).
    pub const COHERENT: Self = Self(None);

    /// Whatever either writes has to be maintained.
    pub const fn by(maintenance: &'static dyn CacheMaintenance) -> Self {
        Self(Some(maintenance))
    }

    /// Whether there is nothing to do.
    #[inline(always)]
    pub const fn is_coherent(self) -> bool {
        self.0.is_none()
    }

    /// Has the SMMU see what was written to `words`: [`CacheMaintenance::clean`].
    #[inline(always)]
    pub fn clean(self, words: &[AtomicU64]) {
        if let Some(maintenance) = self.0 {
            hint::cold_path();
            maintenance.clean(words);
        }
    }

    /// Has the CPU see what the SMMU wrote to `words`: [`CacheMaintenance::invalidate`].
    #[inline(always)]
    pub fn invalidate(self, words: &[AtomicU64]) {
        if let Some(maintenance) = self.0 {
            hint::cold_path();
            maintenance.invalidate(words);
        }
    }

    /// What an SMMU with `features` needs over `memory`.
    pub(super) fn new(features: &Features, memory: &dyn DmaMemory) -> Result<Self, Unsupported> {
        match features.coherent {
            true => Ok(Self::COHERENT),
            false => memory.maintenance().map(Self::by).ok_or(Unsupported::NotCoherent),
        }
    }
}

impl fmt::Debug for Coherence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_coherent() { "Coherent" } else { "Maintained" })
    }
}

/// Memory for one SMMU.
#[derive(Clone)]
pub(super) struct Shared {
    memory: Arc<dyn DmaMemory>,
    coherence: Coherence,
    oas: AddressSize,
}

impl Shared {
    /// For an SMMU that addresses `oas` (IDR5.OAS).
    pub(super) fn new(memory: Arc<dyn DmaMemory>, coherence: Coherence, oas: AddressSize) -> Self {
        Self { memory, coherence, oas }
    }

    pub(super) fn coherence(&self) -> Coherence {
        self.coherence
    }

    /// As [`DmaMemory::allocate`], and zeroed for the SMMU too: what the CPU has in its caches is never written back over what the SMMU
    /// writes. All of it lies where the SMMU reaches.
    pub(super) fn allocate(&self, bytes: usize, align: usize) -> Result<DmaRegion, DriverError> {
        let region = self.memory.allocate(bytes, align)?;
        within(self.oas, region.phys, bytes).inspect_err(|_| self.memory.free(region))?;
        self.coherence.clean(region.words);
        Ok(region)
    }
}

/// Refuses memory that ends beyond `oas`.
pub(super) fn within(oas: AddressSize, address: PhysAddr, bytes: usize) -> Result<(), DriverError> {
    match address.0.checked_add(bytes as u64) {
        Some(end) if end <= 1 << oas.bits() => Ok(()),
        _ => Err(DriverError::BeyondAddresses { address, bytes, bits: oas.bits() }),
    }
}

/// Memory for one SMMU that is not up yet, to be given back if it does not come up.
pub(super) struct Lent<'a> {
    memory: &'a Shared,
    /// In the order of their allocation: there are no more than that.
    regions: heapless::Vec<DmaRegion, 5>,
}

impl<'a> Lent<'a> {
    pub(super) fn new(memory: &'a Shared) -> Self {
        Self { memory, regions: heapless::Vec::new() }
    }

    pub(super) fn shared(&self) -> &Shared {
        self.memory
    }

    /// As [`Shared::allocate`].
    pub(super) fn allocate(&mut self, bytes: usize, align: usize) -> Result<DmaRegion, DriverError> {
        if self.regions.is_full() {
            return Err(NoMemory { bytes, align }.into());
        }
        let region = self.memory.allocate(bytes, align)?;
        let _ = self.regions.push(region);
        Ok(region)
    }

    /// What the SMMU may still write to `region` is not known: it is lost.
    pub(super) fn keep(&mut self, region: Option<DmaRegion>) {
        self.regions.retain(|lent| region.is_none_or(|region| region.phys != lent.phys));
    }

    /// Gives everything back.
    pub(super) fn give_back(self) {
        self.regions.iter().rev().for_each(|region| self.memory.memory.free(*region));
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec::Vec;
    use core::sync::atomic::Ordering;

    use spin::Mutex;

    use super::*;

    /// Each region lies 4 KiB behind the one before.
    struct Counted {
        next: AtomicU64,
        freed: Mutex<Vec<u64>>,
    }

    impl DmaMemory for Counted {
        fn allocate(&self, _: usize, _: usize) -> Result<DmaRegion, NoMemory> {
            Ok(DmaRegion { phys: PhysAddr(self.next.fetch_add(0x1000, Ordering::Relaxed)), words: &[] })
        }

        fn free(&self, region: DmaRegion) {
            self.freed.lock().push(region.phys.0);
        }
    }

    #[test]
    fn what_was_lent_is_given_back_in_the_opposite_order_but_what_is_kept_and_what_no_smmu_reaches_at_once() {
        let memory = Arc::new(Counted { next: (0xffff_d000).into(), freed: Mutex::default() });
        let shared = Shared::new(memory.clone(), Coherence::COHERENT, AddressSize::Bits32);
        let mut lent = Lent::new(&shared);
        let regions = [(); 3].map(|()| lent.allocate(0x1000, 0x1000).unwrap());
        assert!(lent.allocate(0x1000, 0x1000).is_err());
        assert_eq!(*memory.freed.lock(), [0x1_0000_0000]);
        lent.keep(None);
        lent.keep(Some(regions[1]));
        lent.give_back();
        assert_eq!(*memory.freed.lock(), [0x1_0000_0000, 0xffff_f000, 0xffff_d000]);
    }

    #[test]
    fn memory_may_end_with_the_addresses_and_not_beyond() {
        for (oas, bits) in [(AddressSize::Bits32, 32), (AddressSize::Bits44, 44), (AddressSize::Bits56, 56)] {
            let end = 1 << bits;
            assert_eq!(within(oas, PhysAddr(end - 4096), 4096), Ok(()));
            for address in [end - 4088, end, u64::MAX - 4095, u64::MAX].map(PhysAddr) {
                let error = within(oas, address, 4096).unwrap_err();
                assert_eq!(error, DriverError::BeyondAddresses { address, bytes: 4096, bits });
                let text = error.to_string();
                assert!(text.contains("IDR5.OAS") && text.contains(&format!("{:#x}", address.0)), "{text}");
            }
        }
    }
}
