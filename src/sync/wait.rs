//! The one function that waits. Every wait in the project is bounded by it.

use embedded_hal::delay::DelayNs;

/// A wait that ran out of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired<S> {
    /// What the last look saw.
    pub last: S,
    /// How long was waited, in microseconds: the delays alone, as for the limit of [`until`].
    pub waited_us: u32,
}

/// Calls `look` until it is content (`Ok`), with a microsecond's delay in between, for at most `limit_us` delays.
///
/// The time in `look` itself does not count, so it has to be short: the whole wait takes `limit_us` microseconds and
/// `limit_us` + 1 looks.
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
