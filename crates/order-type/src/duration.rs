//! Durations as order types write them: `250ms`, `10s`, `15m`, `1h30m`, `14d`.

use std::time::Duration;

/// The longest duration that means anything here: ten years.
const MILLIS_MAX: u64 = 10 * 366 * 24 * 60 * 60 * 1000;

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DurationError {
    #[error("a duration is a number and a unit (`ms`, `s`, `m`, `h`, `d`), as in \"250ms\" or \"1h30m\"")]
    Form,
    #[error("a duration is at most ten years")]
    TooLong,
}

/// Parses a duration.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Form);
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        if digits == 0 || letters == 0 {
            return Err(DurationError::Form);
        }
        let number: u64 = rest[..digits].parse().map_err(|_| DurationError::TooLong)?;
        let unit = match &rest[digits..digits + letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            "d" => 24 * 60 * 60 * 1000,
            _ => return Err(DurationError::Form),
        };
        let millis = number.checked_mul(unit).and_then(|millis| millis.checked_add(total));
        total = millis
            .filter(|millis| *millis <= MILLIS_MAX)
            .ok_or(DurationError::TooLong)?;
        rest = &rest[digits + letters..];
    }
    Ok(Duration::from_millis(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("14d"), Ok(Duration::from_secs(14 * 86400)));
        for wrong in ["", "10", "s", "10 s", "10x", "-1s", "1.5s", "ñs"] {
            assert_eq!(parse(wrong), Err(DurationError::Form), "{wrong}");
        }
        assert_eq!(parse("99999999999999999999s"), Err(DurationError::TooLong));
        assert_eq!(parse("9999d9999d"), Err(DurationError::TooLong));
    }
}
