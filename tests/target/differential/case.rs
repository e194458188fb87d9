//! A case: an STE, a CD, translation tables and an access, as values of independent settings.
//!
//! Every setting has usual values, of which any combination is meant to be valid (the first one is the plainest), and unusual
//! ones. A case has usual values in most settings and unusual ones in few.

use alloc::vec::Vec;
use core::ops::Range;

/// Declares [`Setting`] from one table: name, usual values, unusual values.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: [$($usual:expr),+], [$($unusual:expr),*];)+) => {
        /// What is chosen for a case.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Setting {
            $($(#[$doc])* $name,)+
        }

        impl Setting {
            pub(super) const ALL: &[Self] = &[$(Self::$name,)+];

            const fn usual(self) -> &'static [u64] {
                match self { $(Self::$name => &[$($usual),+],)+ }
            }

            const fn unusual(self) -> &'static [u64] {
                match self { $(Self::$name => &[$($unusual),*],)+ }
            }
        }
    };
}

/// Bits that make an address larger than 32, 36, 40, 42, 44 and 48 bits, where there is neither memory nor a device; and what
/// needs no more than 44 bits, the SMMU's own limit.
const HIGH: [u64; 6] = [1 << 32, 1 << 36, 1 << 40, 1 << 42, 1 << 44, 1 << 47];

/// A raw field is as the other settings have it.
const FITTING: u64 = 99;

