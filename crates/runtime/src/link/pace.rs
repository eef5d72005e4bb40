//! When what is sent has left, and when it has arrived.

use copriv_ir::{Direction, NetworkProfile};
use std::time::Duration;

/// One direction of a link: messages leave one after the other at its bandwidth and arrive a delay later.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    bits_per_second: f64,
    delay: Duration,
    /// When the link has sent out everything so far.
    free: Duration,
}

/// The way of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// When its last byte has left the sender.
    pub left: Duration,
    /// When its last byte is there.
    pub arrives: Duration,
}

impl Pace {
    /// A direction of the network's link, idle at time zero.
    #[must_use]
    pub fn new(profile: &NetworkProfile, direction: Direction) -> Self {
        let delay = Duration::from_secs_f64(profile.delay());
        Self { bits_per_second: profile.bandwidth(direction), delay, free: Duration::ZERO }
    }

    /// Sends so many bytes at time `now`, behind everything sent before.
    pub fn send(&mut self, now: Duration, bytes: usize) -> Passage {
        let serialisation = Duration::from_secs_f64(8.0 * bytes as f64 / self.bits_per_second);
        self.free = self.free.max(now) + serialisation;
        Passage { left: self.free, arrives: self.free + self.delay }
    }

    /// Bytes that are on their way at once on a busy link.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        (self.bits_per_second * self.delay.as_secs_f64() / 8.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_queue_for_the_link_and_take_their_own_time() {
        let mut pace = Pace::new(&NetworkProfile::mobile(), Direction::ClientToServer);
        let ms = Duration::from_millis;
        // 10 Mbit/s, 30 ms one way: 12,500 bytes leave in 10 ms.
        assert_eq!(pace.send(ms(0), 12_500), Passage { left: ms(10), arrives: ms(40) });
        assert_eq!(pace.send(ms(0), 25_000), Passage { left: ms(30), arrives: ms(60) });
        assert_eq!(pace.send(ms(25), 12_500), Passage { left: ms(40), arrives: ms(70) });
        assert_eq!(pace.send(ms(100), 0), Passage { left: ms(100), arrives: ms(130) });
        assert_eq!(pace.in_flight(), 37_500);
    }
}
