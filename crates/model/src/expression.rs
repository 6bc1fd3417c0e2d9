//! Conditions in order types (`when`): minijinja expressions, compiled once when the type is read.

use std::fmt;
use std::sync::{Arc, LazyLock};

use minijinja::Environment;
use minijinja::value::Value as Context;

use crate::comparison::compare_exactly;

/// How many instructions one expression or template may run: enough for any real one, and a bound on a loop.
const FUEL: u64 = 100_000;

pub(crate) static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(environment);

pub(crate) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Chainable);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    compare_exactly(&mut environment);
    environment
}

/// A text that is no valid expression or template.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// What is wrong.
    pub message: String,
    /// Where, in bytes from the beginning of the text, if known.
    pub range: Option<std::ops::Range<usize>>,
}

impl SyntaxError {
    pub(crate) fn new(text: &str, error: &minijinja::Error) -> Self {
        // Of what is not closed minijinja names a place after the end.
        let within = |at: usize| text.floor_char_boundary(at.min(text.len()));
        Self {
            message: error.detail().unwrap_or("invalid syntax").to_owned(),
            range: error.range().map(|range| within(range.start)..within(range.end)),
        }
    }

    /// Of a template whose comparisons cannot be made exact.
    pub fn of_comparisons(text: &str) -> Self {
        Self {
            message: "its comparisons cannot be told apart: put each in parentheses, or write it as a test, such as \
                `data.total is gt(1000)`"
                .to_owned(),
            range: Some(0..text.len()),
        }
    }
}

/// A condition or template that could not be evaluated for this order.
#[derive(Debug, Clone, thiserror::Error)]
#[error("`{source_text}` could not be evaluated: {message}")]
pub struct EvaluationError {
    /// The expression's text.
    pub source_text: String,
    /// What went wrong.
    pub message: String,
}

impl EvaluationError {
    pub(crate) fn new(source_text: &str, error: &minijinja::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Self {
            source_text: source_text.to_owned(),
            message,
        }
    }
}

/// A compiled condition.
#[derive(Clone)]
pub struct Expression {
    text: Arc<str>,
    compiled: Arc<minijinja::Expression<'static, 'static>>,
}

impl Expression {
    /// Compiles a condition.
    pub fn compile(text: &str) -> Result<Self, SyntaxError> {
        let compiled = ENVIRONMENT
            .compile_expression_owned(text.to_owned())
            .map_err(|error| SyntaxError::new(text, &error))?;
        Ok(Self {
            text: text.into(),
            compiled: Arc::new(compiled),
        })
    }

    /// The text it was compiled from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names that it reads, dotted: `steps.reserve.total`, `data.items`.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.compiled.undeclared_variables(true).into_iter().collect();
        names.sort();
        names
    }

    /// Whether it holds. A name that is not there is false, not an error.
    pub fn holds(&self, context: &Context) -> Result<bool, EvaluationError> {
        self.compiled
            .eval(context)
            .map(|value| value.is_true())
            .map_err(|error| EvaluationError::new(&self.text, &error))
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rust_decimal::Decimal;

    use super::*;
    use crate::template::comparable;

    fn holds(condition: &str, data: &str) -> bool {
        let context = comparable(&serde_json::from_str(&format!(r#"{{"data":{data}}}"#)).unwrap());
        Expression::compile(condition).unwrap().holds(&context).unwrap()
    }

    #[test]
    fn amounts_compare_as_numbers() {
        for (amount, is_over) in [
            ("14.90", false),
            ("99.99", false),
            ("100.0", false),
            ("1e2", false),
            ("-500.5", false),
            ("100", false),
            ("100.01", true),
            ("101", true),
            ("1e3", true),
            ("123456789012345678901234567890", true),
            ("1e400", true),
        ] {
            assert_eq!(
                holds("data.total > 100", &format!(r#"{{"total":{amount}}}"#)),
                is_over,
                "{amount}"
            );
        }
        assert!(holds("data.a == 14.9 and data.a == data.b", r#"{"a":14.90,"b":14.9}"#));
        assert!(holds("data.lines[0].q >= 2.5", r#"{"lines":[{"q":2.50}]}"#));
        assert!(holds(
            "data.total|float > 100 and data.small|float < 100",
            r#"{"total":"100.50","small":"14.90"}"#
        ));
    }

    #[test]
    fn what_is_not_there_is_false() {
        for condition in [
            "data.a",
            "data.a.b.c",
            "data.a > 1",
            "data.a.b == 1",
            "data.list[7].q > 1",
            "data.none > 1",
        ] {
            assert!(!holds(condition, r#"{"list":[],"none":null}"#), "{condition}");
        }
    }

    #[test]
    fn what_is_not_there_is_less_than_all_that_is() {
        assert!(holds("data.a < 5", "{}") && !holds("data.a is defined and data.a < 5", "{}"));
    }

    proptest! {
        #[test]
        fn decimals_compare_as_they_do_exactly(a in -9_999_999_999_i64..9_999_999_999, b in -9_999_999_999_i64..9_999_999_999, scale in 0..5_u32) {
            let (a, b) = (Decimal::new(a, scale), Decimal::new(b, 2));
            let data = format!(r#"{{"a":{a},"b":{b}}}"#);
            prop_assert_eq!(holds("data.a > data.b", &data), a > b);
            prop_assert_eq!(holds("data.a == data.b", &data), a == b);
            prop_assert_eq!(holds(&format!("data.a <= ({b})"), &data), a <= b);
        }
    }
}