settings! {
    // STE (5.2).
    SteV: [1], [0];
    Config: [5], [0, 1, 2, 3, 4, 5, 6, 7];
    S1Fmt: [0], [1, 2, 3];
    S1CdMax: [0], [1, 7, 20, 31];
    S1Dss: [0], [1, 2, 3];
    S1Attributes: [0xfc >> 2, 0, 0x15], [0x3f];
    S1StallD: [0], [1];
    Eats: [0], [1, 2, 3];
    Strw: [0], [1, 2, 3];
    ShCfg: [1], [0, 2, 3];
    /// Added to S1ContextPtr.
    ContextHigh: [0], [HIGH[1], HIGH[2], HIGH[4], HIGH[5]];
    S2Vmid: [1, 0, 0xff], [0x100, 0xffff];
    S2T0Sz: [24, 20, 25, 28, 31, 30], [0, 12, 15, 19, 16, 32, 39, 40, 48, 63];
    /// 0: as many tables side by side as can be, 1: a single one.
    S2Start: [0, 1], [];
    S2Sl0: [FITTING], [0, 1, 2, 3];
    /// 0: 4 KiB, 1: 64 KiB, 2: 16 KiB.
    S2Granule: [0, 1, 2], [3];
    S2Ps: [4, 5, 3, 2], [0, 1, 6, 7];
    S2Endi: [0], [1];
    S2Affd: [0, 1], [];
    S2Ptw: [0, 1], [];
    S2HaHd: [0], [1, 2, 3];
    S2StallRecord: [2, 0], [1, 3];
    /// Added to S2TTB.
    S2TtbHigh: [0], [HIGH[1], HIGH[2], HIGH[4], HIGH[5], 1 << 50, 0x10, 0x40, 0x800];
    // CD (5.4).
    CdV: [1], [0];
    TSz: [25, 16, 28, 32, 39, 22, 17, 20, 33, 34], [];
    T0Sz: [FITTING], [0, 12, 15, 40, 63];
    T1Sz: [FITTING], [0, 12, 15, 40, 63];
    /// As S2Granule.
    Granule: [0, 1, 2], [];
    Tg0: [FITTING], [3];
    Tg1: [FITTING], [0];
    Epd0: [0], [1];
    Epd1: [0], [1];
    Endi: [0], [1];
    Ips: [4, 5, 3, 2], [0, 1, 6, 7];
    Affd: [0, 1], [];
    Wxn: [0, 1], [];
    Tbi: [0, 3], [1, 2];
    Pan: [0], [1];
    Aa64: [1], [0];
    HaHd: [0], [1, 2, 3];
    Stall: [0], [1];
    Record: [1], [0];
    Abort: [1], [0];
    Aset: [0, 1], [];
    Asid: [1, 0, 0xffff], [];
    /// Added to both TTBs.
    TtbHigh: [0], [HIGH[0], HIGH[1], HIGH[2], HIGH[3], HIGH[4], HIGH[5], 1 << 50, 0x10, 0x20, 0x40, 0x800];
    Had: [0, 3], [1, 2];
    Mair: [0xff, 0x0000_0000_4400_ffff], [];
    // Stage 1 tables.
    /// How many levels above the last one the leaf is.
    LeafUp: [0, 0, 0, 1], [2, 3];
    /// 0: the one of its level, 1 to 3: bits 1:0 are 0b00, 0b10, the other of 0b01 and 0b11.
    LeafType: [0], [1, 2, 3];
    LeafAttributes: [0, 1, 7], [];
    LeafNs: [0, 1], [];
    LeafAp: [1], [0, 2, 3];
    LeafSh: [3, 0, 2], [1];
    LeafAf: [1], [0];
    LeafNg: [0, 1], [];
    LeafDbm: [0], [1];
    LeafContiguous: [0, 1], [];
    LeafXn: [0, 1, 2, 3], [];
    /// Bits 62:55.
    LeafSoftware: [0, 0xf], [0xf0, 0xff];
    LeafHigh: [0], [HIGH[0], HIGH[1], HIGH[2], HIGH[3], HIGH[4], HIGH[5]];
    /// For a page: which other 64 KiB it maps to.
    LeafOther: [0, 1, 7, 15], [];
    /// As LeafType, of one of the tables.
    TableType: [0], [1, 2, 3];
    /// How many tables come before that one.
    TableWhich: [0, 1, 2], [];
    TableHigh: [0], [HIGH[0], HIGH[1], HIGH[2], HIGH[3], HIGH[4], HIGH[5]];
    TableAp: [0], [1, 2, 3];
    TableXn: [0, 3], [];
    TableNs: [0, 1], [];
    /// Bits 58:51 and 11:2, which are ignored.
    TableIgnored: [0, 1], [];
    // Stage 2 tables.
    IpaHigh: [0, 1 << 32], [1 << 33, 1 << 36, 1 << 40, 1 << 44, 1 << 47];
    /// Which page has the following at stage 2. 0: that of the access, 1: the CD, 2: the last stage 1 table.
    Victim: [0, 1, 2], [];
    S2LeafUp: [0, 0, 1], [2, 3];
    S2LeafType: [0], [1, 2, 3];
    S2Ap: [3], [0, 1, 2];
    S2MemAttr: [15, 5], [0, 1, 2, 4];
    S2Xn: [0, 1, 2, 3], [];
    S2Af: [1], [0];
    S2Dbm: [0], [1];
    S2Contiguous: [0, 1], [];
    S2LeafHigh: [0], [HIGH[0], HIGH[1], HIGH[2], HIGH[3], HIGH[4], HIGH[5]];
    S2TableType: [0], [1, 2, 3];
    S2TableHigh: [0], [HIGH[0], HIGH[1], HIGH[2], HIGH[3], HIGH[4], HIGH[5]];
    // The access.
    /// A read: slow at QEMU's device.
    Read: [0], [1];
    /// Which 4 KiB of the window.
    Page: [0, 1, 15, 16, 100, 255], [];
    Offset: [0, 4, 0x7fc, 0xffc], [];
    /// Which half of the address space.
    Half: [0, 1], [];
    /// Bits of the address from 30 up, within its half. 0: as the window has them, 1: zeros, 2: ones, 3: every other one.
    Upper: [0, 1, 2, 3], [];
    /// What leaves the half. 1: the first bit above, 2: some of the top byte, 3: bit 55, 4: bit 63, 5: bit 48.
    Outside: [0], [1, 2, 3, 4, 5];
}

