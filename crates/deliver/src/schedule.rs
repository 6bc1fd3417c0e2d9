//! When a delivery is tried again: by default the schedule that the Standard Webhooks specification suggests, with jitter, so
//! that what failed together does not come again together.

use std::time::Duration;

use crate::service::Options;

/// The waits after the first, second, … failed try, unless something else is set. After the last one the subscription is
/// paused.
pub const SCHEDULE: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 60 * 60),
    Duration::from_secs(5 * 60 * 60),
    Duration::from_secs(10 * 60 * 60),
    Duration::from_secs(14 * 60 * 60),
    Duration::from_secs(20 * 60 * 60),
    Duration::from_secs(24 * 60 * 60),
];

impl Options {
    /// How long to wait after so many failed tries, at least as long as the receiver asked for; `None` to give up.
    pub(crate) fn wait_after(&self, attempts: u32, asked: Option<Duration>) -> Option<Duration> {
        let index = usize::try_from(attempts).ok()?.checked_sub(1)?;
        let wait = self.schedule.get(index)?;
        let wait = wait.mul_f64(self.wait_scale * (1.0 + 0.2 * self.chance.fraction()));
        Some(wait.max(asked.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_by_the_schedule_and_end() {
        let options = Options::default();
        for (index, wait) in SCHEDULE.iter().enumerate() {
            let drawn = options.wait_after(index as u32 + 1, None).unwrap();
            assert!(drawn >= *wait && drawn <= wait.mul_f64(1.2), "{drawn:?} for {wait:?}");
        }
        assert_eq!(options.wait_after(SCHEDULE.len() as u32 + 1, None), None);
        let asked = Duration::from_secs(3600);
        assert_eq!(
            options.wait_after(1, Some(asked)),
            Some(asked),
            "what the receiver asks for is honoured"
        );
    }
}
