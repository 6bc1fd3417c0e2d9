//! Money: exact decimals, never floats.

use rust_decimal::Decimal;
use serde_json::Value;

/// Why a JSON value is no amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// The value is neither a number nor a string.
    #[error("must be a number, or a string that holds one")]
    NotANumber,
    /// The value has more digits than an exact decimal holds.
    #[error("has more than 28 significant digits")]
    TooPrecise,
}

/// Reads an amount from a JSON number or a string, exactly: `14.90` stays `14.90`.
pub fn amount(value: &Value) -> Result<Decimal, AmountError> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return Err(AmountError::NotANumber),
    };
    // Looked at first: the decimals' own parser takes `1_000` too.
    let numeric = text.bytes().any(|byte| byte.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    if !numeric {
        return Err(AmountError::NotANumber);
    }
    if let Ok(exact) = Decimal::from_str_exact(&text) {
        return Ok(exact);
    }
    if text.contains(['e', 'E']) {
        return Decimal::from_scientific(&text).map_err(|_| AmountError::TooPrecise);
    }
    Err(AmountError::TooPrecise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        let one: Value = serde_json::from_str("0.1").unwrap();
        let two: Value = serde_json::from_str("0.2").unwrap();
        assert_eq!((amount(&one).unwrap() + amount(&two).unwrap()).to_string(), "0.3");
        let long: Value = serde_json::from_str("1.00000000000000000000000000000000001").unwrap();
        assert_eq!(amount(&long), Err(AmountError::TooPrecise));
        for none in ["twelve", "1_000", "", "_"] {
            assert_eq!(
                amount(&Value::String(none.into())),
                Err(AmountError::NotANumber),
                "{none}"
            );
        }
    }
}
