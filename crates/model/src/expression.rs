//! Conditions in order types (`when`): minijinja expressions, compiled once when the type is read.

use std::fmt;
use std::sync::{Arc, LazyLock};

use minijinja::Environment;
use minijinja::value::Value as Context;

/// How many instructions one expression or template may run: enough for any real one, and a bound on a loop.
const FUEL: u64 = 100_000;

pub(crate) static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(environment);

pub(crate) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Chainable);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
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
