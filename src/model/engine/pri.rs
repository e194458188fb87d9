//! Page request groups: what is outstanding, what an answer does, when requests may be sent.

use super::registers::{MAX_DEPTH, MAX_PAGE_REQUESTS, hostile, pri_control, pri_status};
use crate::model::endpoint::GroupResponse;
use crate::smmuv3::page_request::PageRequest;
use crate::smmuv3::{Access, PageResponse, PrgIndex, StreamId, SubstreamId};

/// The most groups outstanding.
const GROUPS: usize = MAX_DEPTH;

/// An outstanding group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// The PASID that its requests carry.
    pub(super) substream: Option<SubstreamId>,
    /// The first page asked for.
    first: u64,
    /// Which of the 32 pages from `first` on are asked for.
    pages: u32,
    index: PrgIndex,
}

impl Group {
    pub(super) fn new(substream: Option<SubstreamId>, first: u64) -> Self {
        Self { substream, first, pages: 1, index: PrgIndex::from_low_bits(0) }
    }

    /// Adds page number `number` from the first one on.
    pub(super) fn add(&mut self, number: u32) {
        self.pages |= 1u32.checked_shl(number).unwrap_or(0);
    }

    /// How many pages it asks for.
    pub(super) fn len(&self) -> u32 {
        self.pages.count_ones()
    }

    /// Whether it asks for `page`.
    fn asks_for(&self, page: u64) -> bool {
        let number = page.wrapping_sub(self.first) >> 12;
        number < 32 && self.pages >> number & 1 != 0
    }

    /// Its pages, ascending.
    pub(super) fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        let Self { first, pages, .. } = *self;
        (0..32).filter(move |number| pages >> number & 1 != 0).map(move |number| first.wrapping_add(number << 12))
    }
}

/// The state of page requests.
#[derive(Debug)]
pub(super) struct PageRequests {
    enabled: bool,
    failed: bool,
    unexpected: bool,
    pasid_stopped: bool,
    allocation: u32,
    groups: [Option<Group>; GROUPS],
    /// The index that is next in turn: one is used again when all others were.
    next: u16,
    /// Indices of single requests that a storm has outstanding, one bit each.
    storm: [u64; PrgIndex::COUNT as usize / 64],
    /// A Stop marker waits to be sent.
    stop_marker: Option<SubstreamId>,
    /// A PASID that ends when nothing of it is outstanding.
    stopping: Option<SubstreamId>,
    /// It ends without a Stop marker.
    silent: bool,
}

impl PageRequests {
    pub(super) const fn new() -> Self {
        Self {
            enabled: false,
            failed: false,
            unexpected: false,
            pasid_stopped: false,
            allocation: 0,
            groups: [None; GROUPS],
            next: 0,
            storm: [0; PrgIndex::COUNT as usize / 64],
            stop_marker: None,
            stopping: None,
            silent: false,
        }
    }

    pub(super) fn control(&self) -> u32 {
        if self.enabled { pri_control::ENABLE } else { 0 }
    }

    pub(super) fn set_control(&mut self, value: u32, pasid: SubstreamId) {
        if value & pri_control::RESET != 0 && !self.enabled {
            self.groups = [None; GROUPS];
            self.storm.fill(0);
            self.failed = false;
        }
        if value & pri_control::SEND_STOP_MARKER != 0 {
            self.stop_marker = Some(pasid);
        }
        if value & pri_control::STOP_PASID != 0 {
            self.stopping = Some(pasid);
            self.silent = value & pri_control::NO_STOP_MARKER != 0;
        }
        let may_enable = self.enabled || self.stopped() && !self.failed;
        self.enabled = value & pri_control::ENABLE != 0 && may_enable;
    }

    fn stopped(&self) -> bool {
        !self.enabled && self.groups.iter().all(Option::is_none) && self.storm == [0; 8]
    }

    /// PRI_STATUS under these hostile modes.
    pub(super) fn status(&self, modes: u32) -> u32 {
        let mut value = 0;
        if self.failed {
            value |= pri_status::RESPONSE_FAILURE;
        }
        if self.unexpected {
            value |= pri_status::UNEXPECTED_GROUP;
        }
        if self.pasid_stopped {
            value |= pri_status::PASID_STOPPED;
        }
        if self.stopped() && modes & hostile::NEVER_STOPPED == 0 {
            value |= pri_status::STOPPED;
        }
        value
    }

    pub(super) fn clear_status(&mut self, value: u32) {
        if value & pri_status::RESPONSE_FAILURE != 0 && !self.enabled {
            self.failed = false;
        }
        self.unexpected &= value & pri_status::UNEXPECTED_GROUP == 0;
        self.pasid_stopped &= value & pri_status::PASID_STOPPED == 0;
    }

    pub(super) fn allocation(&self) -> u32 {
        self.allocation
    }

    pub(super) fn set_allocation(&mut self, value: u32) {
        self.allocation = value.min(MAX_PAGE_REQUESTS);
    }

