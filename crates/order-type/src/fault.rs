//! What is wrong with an order's data, and the rules that a JSON Schema cannot state: exact sums and calendar dates.

use comanda_model::money::amount;
use comanda_model::order_type::SumRule;
use jiff::civil::Date;
use rust_decimal::Decimal;
use serde_json::Value;

use crate::language::Language;
use crate::pointer::{field, token};

/// One thing that is wrong with an order's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer to the value, or to where it should be.
    pub pointer: String,
    /// The JSON Schema keyword that it breaks (`minimum`, `required`, `format`), or `sum`, `date`.
    pub code: String,
    /// What is wrong, in the type's language, to be read after the field's name: `must be at least 1`.
    pub detail: String,
}

/// A date that the wire sends in one of some forms.
#[derive(Clone, Debug)]
pub(crate) struct DateRule {
    /// JSON pointer into the data.
    pub pointer: String,
    /// `strptime` formats.
    pub formats: Vec<String>,
}

impl DateRule {
    /// Whether a text is a calendar date in one of the formats. The year must have four digits where it is written in
    /// full: `10/04/26` is a slip, not the first century.
    pub fn accepts(&self, text: &str) -> bool {
        self.formats
            .iter()
            .any(|format| Date::strptime(format, text).is_ok_and(|date| date.year() >= 1000))
    }

    /// The fault of the data, if any.
    pub fn fault(&self, data: &Value, language: Language) -> Option<Fault> {
        let value = data.pointer(&self.pointer).filter(|value| !value.is_null())?;
        if value.as_str().is_some_and(|text| self.accepts(text)) {
            return None;
        }
        let text = language.pick(
            "must be a calendar date ({})",
            "debe ser una fecha del calendario ({})",
            "deve ser uma data do calendário ({})",
        );
        let examples: Vec<String> = self.formats.iter().map(|format| example(format)).collect();
        Some(Fault {
            pointer: self.pointer.clone(),
            code: "date".to_owned(),
            detail: text.replace("{}", &examples.join(", ")),
        })
    }
}

/// A format as an example that people recognise.
fn example(format: &str) -> String {
    let date = Date::constant(2026, 4, 30);
    jiff::fmt::strtime::format(format, date).unwrap_or_else(|_| format.to_owned())
}

/// An exact decimal without the bound of 28 digits, for sums in between.
#[derive(Clone, Copy)]
struct Exact {
    mantissa: i128,
    scale: u32,
}

impl Exact {
    fn of(value: &Value) -> Option<Self> {
        let decimal = amount(value).ok()?.normalize();
        Some(Self {
            mantissa: decimal.mantissa(),
            scale: decimal.scale(),
        })
    }

    fn times(self, other: Self) -> Option<Self> {
        let mantissa = self.mantissa.checked_mul(other.mantissa)?;
        Some(Self {
            mantissa,
            scale: self.scale + other.scale,
        })
    }

    fn plus(self, other: Self) -> Option<Self> {
        let (one, two) = Self::aligned(self, other)?;
        Some(Self {
            mantissa: one.checked_add(two)?,
            scale: self.scale.max(other.scale),
        })
    }

    fn equals(self, other: Self) -> Option<bool> {
        Self::aligned(self, other).map(|(one, two)| one == two)
    }

    fn aligned(one: Self, two: Self) -> Option<(i128, i128)> {
        let scale = one.scale.max(two.scale);
        let raise = |exact: Self| exact.mantissa.checked_mul(10i128.checked_pow(scale - exact.scale)?);
        Some((raise(one)?, raise(two)?))
    }

    fn text(self) -> Option<String> {
        let decimal = Decimal::try_from_i128_with_scale(self.mantissa, self.scale).ok()?;
        Some(decimal.normalize().to_string())
    }
}

