//! The one function that waits. Every wait in the project is bounded by it.

use embedded_hal::delay::DelayNs;

/// A wait that ran out of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired<S> {
    /// What the last look saw.
    pub last: S,
    /// How long was waited, in microseconds.
    pub waited_us: u32,
}

/// Calls `look` until it is content (`Ok`), a microsecond apart, for at most `limit_us` microseconds.
///
/// `look` runs at least once, and once more after the last delay, so a condition that held in time is never missed.
///
/// # Errors
///
/// [`Expired`] with what the last look saw (`Err`) when `limit_us` is over.
pub fn until<T, S>(
    delay: &mut impl DelayNs,
    limit_us: u32,
    mut look: impl FnMut() -> Result<T, S>,
) -> Result<T, Expired<S>> {
    let mut waited_us = 0;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(last) if waited_us >= limit_us => return Err(Expired { last, waited_us }),
            Err(_) => {
                delay.delay_us(1);
                waited_us += 1;
            }
        }
    }
}