    /// Enabled, and no group was answered with failure.
    pub(super) fn enabled(&self) -> bool {
        self.enabled
    }

    /// A group was answered with failure.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// How many page requests the allocation still permits.
    pub(super) fn credits(&self) -> u32 {
        let storm: u32 = self.storm.iter().map(|word| word.count_ones()).sum();
        let groups: u32 = self.groups.iter().flatten().map(Group::len).sum();
        self.allocation.saturating_sub(groups + storm)
    }

    /// The outstanding group that asked for `page`, for reading or more.
    pub(super) fn asked_for(&self, substream: Option<SubstreamId>, page: u64) -> Option<PrgIndex> {
        let asks = |group: &&Group| group.substream == substream && group.asks_for(page);
        Some(self.groups.iter().flatten().find(asks)?.index)
    }

    /// Makes `group` outstanding and gives it the index that is next in turn, or with `reuse` one that is outstanding, if
    /// any is. `None` when there is no room.
    pub(super) fn open(&mut self, mut group: Group, reuse: bool) -> Option<PrgIndex> {
        let outstanding = self.groups.iter().flatten().next().map(|group| group.index);
        let place = self.groups.iter().position(Option::is_none)?;
        group.index = match outstanding {
            Some(index) if reuse => index,
            _ => self.next_index()?,
        };
        *self.groups.get_mut(place)? = Some(group);
        Some(group.index)
    }

    /// Makes a single request of a storm outstanding.
    pub(super) fn open_single(&mut self) -> Option<PrgIndex> {
        let index = self.next_index()?;
        *self.storm.get_mut(usize::from(index.get() / 64))? |= 1 << (index.get() % 64);
        Some(index)
    }

    /// The next index in turn that is not outstanding. Groups and a storm never have all of them, since a group's index
    /// is tried before it is a storm's.
    fn next_index(&mut self) -> Option<PrgIndex> {
        for _ in 0..=GROUPS {
            let index = PrgIndex::from_low_bits(self.next.into());
            self.next = (self.next + 1) % PrgIndex::COUNT;
            if !self.is_open(index) {
                return Some(index);
            }
        }
        None
    }

    /// Whether `index` is outstanding.
    pub(super) fn is_open(&self, index: PrgIndex) -> bool {
        let word = self.storm.get(usize::from(index.get() / 64)).copied().unwrap_or(0);
        word >> (index.get() % 64) & 1 != 0 || self.groups.iter().flatten().any(|group| group.index == index)
    }

    /// Ends the group that `response` answers and returns its index, or `None` if it answers none. `needs_pasid`: the
    /// answer must carry the PASID of the requests, else none ("PRG Response PASID Required").
    pub(super) fn answer(&mut self, response: &GroupResponse, needs_pasid: bool) -> Option<PrgIndex> {
        let index = response.group;
        let failure = response.response == PageResponse::Failure;
        let answered = |group: &Group| {
            let expected = group.substream.filter(|_| needs_pasid);
            // Automatic failures carry no PASID (8.2).
            group.index == index && (response.substream == expected || failure && response.substream.is_none())
        };
        let single =
            self.storm.get_mut(usize::from(index.get() / 64)).filter(|word| **word >> (index.get() % 64) & 1 != 0);
        if let Some(slot) = self.groups.iter_mut().find(|slot| slot.as_ref().is_some_and(answered)) {
            *slot = None;
        } else if let Some(word) = single {
            *word &= !(1 << (index.get() % 64));
        } else {
            self.unexpected = true;
            return None;
        }
        if failure {
            self.failed = true;
            self.enabled = false;
        }
        Some(index)
    }

    /// The Stop marker to send now, `busy` being the PASID that a job uses.
    pub(super) fn take_stop_marker(&mut self, busy: Option<SubstreamId>) -> Option<SubstreamId> {
        if self.stop_marker.is_some() {
            return self.stop_marker.take();
        }
        let outstanding = |pasid| self.groups.iter().flatten().any(|group| group.substream == Some(pasid));
        let ended = self.stopping.filter(|&pasid| busy != Some(pasid) && !outstanding(pasid))?;
        self.stopping = None;
        self.pasid_stopped = true;
        Some(ended).filter(|_| !self.silent)
    }

    /// Nothing waits to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.stop_marker.is_none() && self.stopping.is_none()
    }

    /// Whether requests with `pasid` have to end.
    pub(super) fn is_stopping(&self, pasid: Option<SubstreamId>) -> bool {
        pasid.is_some() && self.stopping == pasid
    }
}

/// The Stop marker for `substream` (8): Last without read or write.
pub(super) fn stop_marker(stream: StreamId, substream: SubstreamId) -> PageRequest {
    PageRequest {
        stream,
        substream: Some(substream),
        access: Access::default(),
        last: true,
        group: PrgIndex::from_low_bits(0),
        address: 0,
    }
}
