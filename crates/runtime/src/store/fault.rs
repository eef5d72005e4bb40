//! The places at which a crash would leave its mark on a disk. Tests let the program end at each.

use std::io;

/// A moment between two changes to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "only tests look at the place"))]
pub(super) enum Place {
    /// A temporary file is there, half written.
    HalfWritten,
    /// A temporary file is written whole, but perhaps not on disk.
    Written,
    /// It is on disk.
    Synced,
    /// It has its name.
    Renamed,
    /// A ledger's entry is there, half written.
    HalfAppended,
    /// It is written whole, but perhaps not on disk.
    Appended,
    /// It is on disk: the number is burnt.
    Burnt,
    /// A burnt record is in memory and still on disk.
    Read,
    /// It is deleted.
    Deleted,
}

impl Place {
    #[cfg(test)]
    pub(super) const ALL: [Self; 9] = [
        Self::HalfWritten,
        Self::Written,
        Self::Synced,
        Self::Renamed,
        Self::HalfAppended,
        Self::Appended,
        Self::Burnt,
        Self::Read,
        Self::Deleted,
    ];
}

/// Passes a place; an error where a test wants the program to end here.
#[cfg(not(test))]
#[inline]
#[allow(clippy::unnecessary_wraps, reason = "in tests it fails")]
pub(super) fn pass(_: Place) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(super) use armed::{arm, pass};

#[cfg(test)]
mod armed {
    use super::{Place, io};
    use std::cell::Cell;

    thread_local! {
        static ARMED: Cell<Option<(Place, usize)>> = const { Cell::new(None) };
    }

    /// Lets this thread fail when it passes `place` for the `nth` time, counted from 0.
    pub fn arm(fault: Option<(Place, usize)>) {
        ARMED.set(fault);
    }

    pub fn pass(place: Place) -> io::Result<()> {
        match ARMED.get() {
            Some((armed, 0)) if armed == place => Err(io::Error::other("the test ends here")),
            Some((armed, nth)) if armed == place => {
                ARMED.set(Some((armed, nth - 1)));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
