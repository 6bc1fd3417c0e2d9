//! Numbers of any size, which compare by their digits.

use std::cmp::Ordering;

/// A number of any size, by its digits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    negative: bool,
    /// From the first that is not zero to the last that is not; empty for zero.
    digits: String,
    /// How many places the decimal point is to the right of the first digit's left side; 0 for zero.
    exponent: i64,
}

impl Decimal {
    /// Reads a number as JSON has it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            // One that is too large for 64 bits is larger than any that is not.
            Some((mantissa, exponent)) => (
                mantissa,
                exponent.parse().unwrap_or(match exponent.starts_with('-') {
                    true => i64::MIN / 2,
                    false => i64::MAX / 2,
                }),
            ),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let all = format!("{whole}{fraction}");
        let zeros = all.len() - all.trim_start_matches('0').len();
        let digits = all.trim_matches('0').to_owned();
        if digits.is_empty() {
            return Some(Self {
                negative: false,
                digits,
                exponent: 0,
            });
        }
        let exponent = (whole.len() as i64 - zeros as i64).saturating_add(exponent.clamp(i64::MIN / 2, i64::MAX / 2));
        Some(Self {
            negative,
            digits,
            exponent,
        })
    }

    /// -1, 0 or 1.
    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let magnitude = || (self.exponent, &self.digits).cmp(&(other.exponent, &other.digits));
        self.sign().cmp(&other.sign()).then_with(|| match self.sign() {
            -1 => magnitude().reverse(),
            0 => Ordering::Equal,
            _ => magnitude(),
        })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
