//! Page request groups of one engine and their answers, with the rules of a PCIe function.

use super::registers::{MAX_DEPTH, MAX_GROUP_SIZE, MAX_PAGE_REQUESTS, pri_control, pri_status};
use crate::model::endpoint::GroupResponse;
use crate::smmuv3::page_request::PageRequest;
use crate::smmuv3::{Access, PageResponse, PrgIndex, StreamId, SubstreamId};

/// The most groups outstanding.
const GROUPS: usize = MAX_DEPTH;

/// An outstanding group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) substream: Option<SubstreamId>,
    /// The pages asked for, the first `count` of these.
    pages: [u64; MAX_GROUP_SIZE],
    count: usize,
}

impl Group {
    pub(super) fn new(substream: Option<SubstreamId>) -> Self {
        Self { substream, pages: [0; MAX_GROUP_SIZE], count: 0 }
    }

    /// Adds a page. More than [`MAX_GROUP_SIZE`] do not fit and are left out.
    pub(super) fn add(&mut self, page: u64) {
        if let Some(slot) = self.pages.get_mut(self.count) {
            *slot = page;
            self.count += 1;
        }
    }

    pub(super) fn pages(&self) -> &[u64] {
        self.pages.get(..self.count).unwrap_or(&[])
    }
}

/// The state of page requests.
#[derive(Debug)]
pub(super) struct PageRequests {
    enabled: bool,
    failed: bool,
    unexpected: bool,
    allocation: u32,
    /// Outstanding groups; the place of one is its index on the wire, so indices are used again at once.
    groups: [Option<Group>; GROUPS],
    /// A Stop marker waits to be sent.
    stop_marker: Option<SubstreamId>,
}

impl PageRequests {
    pub(super) const fn new() -> Self {
        Self {
            enabled: false,
            failed: false,
            unexpected: false,
            allocation: 0,
            groups: [None; GROUPS],
            stop_marker: None,
        }
    }

    pub(super) fn control(&self) -> u32 {
        if self.enabled { pri_control::ENABLE } else { 0 }
    }

    pub(super) fn set_control(&mut self, value: u32, pasid: SubstreamId) {
        if value & pri_control::RESET != 0 && !self.enabled {
            self.groups = [None; GROUPS];
            self.failed = false;
        }
        if value & pri_control::SEND_STOP_MARKER != 0 {
            self.stop_marker = Some(pasid);
        }
        let may_enable = self.enabled || self.stopped() && !self.failed;
        self.enabled = value & pri_control::ENABLE != 0 && may_enable;
    }

    fn stopped(&self) -> bool {
        !self.enabled && self.groups.iter().all(Option::is_none)
    }

    pub(super) fn status(&self) -> u32 {
        let mut value = 0;
        if self.failed {
            value |= pri_status::RESPONSE_FAILURE;
        }
        if self.unexpected {
            value |= pri_status::UNEXPECTED_GROUP;
        }
        if self.stopped() {
            value |= pri_status::STOPPED;
        }
        value
    }

    pub(super) fn clear_status(&mut self, value: u32) {
        if value & pri_status::RESPONSE_FAILURE != 0 && !self.enabled {
            self.failed = false;
        }
        if value & pri_status::UNEXPECTED_GROUP != 0 {
            self.unexpected = false;
        }
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
    pub(super) fn credits(&self) -> usize {
        let outstanding: usize = self.groups.iter().flatten().map(|group| group.count).sum();
        (self.allocation as usize).saturating_sub(outstanding)
    }

    /// The outstanding group that asked for `page`, for reading or more.
    pub(super) fn asked_for(&self, substream: Option<SubstreamId>, page: u64) -> Option<PrgIndex> {
        let asks = |group: &Option<Group>| group.is_some_and(|g| g.substream == substream && g.pages().contains(&page));
        PrgIndex::new(self.groups.iter().position(asks)? as u16)
    }

    /// Makes `group` outstanding and gives it an index, or `None` when all indices are taken.
    pub(super) fn open(&mut self, group: Group) -> Option<PrgIndex> {
        let index = self.groups.iter().position(Option::is_none)?;
        *self.groups.get_mut(index)? = Some(group);
        PrgIndex::new(index as u16)
    }

    /// Whether the group of `index` is outstanding.
    pub(super) fn is_open(&self, index: PrgIndex) -> bool {
        self.groups.get(usize::from(index.get())).is_some_and(Option::is_some)
    }

    /// Ends the group that `response` answers and returns its index, or `None` if it answers none. The PASID must be the
    /// one of the requests ("PRG Response PASID Required").
    pub(super) fn answer(&mut self, response: &GroupResponse) -> Option<PrgIndex> {
        let slot = self.groups.get_mut(usize::from(response.group.get()));
        let failure = response.response == PageResponse::Failure;
        match slot {
            // Automatic failures carry no PASID (8.2).
            Some(slot) if slot.is_some_and(|g| g.substream == response.substream || failure) => *slot = None,
            _ => {
                self.unexpected = true;
                return None;
            }
        }
        if failure {
            self.failed = true;
            self.enabled = false;
        }
        Some(response.group)
    }

    pub(super) fn take_stop_marker(&mut self) -> Option<SubstreamId> {
        self.stop_marker.take()
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
