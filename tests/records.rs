//! Whatever a queue, a table or an ID register holds, decoding it ends in an error or in a value that means the same
//! when it is encoded again. Half of the words are random, half are valid ones with one to three bits flipped; the seeds
//! are fixed.

use smmu_iopf::smmuv3::cd::ContextDescriptor;
use smmu_iopf::smmuv3::command::{Command, Msi, ResumeAction, SyncCompletion, TlbiRange, TlbiSpan};
use smmu_iopf::smmuv3::descriptor::{Descriptor, Level};
use smmu_iopf::smmuv3::event::{Event, FaultClass, FaultKind, Fetch, Origin, TranslationFault};
use smmu_iopf::smmuv3::features::{Features, IdRegisters};
use smmu_iopf::smmuv3::page_request::PageRequest;
use smmu_iopf::smmuv3::ste::{ContextTableFormat, DefaultSubstream, Stage1, Ste, StreamWorld};
use smmu_iopf::smmuv3::{
    Access, Asid, Granule, PageResponse, PhysAddr, PrgIndex, Shareability, Stag, StreamId, SubstreamId,
    TableAttributes, Vmid,
};

const RECORDS: u32 = 100_000;
const STRUCTURES: u32 = 20_000;
const ID_SETS: u32 = 10_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn flag(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn words<const N: usize>(&mut self) -> [u64; N] {
        std::array::from_fn(|_| self.next())
    }

    /// One to three bits flipped.
    fn flipped<const N: usize>(&mut self, mut words: [u64; N]) -> [u64; N] {
        for _ in 0..=self.below(3) {
            words[self.below(N as u64) as usize] ^= 1 << self.below(64);
        }
        words
    }

    fn page(&mut self) -> u64 {
        self.next() & !0xfff
    }

    fn stream(&mut self) -> StreamId {
        StreamId(self.next() as u32)
    }

    fn substream(&mut self) -> SubstreamId {
        SubstreamId::from_low_bits(self.next())
    }

    fn maybe_substream(&mut self) -> Option<SubstreamId> {
        self.flag().then(|| self.substream())
    }

    fn range(&mut self) -> TlbiRange {
        let span = self.flag().then(|| TlbiSpan {
            granule: self.pick(&[Granule::Size4K, Granule::Size16K, Granule::Size64K]),
            ttl: self.below(4) as u8,
            num: 1 + self.below(31) as u8,
            scale: self.below(32) as u8,
        });
        TlbiRange { address: self.page(), leaf: self.flag(), span }
    }

    fn command(&mut self) -> Command {
        let (stream, vmid, asid) = (self.stream(), Vmid(self.next() as u16), Asid(self.next() as u16));
        match self.below(22) {
            0 => Command::PrefetchConfig { stream, substream: self.maybe_substream() },
            1 => Command::PrefetchAddress { stream, substream: self.maybe_substream(), address: self.page() },
            2 => Command::CfgiSte { stream, leaf: self.flag() },
            3 => Command::CfgiSteRange { stream, range: self.below(31) as u8 },
            4 => Command::CfgiAll,
            5 => Command::CfgiCd { stream, substream: self.substream(), leaf: self.flag() },
            6 => Command::CfgiCdAll { stream },
            7 => Command::TlbiNhAll { vmid },
            8 => Command::TlbiNhAsid { vmid, asid },
            9 => Command::TlbiNhVa { vmid, asid, range: self.range() },
            10 => Command::TlbiNhVaa { vmid, range: self.range() },
            11 => Command::TlbiEl2All,
            12 => Command::TlbiEl2Asid { asid },
            13 => Command::TlbiEl2Va { asid, range: self.range() },
            14 => Command::TlbiEl2Vaa { range: self.range() },
            15 => Command::TlbiS12VmAll { vmid },
            16 => {
                let range = self.range();
                let address = range.address & 0x000f_ffff_ffff_ffff;
                Command::TlbiS2Ipa { vmid, range: TlbiRange { address, ..range } }
            }
            17 => Command::TlbiNsnhAll,
            18 => {
                let substream = self.maybe_substream();
                let global = substream.is_some() && self.flag();
                Command::AtcInv { stream, substream, global, address: self.page(), size: self.below(53) as u8 }
            }
            19 => Command::PriResp {
                stream,
                substream: self.maybe_substream(),
                group: PrgIndex::from_low_bits(self.next()),
                response: self.pick(&[PageResponse::Failure, PageResponse::Invalid, PageResponse::Success]),
            },
            20 => match self.below(2) {
                0 => Command::StallTerm { stream },
                _ => Command::Resume {
                    stream,
                    stag: Stag(self.next() as u16),
                    action: self.pick(&[ResumeAction::Retry, ResumeAction::Abort, ResumeAction::Terminate]),
                },
            },
            _ => Command::Sync(match self.below(4) {
                0 => SyncCompletion::None,
                1 => SyncCompletion::Interrupt { msi: None },
                2 => SyncCompletion::Event,
                _ => SyncCompletion::Interrupt {
                    msi: Some(Msi {
                        address: PhysAddr((self.next() & 0x000f_ffff_ffff_fffc) | 4),
                        data: self.next() as u32,
                        attributes: self.below(16) as u8,
                        shareability: Shareability::from_low_bits(self.next()),
                    }),
                },
            }),
        }
    }

    fn access(&mut self) -> Access {
        let execute = Access { execute: true, ..Access::default() };
        Access { privileged: self.flag(), ..self.pick(&[Access::READ, Access::WRITE, execute]) }
    }

    fn class(&mut self) -> FaultClass {
        self.pick(&[FaultClass::ContextDescriptor, FaultClass::TableDescriptor, FaultClass::Input])
    }

    fn ipa(&mut self) -> Option<u64> {
        self.flag().then(|| self.page() & 0x00ff_ffff_ffff_ffff)
    }

    fn fault(&mut self) -> TranslationFault {
        let kind =
            self.pick(&[FaultKind::Translation, FaultKind::AddressSize, FaultKind::Access, FaultKind::Permission]);
        let class = self.class();
        let names_table_access = kind == FaultKind::Permission && class == FaultClass::TableDescriptor;
        TranslationFault {
            kind,
            stream: self.stream(),
            substream: self.maybe_substream(),
            stag: self.flag().then(|| Stag(self.next() as u16)),
            access: self.access(),
            class,
            ipa: self.ipa(),
            table_write: names_table_access && self.flag(),
            address: self.next(),
        }
    }

    fn event(&mut self) -> Event {
        let origin = Origin { stream: self.stream(), substream: self.maybe_substream() };
        let (reason, access, address) = (self.next() as u16, self.access(), self.next());
        let fetch = Fetch {
            reason: self.next() as u16,
            granule_protection: self.flag(),
            address: self.next() & 0x00ff_ffff_ffff_fff8,
        };
        match self.below(20) {
            0 => Event::Uut { origin, reason, access, address },
            1 => Event::BadStreamId { origin },
            2 => Event::SteFetch { origin, fetch },
            3 => Event::BadSte { origin },
            4 => Event::BadAtsTreq { origin, address: self.page() },
            5 => Event::StreamDisabled { stream: origin.stream },
            6 => Event::TranslForbidden { origin, write: self.flag(), address },
            7 => Event::BadSubstreamId { stream: origin.stream, substream: self.substream() },
            8 => Event::CdFetch { origin, fetch },
            9 => Event::BadCd { origin },
            10 => Event::WalkEabt { origin, access, class: self.class(), stage2: self.flag(), address, fetch },
            11 => Event::TlbConflict { origin, reason, access, address, ipa: self.ipa() },
            12 => Event::CfgConflict { origin, reason },
            13 => Event::PageRequest {
                origin,
                unprivileged: self.hint(false),
                privileged: self.hint(true),
                address: self.page(),
                span: self.next() as u8,
            },
            14 => Event::VmsFetch { origin, fetch },
            15 => Event::ImplementationDefined {
                words: [(self.next() & !0xff) | 0xe0 | self.below(16), self.next(), self.next(), self.next()],
            },
            _ => Event::Fault(self.fault()),
        }
    }

    fn hint(&mut self, privileged: bool) -> Access {
        Access { read: self.flag(), write: self.flag(), execute: self.flag(), privileged }
    }

    fn page_request(&mut self) -> PageRequest {
        let substream = self.maybe_substream();
        let any = self.flag();
        let access = self.hint(any);
        PageRequest {
            stream: self.stream(),
            substream,
            access: Access {
                execute: access.execute && substream.is_some(),
                privileged: access.privileged && substream.is_some(),
                ..access
            },
            last: self.flag(),
            group: PrgIndex::from_low_bits(self.next()),
            address: self.page(),
        }
    }
}

