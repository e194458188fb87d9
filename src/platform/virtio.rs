//! virtio devices behind an SMMU, by `virtio-drivers`.
//!
//! A device reaches two areas of memory: one that it reads, with descriptors and what drivers give it, and one that it may write too.
//! Both are mapped when its address space is made. Drivers' buffers are copied there and back (a bounce), since the crate
//! takes a buffer back ([`unshare`](virtio_drivers::Hal::unshare)) where no command can be sent to the SMMU and no wait can fail. So no device ever has an
//! address of a driver's buffer, and one that did not answer does no harm with a request that was given up.

#[cfg(any(test, target_os = "none"))]
mod area;

#[cfg(any(test, target_os = "none"))]
pub use area::Area;
#[cfg(target_os = "none")]
pub use target::*;

#[cfg(target_os = "none")]
mod target {
    use core::mem::ManuallyDrop;
    use core::ptr::NonNull;
    use core::sync::atomic::Ordering::Relaxed;

    use aarch64_cpu::asm::barrier;
    use spin::Once;
    use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
    use virtio_drivers::device::common::Feature;
    use virtio_drivers::queue::VirtQueue;
    use virtio_drivers::transport::pci::{PciTransport, VirtioPciError};
    use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
    use virtio_drivers::{BufferDirection, Hal, PhysAddr};
    use zerocopy::{FromBytes, Immutable, IntoBytes};

    use super::area::{Area, copy_in, copy_out};
    use crate::arch::{self, timer::Timer};
    use crate::platform::board::Pcie;
    use crate::platform::pci::{Ecam, Function, RootBus};
    use crate::sync::lock::IrqLock;
    use crate::sync::wait;

    /// The PCI vendor ID of virtio devices.
    pub const VENDOR: u16 = 0x1af4;
    /// The PCI device ID of a disk without the legacy interface.
    pub const DISK: u16 = 0x1042;
    /// The PCI device ID of a source of random bytes without the legacy interface.
    pub const ENTROPY: u16 = 0x1044;

    /// How long a device may take for a reset.
    const RESET_US: u32 = 2_000_000;

    /// How many looks at the queue, a microsecond or more apart, there are between looks at the device's registers. Those keep
    /// QEMU from its work.
    const LOOKS: u32 = 64;

    /// Why a device can't be used.
    #[derive(Clone, Debug, thiserror::Error)]
    pub enum VirtioError {
        /// Another one has its memory.
        #[error("the memory for this kind of virtio device is another one's")]
        Taken,
        /// It is not a virtio device as it should be.
        #[error("virtio: {0}")]
        Pci(#[from] VirtioPciError),
        /// It refused to start, or ended a request with an error.
        #[error("virtio: {0}")]
        Device(#[from] virtio_drivers::Error),
        /// It says that it can't go on. It has been reset.
        #[error("virtio: the device needs a reset")]
        NeedsReset,
        /// A request did not end. The device has been reset.
        #[error("virtio: no answer within {waited_us} us")]
        Timeout {
            /// How long was waited, in microseconds.
            waited_us: u32,
        },
        /// An earlier request was lost, and the device not started since.
        #[error("virtio: the device has not been started since a request was lost")]
        Lost,
    }

    /// What one device and its driver share.
    #[derive(Debug)]
    pub struct Shared {
        /// Where the device's registers may be.
        pub pcie: Pcie,
        /// What it reads: an area that need not be mapped for writing.
        pub read: IrqLock<Area>,
        /// What it writes.
        pub written: IrqLock<Area>,
    }

    impl Shared {
        fn area(&self, direction: BufferDirection) -> &IrqLock<Area> {
            match direction {
                BufferDirection::DriverToDevice => &self.read,
                BufferDirection::DeviceToDriver | BufferDirection::Both => &self.written,
            }
        }
    }

    /// The memory of the device `INDEX`, of which there is one: `virtio-drivers` knows it by type.
    #[derive(Debug)]
    pub struct DeviceMemory<const INDEX: usize>;

    static SHARED: [Once<Shared>; 2] = [const { Once::new() }; 2];

    impl<const INDEX: usize> DeviceMemory<INDEX> {
        fn shared() -> Option<&'static Shared> {
            SHARED.get(INDEX)?.get()
        }

        /// Says what the device shares with its driver, for good.
        fn share_with_device(shared: Shared) -> Result<(), VirtioError> {
            let mut shared = Some(shared);
            if let Some(place) = SHARED.get(INDEX) {
                place.call_once(|| shared.take().unwrap_or_else(|| unreachable!("called once")));
            }
            if shared.is_none() { Ok(()) } else { Err(VirtioError::Taken) }
        }
    }

