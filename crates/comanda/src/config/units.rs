//! Durations and sizes as people write them: `250ms`, `10s`, `14d`; `16KiB`, `1MiB`.

use std::time::Duration;

/// A text that is no duration or size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("`{0}` is no duration; write a whole number and a unit: 250ms, 10s, 15m, 24h or 14d")]
    Duration(String),
    /// Not a size.
    #[error("`{0}` is no size; write a whole number and a unit: 512B, 16KiB or 1MiB")]
    Size(String),
}

/// Reads a duration: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let milliseconds = amount(
        text,
        &[
            ("ms", 1),
            ("s", 1000),
            ("m", 60_000),
            ("h", 3_600_000),
            ("d", 86_400_000),
        ],
    );
    milliseconds
        .map(Duration::from_millis)
        .ok_or_else(|| UnitError::Duration(text.to_owned()))
}

/// Reads a size in bytes: a whole number and one of `B`, `KiB`, `MiB`, `GiB`.
pub fn size(text: &str) -> Result<usize, UnitError> {
    amount(text, &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)])
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| UnitError::Size(text.to_owned()))
}

fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Writes a duration for people, to three digits: `417ms`, `1.25s`, `2m 5s`.
pub fn show(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..=999 => format!("{micros}µs"),
        1_000..=999_999 => format!("{}.{:02}ms", micros / 1000, micros % 1000 / 10),
        1_000_000..=59_999_999 => format!("{}.{:02}s", micros / 1_000_000, micros % 1_000_000 / 10_000),
        _ => match duration.as_secs() {
            seconds @ 0..=3599 => format!("{}m {}s", seconds / 60, seconds % 60),
            seconds @ 3600..=86_399 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
            seconds => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_as_people_write_them() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("14d"), Ok(Duration::from_secs(14 * 86_400)));
        assert_eq!(size("16KiB"), Ok(16 * 1024));
        for wrong in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "10 parsecs",
            "99999999999999999999d",
            "18446744073709551615d",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["1MB", "MiB", "1e3B", "18446744073709551615GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_shown_in_the_unit_that_fits() {
        assert_eq!(show(Duration::from_micros(417)), "417µs");
        assert_eq!(show(Duration::from_micros(1_250)), "1.25ms");
        assert_eq!(show(Duration::from_millis(59_040)), "59.04s");
        assert_eq!(show(Duration::from_secs(125)), "2m 5s");
        assert_eq!(show(Duration::from_secs(90_000)), "1d 1h");
    }
}