/// How many records decoded and how many were refused.
#[derive(Default)]
struct Outcomes {
    decoded: u32,
    refused: u32,
}

impl Outcomes {
    fn add<T, E>(&mut self, outcome: &Result<T, E>) {
        match outcome {
            Ok(_) => self.decoded += 1,
            Err(_) => self.refused += 1,
        }
    }

    /// Prints the counts and checks that both outcomes occurred.
    #[track_caller]
    fn report(&self, what: &str) {
        println!("{what}: {} decoded, {} refused", self.decoded, self.refused);
        assert!(self.decoded > 0 && self.refused > 0, "{what}: one of the outcomes never occurred");
    }
}

#[test]
fn every_valid_command_round_trips_and_any_other_is_refused_or_means_the_same_again() {
    let mut random = Random(1);
    let [mut wild, mut damaged] = [Outcomes::default(), Outcomes::default()];
    let check = |words, outcomes: &mut Outcomes| {
        let command = Command::decode(words);
        outcomes.add(&command);
        if let Ok(command) = command {
            assert_eq!(Command::decode(command.encode()), Ok(command), "{words:#x?}");
        }
    };
    for _ in 0..RECORDS / 2 {
        check(random.words(), &mut wild);
        let command = random.command();
        assert_eq!(Command::decode(command.encode()), Ok(command));
        check(random.flipped(command.encode()), &mut damaged);
    }
    wild.report("commands, random");
    damaged.report("commands, damaged");
}

