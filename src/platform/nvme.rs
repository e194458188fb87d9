//! NVMe controllers behind an SMMU: one namespace, an admin queue and an I/O queue, polled (NVM Express Base Specification 1.4).
//!
//! All that the controller is told are addresses of its own address space, which the SMMU translates. A command that does not end
//! is given up by disabling the controller, which then has forgotten its queues.

#[cfg(any(test, target_os = "none"))]
mod command;

/// The size of a page of the controller's: CC.MPS = 0.
#[cfg(any(test, target_os = "none"))]
const PAGE: u64 = 0x1000;

#[cfg(target_os = "none")]
pub use target::*;

#[cfg(target_os = "none")]
mod target {
    use core::sync::atomic::Ordering::{Acquire, Relaxed};

    use super::PAGE;
    use super::command::{COMMAND_WORDS, Completion, Pointer, Request, list};
    use crate::arch::{mmio::Mmio, timer::Timer};
    use crate::driver::dma::DmaRegion;
    use crate::sync::wait;

    /// The PCI vendor ID of QEMU's controller.
    pub const VENDOR: u16 = 0x1b36;
    /// The PCI device ID of QEMU's controller.
    pub const DEVICE: u16 = 0x0010;

    /// The pages that a driver needs of what the controller reads: two submission queues and a PRP list.
    pub const READ_PAGES: u64 = 3;
    /// The pages that a driver needs of what the controller writes: two completion queues and what it says of itself.
    pub const WRITTEN_PAGES: u64 = 3;

    // Registers (3.1).
    const CAPABILITIES: usize = 0x00;
    const CONFIGURATION: usize = 0x14;
    const STATUS: usize = 0x1c;
    const ADMIN_ATTRIBUTES: usize = 0x24;
    const ADMIN_SUBMISSION: usize = 0x28;
    const ADMIN_COMPLETION: usize = 0x30;
    const DOORBELLS: usize = 0x1000;

    /// CC: enabled, the NVM command set, pages of 4 KiB, commands of 2^6 and completions of 2^4 bytes.
    const ENABLED: u32 = 1 | 6 << 16 | 4 << 20;
    const READY: u32 = 1 << 0;
    const FATAL: u32 = 1 << 1;

    /// 64-bit words of a completion.
    const COMPLETION_WORDS: usize = 2;

    /// Entries of each queue: the commands of a page.
    const ENTRIES: u16 = 64;

    /// How many looks at a queue, a microsecond or more apart, there are between looks at the status register. Those keep QEMU from
    /// its work.
    const LOOKS: u32 = 64;

    /// Why a controller can't be used.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
    pub enum NvmeError {
        /// Its registers, or what it says of itself, are not what this driver needs.
        #[error("NVMe: not supported: {0}")]
        NotSupported(&'static str),
        /// The status register did not become what it should (3.1.6).
        #[error("NVMe: CSTS {status:#x} {waited_us} us after CC.EN was set to {enabled}")]
        NotReady {
            /// What CC.EN was set to.
            enabled: bool,
            /// What CSTS was last.
            status: u32,
            /// How long was waited, in microseconds.
            waited_us: u32,
        },
        /// It ended a command with this status field (4.6.1).
        #[error("NVMe: command ended with status {0:#x}")]
        Status(u16),
        /// It answered a command that was not given.
        #[error("NVMe: a completion for command {0:#x}, which was not given")]
        Foreign(u16),
        /// It says that it can't go on: CSTS.CFS. It has been disabled.
        #[error("NVMe: fatal status")]
        Fatal,
        /// A command did not end. The controller has been disabled.
        #[error("NVMe: no completion within {waited_us} us")]
        Timeout {
            /// How long was waited, in microseconds.
            waited_us: u32,
        },
        /// A transfer is not of whole blocks, not from a page on, or too long.
        #[error("NVMe: {bytes:#x} bytes at {address:#x} can't be transferred in one command")]
        Shape {
            /// Where the controller finds the data.
            address: u64,
            /// How much.
            bytes: u64,
        },
        /// An earlier command was lost, and the controller not started since.
        #[error("NVMe: the controller has not been started since a command was lost")]
        Lost,
    }

    /// Memory that the controller reaches.
    #[derive(Clone, Copy, Debug)]
    pub struct Window {
        /// Where the controller finds it, page-aligned.
        pub address: u64,
        /// The memory.
        pub memory: DmaRegion,
    }

    impl Window {
        /// Where the controller finds page `page`.
        const fn page(&self, page: u64) -> u64 {
            self.address + page * PAGE
        }

        /// The words of page `page`, as many as there are.
        fn words(&self, page: u64) -> &'static [core::sync::atomic::AtomicU64] {
            let words = (PAGE / 8) as usize;
            let all = self.memory.words.get(page as usize * words..).unwrap_or_default();
            all.get(..words).unwrap_or(all)
        }
    }

