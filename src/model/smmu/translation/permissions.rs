//! What a translation permits to whom (13.4.1; Arm DDI 0487, D8.4).

use super::descriptor::{
    EXECUTE_NEVER, PRIVILEGED_EXECUTE_NEVER, READ_ONLY, STAGE2_EXECUTE, STAGE2_READ, STAGE2_WRITE, TABLE_EXECUTE_NEVER,
    TABLE_PRIVILEGED_EXECUTE_NEVER, TABLE_PRIVILEGED_ONLY, TABLE_READ_ONLY, UNPRIVILEGED,
};
use crate::smmuv3::Access;
use crate::smmuv3::cd::ContextDescriptor;
use crate::smmuv3::features::Features;
use crate::smmuv3::ste::StreamWorld;

/// What is permitted at one privilege.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Rights {
    /// Reads of data.
    pub(in super::super) read: bool,
    /// Writes.
    pub(in super::super) write: bool,
    /// Instruction fetches.
    pub(in super::super) execute: bool,
}

/// What is permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Permissions {
    /// To privileged accesses.
    pub(in super::super) privileged: Rights,
    /// To unprivileged accesses.
    pub(in super::super) unprivileged: Rights,
}

impl Rights {
    /// What both permit.
    pub(in super::super) const fn and(self, other: Self) -> Self {
        Self { read: self.read && other.read, write: self.write && other.write, execute: self.execute && other.execute }
    }

    /// Whether everything that `access` does is permitted.
    const fn permit(self, access: Access) -> bool {
        (self.read || !access.read) && (self.write || !access.write) && (self.execute || !access.execute)
    }
}

impl Permissions {
    /// At this privilege.
    pub(in super::super) const fn of(&self, privileged: bool) -> Rights {
        if privileged { self.privileged } else { self.unprivileged }
    }

    pub(super) const fn permit(&self, access: Access) -> bool {
        self.of(access.privileged).permit(access)
    }

    /// Whether of an `access` that reads and writes only the reading is not permitted, as at stage 2 alone can be.
    pub(super) const fn lack_reading(&self, access: Access) -> bool {
        access.read && access.write && self.of(access.privileged).write && !self.of(access.privileged).read
    }

    /// Of a stage 1 leaf behind tables with these limits.
    pub(super) const fn stage1(word: u64, limits: Limits, cd: &ContextDescriptor, world: StreamWorld) -> Self {
        let writable = !READ_ONLY.is_set(word) && !limits.read_only;
        let never = EXECUTE_NEVER.is_set(word) || limits.execute_never;
        if matches!(world, StreamWorld::El2) {
            // One privilege: AP[1] and PXN mean nothing (13.4.1).
            let rights =
                Rights { read: true, write: writable, execute: !(never || cd.write_execute_never && writable) };
            return Self { privileged: rights, unprivileged: rights };
        }
        let readable = UNPRIVILEGED.is_set(word) && !limits.privileged_only;
        let unprivileged = Rights {
            read: readable,
            write: readable && writable,
            execute: !(never || cd.write_execute_never && readable && writable),
        };
        let privileged_never = PRIVILEGED_EXECUTE_NEVER.is_set(word) || limits.privileged_execute_never;
        // PAN goes by unprivileged access to data, and takes away access to data alone.
        let data = !(cd.privileged_access_never && readable);
        let privileged = Rights {
            read: data,
            write: data && writable,
            // What can be written unprivileged cannot be executed privileged.
            execute: !(privileged_never || unprivileged.write || cd.write_execute_never && writable),
        };
        Self { privileged, unprivileged }
    }

    /// Of a stage 2 leaf.
    pub(super) const fn stage2(word: u64, features: &Features) -> Self {
        let (privileged, unprivileged) = match (STAGE2_EXECUTE.get(word), features.stage2_execute_by_privilege) {
            (0, true) | (0 | 1, false) => (true, true),
            (1, true) => (false, true),
            (3, true) => (true, false),
            _ => (false, false),
        };
        let (read, write) = (STAGE2_READ.is_set(word), STAGE2_WRITE.is_set(word));
        Self {
            privileged: Rights { read, write, execute: privileged },
            unprivileged: Rights { read, write, execute: unprivileged },
        }
    }
}

/// How the tables on the way limit what is permitted behind them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// `APTable[1]`.
    pub(super) read_only: bool,
    /// `APTable[0]`.
    privileged_only: bool,
    /// `PXNTable`.
    privileged_execute_never: bool,
    /// `UXNTable`, or `XNTable` where there is one privilege.
    execute_never: bool,
}

impl Limits {
    /// Adds those of a table descriptor.
    pub(super) const fn add(&mut self, word: u64) {
        self.read_only |= TABLE_READ_ONLY.is_set(word);
        self.privileged_only |= TABLE_PRIVILEGED_ONLY.is_set(word);
        self.privileged_execute_never |= TABLE_PRIVILEGED_EXECUTE_NEVER.is_set(word);
        self.execute_never |= TABLE_EXECUTE_NEVER.is_set(word);
    }
}
