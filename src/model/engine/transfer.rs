//! The bytes of an access that has its response.

use super::job::{Job, Operation};
use super::lane::{Held, Step};
use super::registers::status;
use super::{End, Engine, Surroundings};
use crate::model::endpoint::Response;
use crate::model::memory::{Abort, Memory};
use crate::model::wire::Wires;
use crate::smmuv3::PhysAddr;

/// Bytes that are moved at a time where no page is held.
const CHUNK: usize = 256;

impl Engine {
    /// Moves the bytes of `step` of lane `index`. Returns how many: fewer than the step has, where no page was to be had
    /// for them.
    pub(super) fn transfer<M: Memory, W: Wires>(
        &mut self,
        index: usize,
        job: &Job,
        step: Step,
        response: Response,
        around: &mut Surroundings<'_, M, W>,
    ) -> Result<usize, End> {
        let refused = End { state: status::ABORTED, reason: status::ACCESS, address: step.address };
        let physical = match response {
            Response::Abort => return Err(refused),
            Response::Physical(physical) => Some(physical),
            Response::Ignored => None,
        };
        let moved = match job.operation {
            Operation::Copy | Operation::Compare => return self.move_piece(index, job, step, physical, around),
            Operation::Fill => fill(job.pattern, step, physical, around.memory),
            Operation::Read => read_word(step.length, physical, around.memory).map(|value| self.result = value),
            Operation::Write => write_word(job.pattern, step.length, physical, around.memory),
            Operation::Add | Operation::Swap | Operation::CompareSwap => {
                self.update(job, step, physical, around.memory)
            }
        };
        moved.map(|()| step.length).map_err(|Abort| refused)
    }

    /// Reads a piece, or writes or compares what was read.
    fn move_piece<M: Memory, W: Wires>(
        &mut self,
        index: usize,
        job: &Job,
        step: Step,
        physical: Option<PhysAddr>,
        around: &mut Surroundings<'_, M, W>,
    ) -> Result<usize, End> {
        let refused = End { state: status::ABORTED, reason: status::ACCESS, address: step.address };
        let Some(Some(lane)) = self.lanes.get(index) else { return Err(refused) };
        let is_first = lane.held == Held::Nothing;
        let mut held = if is_first { self.hold(step.length, around) } else { lane.held };
        let bytes = match &mut held {
            Held::Nothing => &mut [],
            Held::Word(bytes) => &mut bytes[..],
            Held::Page(buffer) => around.buffers.bytes(*buffer),
        };
        let length = step.length.min(bytes.len());
        let bytes = bytes.get_mut(..length).unwrap_or_default();
        let result = if is_first {
            match physical {
                Some(physical) => around.memory.read(physical, bytes).map_err(|Abort| refused),
                None => {
                    bytes.fill(0);
                    Ok(())
                }
            }
        } else if job.operation == Operation::Copy {
            physical.map_or(Ok(()), |physical| around.memory.write(physical, bytes)).map_err(|Abort| refused)
        } else {
            match first_difference(bytes, physical, around.memory) {
                Ok(None) => Ok(()),
                Ok(Some(at)) => Err(End { state: status::MISMATCH, reason: 0, address: step.address.wrapping_add(at) }),
                Err(Abort) => Err(refused),
            }
        };
        if let Some(Some(lane)) = self.lanes.get_mut(index) {
            lane.held = held;
        }
        result.map(|()| length)
    }

    /// An atomic update: the machine's lock is what makes it one among all accesses of the machine.
    fn update(&mut self, job: &Job, step: Step, physical: Option<PhysAddr>, memory: &impl Memory) -> Result<(), Abort> {
        let old = read_word(step.length, physical, memory)?;
        let new = match job.operation {
            Operation::Add => Some(old.wrapping_add(job.pattern)),
            Operation::CompareSwap => (old == job.compare & mask(step.length)).then_some(job.pattern),
            _ => Some(job.pattern),
        };
        self.result = old;
        new.map_or(Ok(()), |new| write_word(new, step.length, physical, memory))
    }
}

/// The bits of a value of `length` bytes.
fn mask(length: usize) -> u64 {
    u64::MAX.checked_shr(64 - 8 * length.min(8) as u32).unwrap_or(0)
}

/// The value of `length` bytes at `physical`, up to 8, or zero where that is `None`.
fn read_word(length: usize, physical: Option<PhysAddr>, memory: &impl Memory) -> Result<u64, Abort> {
    let mut bytes = [0; 8];
    if let Some(physical) = physical {
        memory.read(physical, bytes.get_mut(..length).unwrap_or_default())?;
    }
    Ok(u64::from_le_bytes(bytes))
}

fn write_word(value: u64, length: usize, physical: Option<PhysAddr>, memory: &impl Memory) -> Result<(), Abort> {
    let Some(physical) = physical else { return Ok(()) };
    memory.write(physical, value.to_le_bytes().get(..length).unwrap_or_default())
}

/// Writes the pattern to the bytes of `step`: which byte of it goes where depends on the address alone.
fn fill(pattern: u64, step: Step, physical: Option<PhysAddr>, memory: &impl Memory) -> Result<(), Abort> {
    let Some(physical) = physical else { return Ok(()) };
    let rotated = pattern.rotate_right(8 * (step.address % 8) as u32).to_le_bytes();
    let mut bytes = [0; CHUNK];
    bytes.as_chunks_mut().0.fill(rotated);
    for offset in (0..step.length).step_by(CHUNK) {
        let length = CHUNK.min(step.length - offset);
        memory.write(PhysAddr(physical.0 + offset as u64), bytes.get(..length).unwrap_or_default())?;
    }
    Ok(())
}

/// Where `expected` differs from memory at `physical`, or from zeros where that is `None`.
fn first_difference(expected: &[u8], physical: Option<PhysAddr>, memory: &impl Memory) -> Result<Option<u64>, Abort> {
    let mut bytes = [0; CHUNK];
    for (number, expected) in expected.chunks(CHUNK).enumerate() {
        let offset = (number * CHUNK) as u64;
        let actual = bytes.get_mut(..expected.len()).unwrap_or_default();
        if let Some(physical) = physical {
            memory.read(PhysAddr(physical.0 + offset), actual)?;
        }
        if let Some(at) = expected.iter().zip(&*actual).position(|(a, b)| a != b) {
            return Ok(Some(offset + at as u64));
        }
    }
    Ok(None)
}