    /// A pair of queues.
    #[derive(Debug)]
    struct Queue {
        /// Its number, and that of its page in each window.
        number: u16,
        /// The next slot for a command.
        tail: u16,
        /// The next completion's slot.
        head: u16,
        /// The phase tag of the next completion.
        phase: bool,
        /// The identifier of the last command.
        id: u16,
    }

    /// A controller and its one namespace.
    #[derive(Debug)]
    pub struct Nvme {
        registers: Mmio,
        read: Window,
        written: Window,
        limit_us: u32,
        /// Bytes from one doorbell to the next.
        stride: usize,
        queues: [Queue; 2],
        block: u64,
        blocks: u64,
        most: u64,
        is_lost: bool,
    }

    impl Nvme {
        /// Resets the controller whose BAR 0 is `registers`, and starts it. It reaches `read`, [`READ_PAGES`] at least, and may write
        /// `written`, [`WRITTEN_PAGES`] at least, until it is dropped; nobody else uses those pages. A command is lost after `limit_us` microseconds.
        ///
        /// # Errors
        ///
        /// [`NvmeError`] if it is not as it should be, or does not start.
        pub fn start(registers: Mmio, read: Window, written: Window, limit_us: u32) -> Result<Self, NvmeError> {
            let doorbells = 4;
            if registers.size() < DOORBELLS + doorbells * size_of::<u32>() {
                return Err(NvmeError::NotSupported("a window without doorbells"));
            }
            let capabilities = registers.read64(CAPABILITIES);
            let stride = size_of::<u32>() << (capabilities >> 32 & 0xf);
            for (holds, what) in [
                (capabilities & 0xffff >= u64::from(ENTRIES - 1), "CAP.MQES"),
                (capabilities >> 37 & 1 == 1, "CAP.CSS"),
                (capabilities >> 48 & 0xf == 0, "CAP.MPSMIN"),
                (registers.size() >= DOORBELLS + doorbells * stride, "CAP.DSTRD"),
            ] {
                if !holds {
                    return Err(NvmeError::NotSupported(what));
                }
            }
            let queue = |number| Queue { number, tail: 0, head: 0, phase: true, id: 0 };
            let queues = [queue(0), queue(1)];
            let mut nvme = Self {
                registers,
                read,
                written,
                limit_us,
                stride,
                queues,
                block: 0,
                blocks: 0,
                most: 0,
                is_lost: false,
            };
            nvme.enable()?;
            nvme.identify()?;
            Ok(nvme)
        }

        /// The disk's size in bytes.
        pub const fn bytes(&self) -> u64 {
            self.blocks.saturating_mul(self.block)
        }

        /// Reads `bytes` of the disk, from byte `from` on, to `to`, where the controller may write. All three are multiples of a block, `to` of a page.
        ///
        /// # Errors
        ///
        /// [`NvmeError::Shape`]; [`NvmeError::Status`] if the controller says so; [`NvmeError::Timeout`] or [`NvmeError::Fatal`] if the
        /// command is lost, [`NvmeError::Lost`] from then on: the controller has to be started again.
        pub fn read(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), NvmeError> {
            self.transfer(false, from, to, bytes)
        }

        /// Writes `bytes` at `from`, which the controller may read, to the disk, from byte `to` on.
        ///
        /// # Errors
        ///
        /// As [`Nvme::read`].
        pub fn write(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), NvmeError> {
            self.transfer(true, to, from, bytes)
        }

        fn transfer(&mut self, write: bool, place: u64, address: u64, bytes: u64) -> Result<(), NvmeError> {
            let shape = NvmeError::Shape { address, bytes };
            let is_whole = (place | bytes).is_multiple_of(self.block) && address.is_multiple_of(PAGE);
            let count = u16::try_from(bytes / self.block).ok().filter(|&count| count > 0 && is_whole);
            let count = count.filter(|_| bytes <= self.most).ok_or(shape)?;
            // The list is of one page.
            for (entry, page) in self.read.words(2).iter().zip(list(address, bytes)) {
                entry.store(page, Relaxed);
            }
            let data = Pointer::new(address, bytes, self.read.page(2));
            self.execute(1, Request::Transfer { write, first: place / self.block, count, data })
        }

        /// Resets it and sets its admin queue up (7.6.1).
        fn enable(&mut self) -> Result<(), NvmeError> {
            self.set_enabled(false)?;
            for page in 0..READ_PAGES {
                self.read.words(page).iter().for_each(|word| word.store(0, Relaxed));
            }
            for page in 0..WRITTEN_PAGES {
                self.written.words(page).iter().for_each(|word| word.store(0, Relaxed));
            }
            let last = u32::from(ENTRIES - 1);
            self.registers.write32(ADMIN_ATTRIBUTES, last << 16 | last);
            self.registers.write64(ADMIN_SUBMISSION, self.read.page(0));
            self.registers.write64(ADMIN_COMPLETION, self.written.page(0));
            self.set_enabled(true)
        }