/// What breaks a sum. Lines and totals that are absent are the schema's to ask for.
pub(crate) fn sum_fault(rule: &SumRule, data: &Value, language: Language) -> Option<Fault> {
    let total = data.pointer(&rule.equals).filter(|total| !total.is_null())?;
    let lines = data.pointer(&rule.of)?.as_array()?;
    let fault = |pointer: String, detail: String| {
        Some(Fault {
            pointer,
            code: "sum".to_owned(),
            detail,
        })
    };
    let no_amount = || language.keyword("format", &Value::from("money"));
    let too_precise = || {
        language
            .pick(
                "has more digits than can be added up exactly",
                "tiene más dígitos de los que se pueden sumar con exactitud",
                "tem mais dígitos do que se pode somar com exatidão",
            )
            .to_owned()
    };
    let mut sum = Exact { mantissa: 0, scale: 0 };
    for (index, line) in lines.iter().enumerate() {
        let mut product = Exact { mantissa: 1, scale: 0 };
        for name in &rule.product {
            let pointer = || format!("{}/{index}{}", rule.of, token(name));
            let Some(factor) = line.get(name).and_then(Exact::of) else {
                return fault(pointer(), no_amount());
            };
            match product.times(factor) {
                Some(next) => product = next,
                None => return fault(pointer(), too_precise()),
            }
        }
        match sum.plus(product) {
            Some(next) => sum = next,
            None => return fault(format!("{}/{index}", rule.of), too_precise()),
        }
    }
    let Some(stated) = Exact::of(total) else {
        return fault(rule.equals.clone(), no_amount());
    };
    if stated.equals(sum)? {
        return None;
    }
    let text = language.pick(
        "must equal the sum of {product} over {of}, which is {sum}",
        "debe ser igual a la suma de {product} en {of}, que es {sum}",
        "deve ser igual à soma de {product} em {of}, que é {sum}",
    );
    let detail = text
        .replace("{product}", &rule.product.join(" × "))
        .replace("{of}", &field(&rule.of))
        .replace("{sum}", &sum.text().unwrap_or_else(|| "?".to_owned()));
    fault(rule.equals.clone(), detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    fn rule() -> SumRule {
        SumRule {
            of: "/items".to_owned(),
            product: vec!["quantity".to_owned(), "price".to_owned()],
            equals: "/total".to_owned(),
        }
    }

    #[test]
    fn sums_are_exact() {
        let check = |text: &str| sum_fault(&rule(), &parse(text), Language::English);
        assert_eq!(
            check(r#"{"items":[{"quantity":1,"price":0.1},{"quantity":1,"price":0.2}],"total":0.30}"#),
            None
        );
        let wrong = check(r#"{"items":[{"quantity":3,"price":19.99}],"total":59.98}"#).unwrap();
        assert_eq!(wrong.pointer, "/total");
        assert_eq!(
            wrong.detail,
            "must equal the sum of quantity × price over items, which is 59.97"
        );
        let wrong = check(r#"{"items":[{"quantity":3,"price":"x"}],"total":59.98}"#).unwrap();
        assert_eq!(wrong.pointer, "/items/0/price");
        let tiny = r#"{"items":[{"quantity":0.00000000000000000001,"price":0.00000000000000000001}],"total":0}"#;
        assert_eq!(check(tiny).unwrap().pointer, "/items/0");
        let huge = "9".repeat(28);
        let wrong = check(&format!(
            r#"{{"items":[{{"quantity":{huge},"price":{huge}}}],"total":1}}"#
        ))
        .unwrap();
        assert_eq!(wrong.pointer, "/items/0/price");
        assert_eq!(check(r#"{"items":[],"total":0.00}"#), None);
        assert_eq!(check(r#"{"items":[]}"#), None);
    }

    #[test]
    fn dates_are_calendar_dates() {
        let rule = DateRule {
            pointer: "/fecha".to_owned(),
            formats: vec!["%d/%m/%Y".to_owned(), "%d-%m-%Y".to_owned()],
        };
        for right in ["10/04/2026", "10-04-2026", "29/02/2024", "1/4/1999"] {
            assert!(rule.accepts(right), "{right}");
        }
        for wrong in [
            "31/04/2026",
            "29/02/2023",
            "2026-04-10",
            "10/04/26",
            "10/04/2026 x",
            "",
            "hoy",
        ] {
            assert!(!rule.accepts(wrong), "{wrong}");
        }
        let fault = rule
            .fault(&parse(r#"{"fecha":"31/04/2026"}"#), Language::Spanish)
            .unwrap();
        assert_eq!(
            fault.detail,
            "debe ser una fecha del calendario (30/04/2026, 30-04-2026)"
        );
        assert!(rule.fault(&parse(r#"{"fecha":5}"#), Language::Spanish).is_some());
        assert!(rule.fault(&parse("{}"), Language::Spanish).is_none());
    }
}