#[test]
fn every_valid_event_round_trips_and_any_other_is_refused_or_means_the_same_again() {
    let mut random = Random(2);
    let [mut wild, mut damaged] = [Outcomes::default(), Outcomes::default()];
    let check = |words, outcomes: &mut Outcomes| {
        let event = Event::decode(words);
        outcomes.add(&event);
        if let Ok(event) = event {
            assert_eq!(Event::decode(event.encode()), Ok(event), "{words:#x?}");
            assert!(!event.name().is_empty());
        }
    };
    for _ in 0..RECORDS / 2 {
        check(random.words(), &mut wild);
        let event = random.event();
        assert_eq!(Event::decode(event.encode()), Ok(event));
        check(random.flipped(event.encode()), &mut damaged);
    }
    wild.report("events, random");
    damaged.report("events, damaged");
}

#[test]
fn every_page_request_round_trips_and_any_words_mean_the_same_again() {
    let mut random = Random(3);
    let (mut stop_markers, mut requests) = (0, 0);
    let mut check = |words| {
        let request = PageRequest::decode(words);
        assert_eq!(PageRequest::decode(request.encode()), request, "{words:#x?}");
        if request.is_stop_marker() { stop_markers += 1 } else { requests += 1 }
    };
    for _ in 0..RECORDS / 2 {
        check(random.words());
        let request = random.page_request();
        assert_eq!(PageRequest::decode(request.encode()), request);
        check(random.flipped(request.encode()));
    }
    println!("PRI records: {requests} requests, {stop_markers} stop markers");
    assert!(requests > 0 && stop_markers > 0);
}

/// An SMMU with stages, stall, ATS, PRI, substreams and tables of every kind.
fn features() -> Features {
    Features::decode(IdRegisters {
        idr0: 0x080d_169b,
        idr1: 0x014a_5510,
        idr3: 0x0420,
        idr5: 0x0040_0074,
        iidr: 0,
        aidr: 2,
    })
    .unwrap()
}

#[test]
fn any_stream_table_entry_is_refused_or_means_the_same_again() {
    // Each Config: abort, bypass, stage 1, stage 2, both.
    const VALID: [[u64; 8]; 5] = [
        [0x1, 0, 0, 0, 0, 0, 0, 0],
        [0x9, 0, 0, 0, 0, 0, 0, 0],
        [0x4000_0000_8123_400b, 0x1000_180c_00d6, 0, 0, 0, 0, 0, 0],
        [0xd, 0, 0x066c_3558_0000_0042, 0x9000_0000, 0, 0, 0, 0],
        [0x4000_0000_8123_400f, 0x2800_00d6, 0x046c_3558_0000_0042, 0x9000_0000, 0, 0, 0, 0],
    ];
    let features = features();
    let mut random = Random(4);
    let mut outcomes = Outcomes::default();
    let mut check = |words| {
        let ste = Ste::decode(words, &features);
        outcomes.add(&ste);
        if let Ok(ste) = ste {
            assert_eq!(Ste::decode(ste.encode(), &features), Ok(ste), "{words:#x?}");
        }
    };
    for _ in 0..STRUCTURES / 2 {
        check(random.words());
        let words = random.pick(&VALID);
        check(random.flipped(words));
    }
    outcomes.report("STEs");
}