/// The memory of the cases: everything that a translation may reach begins here.
pub(super) mod arena {
    /// Its size and alignment in bytes.
    pub(in super::super) const SIZE: u64 = 4 << 20;
    /// What is mapped.
    pub(in super::super) const WINDOW: u64 = 0;
    /// Its size in bytes.
    pub(in super::super) const WINDOW_SIZE: u64 = 1 << 20;
    /// The stage 2 tables side by side that a walk begins with.
    pub(in super::super) const STAGE2: u64 = 1 << 20;
    /// The CD, then the stage 1 tables, then further stage 2 tables, each in a slot.
    pub(in super::super) const SLOTS: u64 = 2 << 20;
    pub(in super::super) const SLOT: u64 = 1 << 16;
    pub(in super::super) const CD: u64 = SLOTS;
    pub(super) const STAGE1: u64 = SLOTS + SLOT;
    pub(in super::super) const STAGE2_MORE: u64 = STAGE1 + 4 * SLOT;
}

/// A case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Case([u64; Setting::ALL.len()]);

/// A xorshift generator.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % limit
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

impl Case {
    /// A random case, with stage 2 if `stage2`.
    pub(super) fn random(random: &mut Random, stage2: bool) -> Self {
        let mut case = Self(core::array::from_fn(|index| random.one_of(Setting::ALL[index].usual())));
        // QEMU 7.2 hides addresses of more than 48 bits from its SMMU.
        if !stage2 {
            case.set(Setting::Half, 0);
        }
        let configs: &[u64] = if stage2 { &[4, 5, 5, 5, 6, 6, 7, 7, 7, 7] } else { &[5] };
        case.set(Setting::Config, random.one_of(configs));
        for _ in 0..random.one_of(&[0, 1, 1, 1, 2, 3]) {
            let setting = random.one_of(Setting::ALL);
            if setting.unusual().is_empty() {
                continue;
            }
            let value = random.one_of(setting.unusual());
            // QEMU 10.0 and later would end itself.
            let kills = stage2 && matches!(setting, Setting::Ips | Setting::S2Ps) && value > 5;
            let unreachable = !stage2 && setting == Setting::Outside && (value > 1 || case.get(Setting::TSz) == 16);
            if !kills && !unreachable {
                case.set(setting, value);
            }
        }
        case
    }

    pub(super) fn get(&self, setting: Setting) -> u64 {
        self.0[setting as usize]
    }

    fn set(&mut self, setting: Setting, value: u64) {
        self.0[setting as usize] = value;
    }

    /// The settings that are not the plainest.
    pub(super) fn odd(&self) -> impl Iterator<Item = (Setting, u64)> {
        Setting::ALL.iter().map(|&setting| (setting, self.get(setting))).filter(|(setting, v)| *v != setting.usual()[0])
    }

    /// The case with ever more settings made plain, as long as `fails` holds.
    pub(super) fn shrink(mut self, mut fails: impl FnMut(&Self) -> bool) -> Self {
        for &setting in Setting::ALL {
            let mut simpler = self;
            simpler.set(setting, setting.usual()[0]);
            if simpler != self && fails(&simpler) {
                self = simpler;
            }
        }
        self
    }

    pub(super) fn has_stage1(&self) -> bool {
        self.get(Setting::Config) & 5 == 5
    }

    pub(super) fn has_stage2(&self) -> bool {
        self.get(Setting::Config) & 6 == 6
    }