    // SAFETY: each method says how it does what its implementation has to.
    unsafe impl<const INDEX: usize> Hal for DeviceMemory<INDEX> {
        /// The pages belong to an area, which gives a page to one user at a time and is made of memory that nobody else uses.
        /// It is mapped for good, page-aligned, and zeroed here. The area keeps a reference to it, to atomic words, which allow
        /// writes by pointers made of it; it reads and writes by that reference only pages that it gave to buffers.
        fn dma_alloc(pages: usize, direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
            let take =
                |shared: &Shared| arch::masked(|masked| shared.area(direction).lock(masked).take_for_queue(pages));
            // The crate takes address 0 for an error.
            let Some(taken) = Self::shared().and_then(take) else { return (0, NonNull::dangling()) };
            taken.words.iter().for_each(|word| word.store(0, Relaxed));
            (taken.address, NonNull::from(taken.words).cast())
        }

        unsafe fn dma_dealloc(address: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
            let Some(shared) = Self::shared() else { return -1 };
            for area in [&shared.read, &shared.written] {
                arch::masked(|masked| {
                    let mut area = area.lock(masked);
                    if area.at(address).is_some() {
                        area.give_queues_back();
                    }
                });
            }
            0
        }

        /// All of the windows is mapped as a device at the board's addresses, for good, and holds no memory of Rust's.
        ///
        /// # Panics
        ///
        /// If a register is in none of the bridge's windows, which the caller has promised it is.
        unsafe fn mmio_phys_to_virt(address: PhysAddr, size: usize) -> NonNull<u8> {
            Self::shared()
                .and_then(|shared| shared.pcie.cpu_address(address, size as u64))
                .and_then(|address| NonNull::new(address as *mut u8))
                .unwrap_or_else(|| panic!("{size:#x} bytes of registers at {address:#x} of PCI are in no window"))
        }

        unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
            let take = |shared: &Shared| {
                arch::masked(|masked| shared.area(direction).lock(masked).take_for_buffer(buffer.len()))
            };
            // The SMMU blocks what a device does at 0, which is never mapped.
            let Some(taken) = Self::shared().and_then(take) else { return 0 };
            if direction != BufferDirection::DeviceToDriver {
                // SAFETY: the caller has promised that the buffer is valid and that nobody else accesses it meanwhile.
                copy_in(taken.words, unsafe { buffer.as_ref() });
            }
            taken.address
        }

        unsafe fn unshare(address: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
            let Some(area) = Self::shared().map(|shared| shared.area(direction)) else { return };
            let Some(words) = arch::masked(|masked| area.lock(masked).at(address)) else { return };
            if direction != BufferDirection::DriverToDevice {
                // SAFETY: as for `share`, and the direction says that it is for writing.
                copy_out(words, unsafe { buffer.as_mut() });
            }
            arch::masked(|masked| area.lock(masked).give_buffer_back());
        }
    }

    /// The registers of a device whose addresses are translated: VIRTIO_F_ACCESS_PLATFORM is accepted where it is offered, without
    /// which such a device does not start (virtio 1.2, 6.1), and the reset at the end is waited for with a bound.
    #[derive(Debug)]
    struct Translated {
        transport: ManuallyDrop<PciTransport>,
        offered: u64,
    }

    impl Translated {
        const fn new(transport: PciTransport) -> Self {
            Self { transport: ManuallyDrop::new(transport), offered: 0 }
        }
    }

    impl Drop for Translated {
        /// The transport is not dropped: it would wait without a bound for the reset, and there is nothing else to it. A device
        /// that does not come to rest goes on in its own address space.
        fn drop(&mut self) {
            self.transport.set_status(DeviceStatus::empty());
            let look = || match self.transport.get_status() {
                status if status == DeviceStatus::empty() => Ok(()),
                status => Err(status),
            };
            if let Err(expired) = wait::until(&mut Timer, RESET_US, look) {
                log::error!("virtio: {:?} {} us after a reset", expired.last, expired.waited_us);
            }
        }
    }

    impl Transport for Translated {
        fn device_type(&self) -> DeviceType {
            self.transport.device_type()
        }

