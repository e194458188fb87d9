//! ATS: translation requests and translated accesses (3.9.1).

use super::configuration::{Denied, Route};
use super::registers::{OUTPUT_BITS, cr0};
use super::{Smmu, events, walk};
use crate::model::endpoint::{Completion, Response, Transaction};
use crate::model::memory::Memory;
use crate::model::wire::Wires;
use crate::smmuv3::ste::{AtsMode, StreamConfig};
use crate::smmuv3::{Access, PhysAddr};

/// What a device gets for a page that it cannot access.
const NO_ACCESS: Completion = Completion::Success { page: PhysAddr(0), read: false, write: false };

impl Smmu {
    /// A translation request for the page of `transaction` arrives. Reading is always asked for, writing if the access
    /// writes (13.7).
    pub fn translation_request(
        &mut self,
        transaction: &Transaction,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> Completion {
        let Transaction { stream, substream, address, access } = *transaction;
        if !self.registers.enabled(cr0::SMMUEN) {
            return self.refuse_translation(transaction, memory, wires);
        }
        match self.ste(transaction.origin(), memory) {
            // REC_CFG_ATS is not there, so configuration errors are not recorded (3.9.1.2).
            Err(_) => return Completion::CompleterAbort,
            Ok(ste) if ste.config == StreamConfig::Abort => return Completion::UnsupportedRequest,
            Ok(ste) if ste.ats != AtsMode::Full => return self.refuse_translation(transaction, memory, wires),
            Ok(_) => {}
        }
        match self.configure(stream, substream, memory) {
            Err(Denied::Silently | Denied::With(_)) => Completion::CompleterAbort,
            Ok(Route::Bypass) if address >> OUTPUT_BITS == 0 => {
                Completion::Success { page: PhysAddr(address & !0xfff), read: true, write: true }
            }
            Ok(Route::Bypass) => NO_ACCESS,
            Ok(Route::Stage1(cd)) => match self.stage1(&cd, address, memory) {
                Ok(leaf) => Completion::Success {
                    page: leaf.physical(address & !0xfff),
                    read: leaf.grants(Access { read: true, write: false, ..access }),
                    write: access.write && leaf.grants(Access { read: false, write: true, ..access }),
                },
                Err(walk::Fault::Abort(_) | walk::Fault::Conflict) => Completion::CompleterAbort,
                Err(_) => NO_ACCESS,
            },
        }
    }

    fn refuse_translation(
        &mut self,
        transaction: &Transaction,
        memory: &impl Memory,
        wires: &mut impl Wires,
    ) -> Completion {
        self.record(&events::bad_ats_request(transaction), memory, wires);
        Completion::UnsupportedRequest
    }

    /// An access to a physical address arrives that a device got by ATS (3.9.1.3).
    pub fn translated(&mut self, transaction: &Transaction, memory: &impl Memory, wires: &mut impl Wires) -> Response {
        let forbidden = if !self.registers.enabled(cr0::SMMUEN) {
            true
        } else if !self.registers.enabled(cr0::ATSCHK) {
            false
        } else {
            match self.ste(transaction.origin(), memory) {
                Err(_) => return Response::Abort,
                Ok(ste) if ste.config == StreamConfig::Abort => return Response::Abort,
                Ok(ste) => ste.ats != AtsMode::Full,
            }
        };
        if forbidden {
            self.record(&events::translated_forbidden(transaction), memory, wires);
            return Response::Abort;
        }
        if transaction.address >> OUTPUT_BITS != 0 {
            return Response::Abort;
        }
        Response::Physical(PhysAddr(transaction.address))
    }
}