    /// The words of everything, with the arena at `arena`.
    pub(super) fn build(&self, arena: u64) -> Built {
        use Setting as S;
        let get = |setting| self.get(setting);
        let high = if self.has_stage2() { get(S::IpaHigh) } else { 0 };
        // What stage 2 maps: everything that something else points at.
        let intermediate = |physical: u64| physical | high;
        let page = arena + arena::WINDOW + (get(S::Page) << 12);

        let walk = Walk::new(get(S::Granule), get(S::TSz), false);
        let (address, leaf) = if self.has_stage1() {
            let address = self.address(page | get(S::Offset), walk.bits);
            let leaf = walk.leaf(get(S::LeafUp));
            // A block leads to where its addresses end as those in the window do.
            let other = if walk.shift(leaf) <= 16 { get(S::LeafOther) << 16 } else { 0 };
            (address, Some((leaf, page ^ other)))
        } else {
            let bits = 64 - get(S::S2T0Sz).max(1) as u32;
            (intermediate(page | get(S::Offset)) ^ self.outside(bits), None)
        };

        let ste = self.ste(intermediate(arena + arena::CD), arena + arena::STAGE2);
        let walk2 = Walk::new(get(S::S2Granule), get(S::S2T0Sz).max(1), get(S::S2Start) == 0);
        let mut built = Built {
            ste,
            words: Vec::new(),
            stage1: 8..8,
            walk1: walk,
            walk2,
            address,
            read: get(S::Read) != 0,
            beyond: 0,
        };
        let target = leaf.map_or(page, |(_, page)| page);
        let cd = self.cd(intermediate(arena + arena::STAGE1));
        built.words.extend(cd.iter().zip(0..).map(|(word, index)| (arena + arena::CD + 8 * index, *word)));

        let mut entries = Vec::new();
        if let Some((leaf, target)) = leaf {
            for level in walk.start..=leaf {
                let table = arena + arena::STAGE1 + u64::from(level - walk.start) * arena::SLOT;
                let at = table + walk.index(level, address) * 8;
                let word = if level == leaf {
                    self.leaf(&walk, level, intermediate(target))
                } else {
                    self.table(u64::from(level - walk.start), intermediate(table + arena::SLOT))
                };
                built.words.push((at, word));
                entries.push(at);
            }
        }
        built.stage1 = 8..built.words.len();
        if self.has_stage2() {
            let mut tables = Stage2 { case: self, walk: walk2, arena, tables: Vec::new() };
            let last_entry = entries.last().copied().unwrap_or(target);
            let victim = [target, arena + arena::CD, last_entry][get(S::Victim) as usize];
            // Whole tables, since QEMU translates where a table begins and not where the descriptor is.
            let whole = |entry: u64| (0..16).map(move |page| (entry & !(arena::SLOT - 1)) + (page << 12));
            for page in entries.into_iter().flat_map(whole).chain([target, arena + arena::CD]) {
                tables.map(&mut built.words, intermediate(page), page, false);
            }
            // Last: where two share an entry, the victim has the say.
            let victims = if get(S::Victim) == 2 { 16 } else { 1 };
            let first = if victims > 1 { victim & !(arena::SLOT - 1) } else { victim };
            for page in 0..victims {
                tables.map(&mut built.words, intermediate(first + (page << 12)), first + (page << 12), true);
            }
        }
        built
    }

    /// An address of `bits` bits that ends as `physical` does.
    fn address(&self, physical: u64, bits: u32) -> u64 {
        let inside = (1 << bits) - 1;
        let low = (1 << 30) - 1;
        let upper = [physical & !low, 0, !low, 0x5555_5555_5555_5555 & !low][self.get(Setting::Upper) as usize];
        let address = (physical & low | upper) & inside;
        let half = if self.get(Setting::Half) == 1 { !inside } else { 0 };
        (address | half) ^ self.outside(bits)
    }

    /// What takes an address out of its `bits` bits.
    fn outside(&self, bits: u32) -> u64 {
        [0, 1 << bits, 0x5a << 56, 1 << 55, 1 << 63, 1 << 48][self.get(Setting::Outside) as usize]
    }

    fn ste(&self, context: u64, stage2: u64) -> [u64; 8] {
        use Setting as S;
        let get = |setting| self.get(setting);
        let first = get(S::SteV)
            | get(S::Config) << 1
            | get(S::S1Fmt) << 4
            | context
            | get(S::ContextHigh)
            | get(S::S1CdMax) << 59;
        let second = get(S::S1Dss)
            | get(S::S1Attributes) << 2
            | get(S::S1StallD) << 27
            | get(S::Eats) << 28
            | get(S::Strw) << 30
            | get(S::ShCfg) << 44;
        let walk = Walk::new(get(S::S2Granule), get(S::S2T0Sz).max(1), get(S::S2Start) == 0);
        let fitting =
            if get(S::S2Granule) == 0 { 2_u64.wrapping_sub(walk.start.into()) } else { 3 - u64::from(walk.start) };
        let sl0 = if get(S::S2Sl0) == FITTING { fitting & 3 } else { get(S::S2Sl0) };
        let third = get(S::S2Vmid)
            | get(S::S2T0Sz) << 32
            | sl0 << 38
            | 0b11_01_01 << 40
            | get(S::S2Granule) << 46
            | get(S::S2Ps) << 48
            | 1 << 51
            | get(S::S2Endi) << 52
            | get(S::S2Affd) << 53
            | get(S::S2Ptw) << 54
            | get(S::S2HaHd) << 55
            | get(S::S2StallRecord) << 57;
        let fourth = stage2 | get(S::S2TtbHigh);
        [first, second, third, fourth, 0, 0, 0, 0]
    }