        /// Learns what the disk is, and makes the I/O queue.
        fn identify(&mut self) -> Result<(), NvmeError> {
            let (to, said) = (self.written.page(2), self.written.words(2));
            let byte = |at: usize| {
                let word = said.get(at / 8).map_or(0, |word| word.load(Relaxed));
                word.to_le_bytes()[at % 8]
            };
            self.execute(0, Request::IdentifyController { to })?;
            // A power of two of pages, 0 for no limit; a list of one page has one less than 513.
            let most = match byte(77) {
                0 => 513 * PAGE,
                log2 => PAGE.checked_shl(log2.into()).unwrap_or(u64::MAX).min(513 * PAGE),
            };
            self.execute(0, Request::IdentifyNamespace { to })?;
            let blocks = (0..8).fold(0, |size, at| size | u64::from(byte(at)) << (8 * at));
            // The format in use, of sixteen, and log2 of its block's size.
            let block = 128 + 4 * usize::from(byte(26) & 0xf) + 2;
            let block = 1_u64.checked_shl(byte(block).into()).filter(|block| (512..=PAGE).contains(block));
            let block = block.ok_or(NvmeError::NotSupported("blocks of this size"))?;
            (self.block, self.blocks, self.most) = (block, blocks, most);
            self.execute(0, Request::CreateCompletionQueue { at: self.written.page(1), entries: ENTRIES })?;
            self.execute(0, Request::CreateSubmissionQueue { at: self.read.page(1), entries: ENTRIES })
        }

        /// Has `request` done by queue `number`.
        fn execute(&mut self, number: usize, request: Request) -> Result<(), NvmeError> {
            if self.is_lost {
                return Err(NvmeError::Lost);
            }
            let ended = self.submit(number, request);
            if matches!(ended, Err(NvmeError::Timeout { .. } | NvmeError::Fatal | NvmeError::Foreign(_))) {
                self.is_lost = true;
                self.set_enabled(false)?;
            }
            ended
        }

        fn submit(&mut self, number: usize, request: Request) -> Result<(), NvmeError> {
            let Some(queue) = self.queues.get_mut(number) else { return Err(NvmeError::NotSupported("such a queue")) };
            let (page, doorbell) = (u64::from(queue.number), DOORBELLS + 2 * self.stride * usize::from(queue.number));
            queue.id = queue.id.wrapping_add(1);
            let slots = self.read.words(page).as_chunks::<COMMAND_WORDS>().0;
            let slot = slots.get(usize::from(queue.tail)).ok_or(NvmeError::NotSupported("so little memory"))?;
            slot.iter().zip(request.encode(queue.id)).for_each(|(word, value)| word.store(value, Relaxed));
            queue.tail = (queue.tail + 1) % ENTRIES;
            self.registers.write32(doorbell, queue.tail.into());

            let slots = self.written.words(page).as_chunks::<COMPLETION_WORDS>().0;
            let [_, status] = slots.get(usize::from(queue.head)).ok_or(NvmeError::NotSupported("so little memory"))?;
            let mut looks = 0;
            let look = || {
                looks += 1;
                // Acquire: what the controller wrote before, before it is read.
                let completion = Completion::decode(status.load(Acquire));
                if completion.phase == queue.phase {
                    return Ok(Ok(completion));
                }
                let is_fatal = looks % LOOKS == 0 && self.registers.read32(STATUS) & FATAL != 0;
                if is_fatal { Ok(Err(NvmeError::Fatal)) } else { Err(()) }
            };
            let completion = wait::until(&mut Timer, self.limit_us, look)
                .map_err(|expired| NvmeError::Timeout { waited_us: expired.waited_us })??;
            queue.head = (queue.head + 1) % ENTRIES;
            queue.phase ^= queue.head == 0;
            self.registers.write32(doorbell + self.stride, queue.head.into());
            match completion {
                Completion { id, .. } if id != queue.id => Err(NvmeError::Foreign(id)),
                Completion { status: 0, .. } => Ok(()),
                Completion { status, .. } => Err(NvmeError::Status(status)),
            }
        }

        /// Sets CC.EN, and waits until the controller has come to rest, or is ready (3.1.5).
        fn set_enabled(&self, enabled: bool) -> Result<(), NvmeError> {
            self.registers.write32(CONFIGURATION, if enabled { ENABLED } else { 0 });
            let look = || match self.registers.read32(STATUS) {
                status if (status & READY != 0) == enabled && (!enabled || status & FATAL == 0) => Ok(()),
                status => Err(status),
            };
            // CAP.TO is in units of 500 ms, at most 128 s.
            let limit_us = (self.registers.read64(CAPABILITIES) >> 24 & 0xff) as u32 * 500_000;
            wait::until(&mut Timer, limit_us.clamp(500_000, self.limit_us.max(500_000)), look)
                .map_err(|expired| NvmeError::NotReady { enabled, status: expired.last, waited_us: expired.waited_us })
        }
    }

    impl Drop for Nvme {
        /// A controller that does not come to rest goes on in its own address space.
        fn drop(&mut self) {
            if let Err(error) = self.set_enabled(false) {
                log::error!("{error}");
            }
        }
    }
}