#[test]
fn any_context_descriptor_is_refused_or_means_the_same_again() {
    const VALID: [[u64; 8]; 2] = [
        [0x1234_f204_c000_3519, 0x8800_0000, 0, 0xff44_0c04_00ff_44bb, 0, 0, 0, 0],
        [0x0007_4e8c_aad0_4000, 0, 0x0a00_0000_0000, 0, 0, 0, 0, 0],
    ];
    let stream = Stage1 {
        context: PhysAddr(0),
        cd_max: 0,
        format: ContextTableFormat::Linear,
        default_substream: DefaultSubstream::Terminate,
        attributes: TableAttributes::COHERENT,
        stall_disabled: false,
        world: StreamWorld::El1,
    };
    let features = features();
    let mut random = Random(5);
    let mut outcomes = Outcomes::default();
    let mut check = |words| {
        let context = ContextDescriptor::decode(words, &features, &stream);
        outcomes.add(&context);
        if let Ok(context) = context {
            assert_eq!(ContextDescriptor::decode(context.encode(), &features, &stream), Ok(context), "{words:#x?}");
        }
    };
    for _ in 0..STRUCTURES / 2 {
        check(random.words());
        let words = random.pick(&VALID);
        check(random.flipped(words));
    }
    outcomes.report("CDs");
}

#[test]
fn any_translation_table_entry_is_invalid_or_means_the_same_again() {
    let mut random = Random(6);
    let (mut invalid, mut mapped) = (0, 0);
    for _ in 0..STRUCTURES {
        let word = random.next();
        let level = random.pick(&[Level::Zero, Level::One, Level::Two, Level::Three]);
        let descriptor = Descriptor::decode(word, level);
        let again = match descriptor {
            Descriptor::Invalid => {
                invalid += 1;
                continue;
            }
            Descriptor::Table(table) => table.encode(),
            Descriptor::Leaf(page) => page.encode(level),
        };
        mapped += 1;
        assert_eq!(Descriptor::decode(again, level), descriptor, "{word:#x}");
    }
    println!("translation table entries: {mapped} mapped, {invalid} invalid");
    assert!(invalid > 0 && mapped > 0);
}

#[test]
fn any_id_registers_are_refused_or_give_sane_features() {
    let mut random = Random(7);
    let mut outcomes = Outcomes::default();
    for set in 0..ID_SETS {
        let mut word = || random.next() as u32;
        let mut ids =
            IdRegisters { idr0: word(), idr1: word(), idr3: word(), idr5: word(), iidr: word(), aidr: word() };
        if set % 2 == 1 {
            // An SMMU that there could be, with one to three bits flipped.
            let [idr0, idr1, idr3, idr5] =
                random.flipped([0x080d_169b, 0x014a_5510, 0x0420, 0x0040_0074]).map(|word| word as u32);
            ids = IdRegisters { idr0, idr1, idr3, idr5, ..ids };
        }
        let features = Features::decode(ids);
        outcomes.add(&features);
        match features {
            Ok(features) => {
                assert!(features.stage1 || features.stage2, "{ids:x?}");
                assert!(features.sid_bits <= 32 && features.ssid_bits <= 20, "{ids:x?}");
                assert!(features.command_queue.log2() <= 19 && features.event_queue.log2() <= 19, "{ids:x?}");
                assert_eq!(features.pri, features.pri_queue.is_some(), "{ids:x?}");
                assert!(!features.pri || features.ats, "{ids:x?}");
                assert!(features.can_stall() || features.stall_max == 0, "{ids:x?}");
                assert!((32..=56).contains(&features.oas.bits()), "{ids:x?}");
                assert!(features.granule_4k || features.granule_16k || features.granule_64k, "{ids:x?}");
                assert!(features.to_string().starts_with("SMMUv3."), "{ids:x?}");
            }
            Err(error) => assert!(error.to_string().contains("IDR"), "{ids:x?}"),
        }
    }
    outcomes.report("ID register sets");
}