    fn cd(&self, table: u64) -> [u64; 8] {
        use Setting as S;
        let get = |setting| self.get(setting);
        let fitting = |setting, value| if get(setting) == FITTING { value } else { get(setting) };
        let first = fitting(S::T0Sz, get(S::TSz))
            | fitting(S::Tg0, get(S::Granule)) << 6
            | 0b11_01_01 << 8
            | get(S::Epd0) << 14
            | get(S::Endi) << 15
            | fitting(S::T1Sz, get(S::TSz)) << 16
            | fitting(S::Tg1, [2, 3, 1][get(S::Granule) as usize]) << 22
            | 0b11_01_01 << 24
            | get(S::Epd1) << 30
            | get(S::CdV) << 31
            | get(S::Ips) << 32
            | get(S::Affd) << 35
            | get(S::Wxn) << 36
            | get(S::Tbi) << 38
            | get(S::Pan) << 40
            | get(S::Aa64) << 41
            | get(S::HaHd) << 42
            | get(S::Stall) << 44
            | get(S::Record) << 45
            | get(S::Abort) << 46
            | get(S::Aset) << 47
            | get(S::Asid) << 48;
        let table = table | get(S::TtbHigh);
        let had = get(S::Had);
        [first, table | (had & 1) << 1, table | (had >> 1) << 1, get(S::Mair), 0, 0, 0, 0]
    }

    fn leaf(&self, walk: &Walk, level: u8, output: u64) -> u64 {
        use Setting as S;
        let get = |setting| self.get(setting);
        kind(level < 3, get(S::LeafType))
            | get(S::LeafAttributes) << 2
            | get(S::LeafNs) << 5
            | get(S::LeafAp) << 6
            | get(S::LeafSh) << 8
            | get(S::LeafAf) << 10
            | get(S::LeafNg) << 11
            | output & !self.below(walk, level, S::LeafType)
            | get(S::LeafHigh)
            | get(S::LeafDbm) << 51
            | get(S::LeafContiguous) << 52
            | get(S::LeafXn) << 53
            | get(S::LeafSoftware) << 55
    }

    /// The bits of an address that a leaf of `level` does not hold. If its type makes it a table, it leads into the window
    /// still: elsewhere QEMU's SMMU finds flash to read, the model nothing.
    fn below(&self, walk: &Walk, level: u8, kind: Setting) -> u64 {
        let shift = if level < 3 && self.get(kind) == 3 { 16 } else { walk.shift(level) };
        (1 << shift) - 1
    }

    fn table(&self, which: u64, next: u64) -> u64 {
        use Setting as S;
        let get = |setting| if which == self.get(S::TableWhich) { self.get(setting) } else { 0 };
        kind(false, get(S::TableType))
            | next
            | get(S::TableHigh)
            | get(S::TableXn) << 59
            | get(S::TableAp) << 61
            | get(S::TableNs) << 63
            | (get(S::TableIgnored) * (0xff << 51 | 0x3ff << 2))
    }
}

/// Bits 1:0 of a block, or of a page or table, unless they are `unusual`.
fn kind(block: bool, unusual: u64) -> u64 {
    let right = if block { 0b01 } else { 0b11 };
    [right, 0b00, 0b10, right ^ 0b10][unusual as usize]
}

/// How tables are walked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Walk {
    page: u32,
    bits: u32,
    pub(super) start: u8,
}