        fn read_device_features(&mut self) -> u64 {
            self.offered = self.transport.read_device_features();
            self.offered
        }

        fn write_driver_features(&mut self, features: u64) {
            self.transport.write_driver_features(features | self.offered & Feature::ACCESS_PLATFORM.bits());
        }

        fn max_queue_size(&mut self, queue: u16) -> u32 {
            self.transport.max_queue_size(queue)
        }

        fn notify(&mut self, queue: u16) {
            // The ring before the store to the device, which the crate's fences, between cores, do not order.
            barrier::dsb(barrier::SY);
            self.transport.notify(queue);
        }

        fn get_status(&self) -> DeviceStatus {
            self.transport.get_status()
        }

        fn set_status(&mut self, status: DeviceStatus) {
            self.transport.set_status(status);
        }

        fn set_guest_page_size(&mut self, size: u32) {
            self.transport.set_guest_page_size(size);
        }

        fn requires_legacy_layout(&self) -> bool {
            self.transport.requires_legacy_layout()
        }

        fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
            self.transport.queue_set(queue, size, descriptors, driver, device);
        }

        fn queue_unset(&mut self, queue: u16) {
            self.transport.queue_unset(queue);
        }

        fn queue_used(&mut self, queue: u16) -> bool {
            self.transport.queue_used(queue)
        }

        fn ack_interrupt(&mut self) -> InterruptStatus {
            self.transport.ack_interrupt()
        }

        fn read_config_generation(&self) -> u32 {
            self.transport.read_config_generation()
        }

        fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
            self.transport.read_config_space(offset)
        }

        fn write_config_space<T: IntoBytes + Immutable>(
            &mut self,
            offset: usize,
            value: T,
        ) -> virtio_drivers::Result<()> {
            self.transport.write_config_space(offset, value)
        }
    }

    type DiskMemory = DeviceMemory<0>;
    type Block = VirtIOBlk<DiskMemory, Translated>;

    /// A disk, polled. One request is under way at a time.
    pub struct Disk {
        /// `None` when a request was lost: the device was reset and knows no queue.
        device: Option<Block>,
        limit_us: u32,
    }

    impl Disk {
        /// Says what the one disk shares with its driver.
        ///
        /// # Errors
        ///
        /// [`VirtioError::Taken`] for a second one.
        pub fn share(shared: Shared) -> Result<(), VirtioError> {
            DiskMemory::share_with_device(shared)
        }

        /// Resets the disk `function` of `bus` and starts it. What it shares has been said, and is mapped. A request is lost
        /// after `limit_us` microseconds.
        ///
        /// # Errors
        ///
        /// [`VirtioError::Pci`] or [`VirtioError::Device`] if it is not as it should be.
        pub fn start(bus: &mut RootBus<Ecam>, function: &Function, limit_us: u32) -> Result<Self, VirtioError> {
            let transport = bus.virtio::<DiskMemory>(function)?;
            Ok(Self { device: Some(Block::new(Translated::new(transport))?), limit_us })
        }

        /// Reads sectors of 512 bytes, from number `first` on, into `data`, which holds some number of them.
        ///
        /// # Errors
        ///
        /// [`VirtioError::Device`] if the disk says so; [`VirtioError::NeedsReset`] or [`VirtioError::Timeout`] if the
        /// request is lost, [`VirtioError::Lost`] from then on: the disk has to be started again.
        ///
        /// # Panics
        ///
        /// If `data` is empty or ends within a sector.
        pub fn read(&mut self, first: usize, data: &mut [u8]) -> Result<(), VirtioError> {
            let device = self.device.as_mut().ok_or(VirtioError::Lost)?;
            let (mut request, mut response) = (BlkReq::default(), BlkResp::default());
            // SAFETY: the three are borrowed until the request is completed, or the device reset and its queue gone: in `wait`.
            let token = unsafe { device.read_blocks_nb(first, &mut request, data, &mut response) }?;
            let device = self.wait(token)?;
            // SAFETY: the same three.
            Ok(unsafe { device.complete_read_blocks(token, &request, data, &mut response) }?)
        }

        /// Writes `data`, a number of sectors, from number `first` on.
        ///
        /// # Errors
        ///
        /// As [`Disk::read`].
        ///
        /// # Panics
        ///
        /// As [`Disk::read`].
        pub fn write(&mut self, first: usize, data: &[u8]) -> Result<(), VirtioError> {
            let device = self.device.as_mut().ok_or(VirtioError::Lost)?;
            let (mut request, mut response) = (BlkReq::default(), BlkResp::default());
            // SAFETY: as in `read`.
            let token = unsafe { device.write_blocks_nb(first, &mut request, data, &mut response) }?;
            let device = self.wait(token)?;
            // SAFETY: the same three.
            Ok(unsafe { device.complete_write_blocks(token, &request, data, &mut response) }?)
        }

        /// Waits until request `token` is completed. A device that does not complete it is reset.
        fn wait(&mut self, token: u16) -> Result<&mut Block, VirtioError> {
            let device = self.device.as_mut().ok_or(VirtioError::Lost)?;
            let ended = wait_for(self.limit_us, |look| match look {
                Look::Queue => device.peek_used() == Some(token),
                Look::Registers => gave_up(device.ack_interrupt()),
            });
            if ended.is_err() {
                self.device = None;
            }
            ended.and(self.device.as_mut().ok_or(VirtioError::Lost))
        }
    }

    type EntropyMemory = DeviceMemory<1>;

    /// The one queue of a source of random bytes.
    const ENTROPY_QUEUE: u16 = 0;

    /// A source of random bytes, polled. The crate's own waits without a bound.
    #[derive(Debug)]
    pub struct Entropy {
        /// `None` as in [`Disk`]. In this order they are dropped: the queue's memory is free after the reset.
        device: Option<(Translated, VirtQueue<EntropyMemory, 8>)>,
        limit_us: u32,
    }

    impl Entropy {
        /// As [`Disk::share`].
        ///
        /// # Errors
        ///
        /// [`VirtioError::Taken`] for a second one.
        pub fn share(shared: Shared) -> Result<(), VirtioError> {
            EntropyMemory::share_with_device(shared)
        }

        /// As [`Disk::start`].
        ///
        /// # Errors
        ///
        /// [`VirtioError::Pci`] or [`VirtioError::Device`] if it is not as it should be.
        pub fn start(bus: &mut RootBus<Ecam>, function: &Function, limit_us: u32) -> Result<Self, VirtioError> {
            let mut transport = Translated::new(bus.virtio::<EntropyMemory>(function)?);
            transport.begin_init(Feature::VERSION_1);
            let queue = VirtQueue::new(&mut transport, ENTROPY_QUEUE, false, false)?;
            transport.finish_init();
            Ok(Self { device: Some((transport, queue)), limit_us })
        }

        /// Asks for as many random bytes as `bytes` has room for, and returns how many the device says it wrote.
        ///
        /// # Errors
        ///
        /// As [`Disk::read`].
        ///
        /// # Panics
        ///
        /// If there is no room at all.
        pub fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, VirtioError> {
            let (transport, queue) = self.device.as_mut().ok_or(VirtioError::Lost)?;
            // SAFETY: borrowed until the request is completed, or the device reset and its queue gone: below.
            let token = unsafe { queue.add(&[], &mut [bytes]) }?;
            if queue.should_notify() {
                transport.notify(ENTROPY_QUEUE);
            }
            let ended = wait_for(self.limit_us, |look| match look {
                Look::Queue => queue.peek_used() == Some(token),
                Look::Registers => gave_up(transport.ack_interrupt()),
            });
            if let Err(error) = ended {
                self.device = None;
                return Err(error);
            }
            // SAFETY: the same buffer.
            Ok(unsafe { queue.pop_used(token, &[], &mut [bytes]) }? as usize)
        }
    }

    /// What a look at a device is at.
    enum Look {
        /// Whether the request has ended.
        Queue,
        /// Whether the device can't go on.
        Registers,
    }

    /// Waits for the one request that is under way.
    fn wait_for(limit_us: u32, mut look: impl FnMut(Look) -> bool) -> Result<(), VirtioError> {
        let mut looks = 0;
        let ended = wait::until(&mut Timer, limit_us, || {
            looks += 1;
            if look(Look::Queue) {
                return Ok(Ok(()));
            }
            if looks % LOOKS == 0 && look(Look::Registers) { Ok(Err(VirtioError::NeedsReset)) } else { Err(()) }
        });
        ended.unwrap_or_else(|expired| Err(VirtioError::Timeout { waited_us: expired.waited_us }))
    }

    /// A device that can't go on says so by a change of its configuration (virtio 1.2, 2.1.2).
    fn gave_up(interrupts: InterruptStatus) -> bool {
        interrupts.contains(InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT)
    }
}