impl Walk {
    /// With the granule 4 KiB (0), 64 KiB (1) or 16 KiB (2), and 64 - `tsz` bits of input. If `joined`, up to 16 tables side by
    /// side are at the first level.
    fn new(granule: u64, tsz: u64, joined: bool) -> Self {
        let page = [12, 16, 14, 12][granule as usize];
        let bits = 64 - tsz as u32;
        let stride = page - 3;
        let levels = (bits.saturating_sub(page)).div_ceil(stride).clamp(1, 4);
        let mut start = 4 - levels as u8;
        if joined && start < 3 && bits - (page + stride * (levels - 1)) <= 4 {
            start += 1;
        }
        Self { page, bits, start }
    }

    /// log2 of what an entry of `level` maps.
    pub(super) fn shift(&self, level: u8) -> u32 {
        self.page + (self.page - 3) * u32::from(3 - level)
    }

    /// Whether blocks of `level` exist, with 48-bit addresses.
    pub(super) fn has_block(&self, level: u8) -> bool {
        level == 2 || level == 1 && self.page == 12
    }

    /// The entries of a table.
    pub(super) fn entries(&self) -> u64 {
        1 << (self.page - 3)
    }

    /// The level `up` levels above the last one, or the first level.
    pub(super) fn leaf(&self, up: u64) -> u8 {
        (3 - up as u8).max(self.start)
    }

    fn index(&self, level: u8, address: u64) -> u64 {
        let inside = address & (u64::MAX >> (64 - self.bits));
        let index = inside >> self.shift(level);
        if level == self.start { index } else { index & ((1 << (self.page - 3)) - 1) }
    }
}

/// Stage 2 tables while they are made.
struct Stage2<'a> {
    case: &'a Case,
    walk: Walk,
    arena: u64,
    /// Of which level, for which addresses.
    tables: Vec<(u8, u64)>,
}

impl Stage2<'_> {
    fn map(&mut self, words: &mut Vec<(u64, u64)>, ipa: u64, physical: u64, victim: bool) {
        use Setting as S;
        let get = |setting: Setting| if victim { self.case.get(setting) } else { setting.usual()[0] };
        let leaf = self.walk.leaf(self.case.get(S::S2LeafUp));
        let mut table = self.arena + arena::STAGE2;
        for level in self.walk.start..=leaf {
            let index = self.walk.index(level, ipa);
            let at = table + index * 8;
            // The first level may be far larger than what is kept for it, when there is no such first level.
            if at >= self.arena + arena::SLOTS && level == self.walk.start {
                return;
            }
            let word = if level == leaf {
                kind(level < 3, get(S::S2LeafType))
                    | get(S::S2MemAttr) << 2
                    | get(S::S2Ap) << 6
                    | 3 << 8
                    | get(S::S2Af) << 10
                    | physical & !self.case.below(&self.walk, level, S::S2LeafType)
                    | get(S::S2LeafHigh)
                    | get(S::S2Dbm) << 51
                    | get(S::S2Contiguous) << 52
                    | get(S::S2Xn) << 53
            } else {
                let key = (level, ipa >> self.walk.shift(level));
                let slot = self.tables.iter().position(|known| *known == key).unwrap_or_else(|| {
                    self.tables.push(key);
                    self.tables.len() - 1
                });
                table = self.arena + arena::STAGE2_MORE + slot as u64 * arena::SLOT;
                kind(false, get(S::S2TableType)) | table | get(S::S2TableHigh)
            };
            match words.iter_mut().find(|(known, _)| *known == at) {
                Some((_, known)) if victim => *known = word,
                Some(_) => {}
                None => words.push((at, word)),
            }
        }
    }
}

/// A case in memory.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Built {
    pub(super) ste: [u64; 8],
    /// Where in the arena, and what: the CD, the descriptors of stage 1 in the order of the walk, those of stage 2.
    pub(super) words: Vec<(u64, u64)>,
    /// Of `words`, the descriptors of stage 1; the first of them is of `start`.
    pub(super) stage1: Range<usize>,
    pub(super) walk1: Walk,
    pub(super) walk2: Walk,
    /// What is accessed.
    pub(super) address: u64,
    /// It is read, not written.
    pub(super) read: bool,
    /// What an address in a table that is beyond everything lost when it was altered.
    pub(super) beyond: u64,
}
