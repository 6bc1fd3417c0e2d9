//! Templates for outbound calls: minijinja, with numbers that keep their digits.
//!
//! A string that is one `{{ … }}` keeps the JSON type of what it names, so `"{{ data.amount }}"` sends a number where
//! the order has one, digit for digit.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, LazyLock};

use indexmap::IndexMap;
use minijinja::value::{DynObject, Object, ObjectRepr, Value as Context, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Number, Value};

use crate::comparison;
use crate::expression::{ENVIRONMENT, EvaluationError, Expression, SyntaxError, environment};

/// What is not encoded in a URL: the unreserved characters of RFC 3986, section 2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Renders URLs: every value is percent-encoded, so that an order's data can fill a segment or a parameter and never
/// make another host, path or query of it. Values that the operator has set (safe strings) stand as they are.
static URL_ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = environment();
    environment.set_auto_escape_callback(|_| AutoEscape::Custom("url".into()));
    environment.set_formatter(write_url_part);
    environment.add_filter("urlencode", |value: Context| {
        Context::from_safe_string(utf8_percent_encode(&value.to_string(), ENCODED).to_string())
    });
    environment
});

fn write_url_part(output: &mut Output<'_>, _: &mut State<'_, '_>, value: &Context) -> Result<(), Error> {
    let text = value.to_string();
    if value.is_safe() {
        return output.write_str(&text).map_err(Error::from);
    }
    if matches!(text.as_str(), "" | "." | "..") {
        let detail = format!("`{text}` cannot stand in a URL: it would make another path of it");
        return Err(Error::new(ErrorKind::BadEscape, detail));
    }
    write!(output, "{}", utf8_percent_encode(&text, ENCODED)).map_err(Error::from)
}

/// A compiled template.
#[derive(Clone)]
pub struct Template {
    text: Arc<str>,
    /// The text that is rendered: its comparisons are exact.
    exact: Arc<str>,
    form: Form,
}

#[derive(Clone)]
enum Form {
    /// No template at all.
    Literal,
    /// One `{{ … }}` and nothing else: keeps its JSON type.
    Whole(Arc<minijinja::Expression<'static, 'static>>),
    /// Text with templates in it.
    Mixed,
}

impl Template {
    /// Compiles a template.
    pub fn compile(text: &str) -> Result<Self, SyntaxError> {
        if !text.contains("{{") && !text.contains("{%") {
            return Ok(Self {
                text: text.into(),
                exact: text.into(),
                form: Form::Literal,
            });
        }
        // As it was written first: of that, errors name the places.
        let inner = whole_expression(text);
        match inner {
            Some(inner) => ENVIRONMENT.compile_expression(inner).map(drop),
            None => ENVIRONMENT.template_from_str(text).map(drop),
        }
        .map_err(|error| SyntaxError::new(text, &error))?;
        let exact = comparison::rewritten(text).ok_or_else(|| SyntaxError::of_comparisons(text))?;
        let form = match whole_expression(&exact).filter(|_| inner.is_some()) {
            Some(inner) => ENVIRONMENT
                .compile_expression_owned(inner.to_owned())
                .map(|compiled| Form::Whole(Arc::new(compiled))),
            None => ENVIRONMENT.template_from_str(&exact).map(|_| Form::Mixed),
        };
        Ok(Self {
            text: text.into(),
            exact: exact.into(),
            form: form.map_err(|_| SyntaxError::of_comparisons(text))?,
        })
    }

    /// The text it was compiled from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names that it reads, dotted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.form {
            Form::Literal => Vec::new(),
            Form::Whole(expression) => expression.undeclared_variables(true).into_iter().collect(),
            Form::Mixed => match ENVIRONMENT.template_from_str(&self.text) {
                Ok(template) => template.undeclared_variables(true).into_iter().collect(),
                Err(_) => Vec::new(),
            },
        };
        names.sort();
        names
    }

    /// Renders to text. A name that is not there is an error: an outbound call must not be sent with a hole in it.
    pub fn render(&self, context: &Context) -> Result<String, EvaluationError> {
        match &self.form {
            Form::Literal => Ok(self.text.to_string()),
            Form::Whole(_) => Ok(match self.render_json(context)? {
                Value::String(text) => text,
                other => other.to_string(),
            }),
            Form::Mixed => {
                self.refuse_missing(context)?;
                ENVIRONMENT
                    .render_str(&self.exact, context)
                    .map_err(|error| EvaluationError::new(&self.text, &error))
            }
        }
    }

    /// Renders to JSON: a template that is one expression keeps its type, all else is a string.
    pub fn render_json(&self, context: &Context) -> Result<Value, EvaluationError> {
        let Form::Whole(expression) = &self.form else {
            return self.render(context).map(Value::String);
        };
        let value = expression
            .eval(context)
            .map_err(|error| EvaluationError::new(&self.text, &error))?;
        if value.is_undefined() {
            return Err(self.missing(&self.text));
        }
        to_json(&value).map_err(|message| EvaluationError {
            source_text: self.text.to_string(),
            message,
        })
    }

    /// Renders to a URL. Every value is percent-encoded, but for safe strings, which the operator has set. Refuses a
    /// template whose host would come from the order: see [`Template::names_in_authority`].
    pub fn render_url(&self, context: &Context) -> Result<String, EvaluationError> {
        self.refuse_missing(context)?;
        URL_ENVIRONMENT
            .render_str(&self.exact, context)
            .map_err(|error| EvaluationError::new(&self.text, &error))
    }

    /// Renders to a URL whose host comes from the order. Where the URL begins with a value of the order, that value is a URL
    /// or the beginning of one, and stands as it is; all other values are percent-encoded as ever. Nobody has vouched for
    /// where it leads: who calls it checks the address.
    pub fn render_foreign_url(&self, context: &Context) -> Result<String, EvaluationError> {
        let text: &str = &self.text;
        let Some(end) = text.find("}}").filter(|_| text.starts_with("{{")).map(|at| at + 2) else {
            return self.render_url(context);
        };
        let (head, rest) = text.split_at(end);
        let part = |text: &str| {
            Self::compile(text).map_err(|error| EvaluationError {
                source_text: text.to_owned(),
                message: error.message,
            })
        };
        let mut url = part(head)?.render(context)?;
        if !rest.is_empty() {
            url.push_str(&part(rest)?.render_url(context)?);
        }
        Ok(url)
    }

    /// The first name of the order that the scheme, host and port of a URL template are made from; `None` where the operator
    /// alone says them.
    pub fn foreign_host(&self) -> Option<String> {
        let mut names = self.names_in_authority().into_iter();
        names.find(|name| !name.starts_with("env.") && !name.starts_with("secret."))
    }

    /// The names that the scheme, host and port of a URL template are made from.
    pub fn names_in_authority(&self) -> Vec<String> {
        self.authority().names()
    }

    /// The scheme, host and port of a URL template; all of it where they cannot be told from the rest.
    pub fn authority(&self) -> Self {
        let text: &str = &self.text;
        let mut end = text.len();
        let mut depth = 0usize;
        let after_scheme = text
            .find("://")
            .filter(|at| !text[..*at].contains('/'))
            .map_or(0, |at| at + 3);
        for (at, character) in text.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                '/' | '?' | '#' if depth == 0 && at >= after_scheme => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        Self::compile(&text[..end]).unwrap_or_else(|_| self.clone())
    }

    fn missing(&self, name: &str) -> EvaluationError {
        EvaluationError {
            source_text: self.text.to_string(),
            message: format!("{name} is not there"),
        }
    }

    fn refuse_missing(&self, context: &Context) -> Result<(), EvaluationError> {
        // Names that stand in a loop or behind a `default` filter may rightly be absent, so only templates without
        // statements and filters are held to this.
        if self.text.contains("{%") || self.text.contains('|') {
            return Ok(());
        }
        for name in self.names() {
            let Ok(expression) = Expression::compile(&format!("({name}) is defined")) else {
                continue;
            };
            if !expression.holds(context)? {
                return Err(self.missing(&name));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.text)
    }
}

/// The inside of a text that is exactly one `{{ … }}`.
fn whole_expression(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}")).then(|| inner.trim())
}

/// A JSON value whose strings are templates.
#[derive(Clone, Debug)]
pub enum TemplateTree {
    /// A number, a boolean or null, sent as it is.
    Literal(Value),
    /// A string.
    Text(Template),
    /// An array.
    Array(Vec<TemplateTree>),
    /// An object, in the order of the file.
    Object(Vec<(String, TemplateTree)>),
}

impl TemplateTree {
    /// Compiles every string of a JSON value. The error names the place by JSON pointer.
    pub fn compile(value: &Value) -> Result<Self, (String, SyntaxError)> {
        Self::compile_at(value, &mut String::new())
    }

    fn compile_at(value: &Value, pointer: &mut String) -> Result<Self, (String, SyntaxError)> {
        let length = pointer.len();
        let tree = match value {
            Value::String(text) => Self::Text(Template::compile(text).map_err(|error| (pointer.clone(), error))?),
            Value::Array(items) => {
                let mut trees = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    pointer.push_str(&format!("/{index}"));
                    trees.push(Self::compile_at(item, pointer)?);
                    pointer.truncate(length);
                }
                Self::Array(trees)
            }
            Value::Object(members) => {
                let mut trees = Vec::with_capacity(members.len());
                for (name, member) in members {
                    pointer.push_str(&format!("/{}", name.replace('~', "~0").replace('/', "~1")));
                    trees.push((name.clone(), Self::compile_at(member, pointer)?));
                    pointer.truncate(length);
                }
                Self::Object(trees)
            }
            other => Self::Literal(other.clone()),
        };
        Ok(tree)
    }

    /// Renders the whole value.
    pub fn render(&self, context: &Context) -> Result<Value, EvaluationError> {
        Ok(match self {
            Self::Literal(value) => value.clone(),
            Self::Text(template) => template.render_json(context)?,
            Self::Array(items) => Value::Array(
                items
                    .iter()
                    .map(|item| item.render(context))
                    .collect::<Result<_, _>>()?,
            ),
            Self::Object(members) => {
                let mut object = Map::with_capacity(members.len());
                for (name, member) in members {
                    object.insert(name.clone(), member.render(context)?);
                }
                Value::Object(object)
            }
        })
    }

    /// The names that all its templates read, dotted.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Literal(_) => Vec::new(),
            Self::Text(template) => template.names(),
            Self::Array(items) => items.iter().flat_map(Self::names).collect(),
            Self::Object(members) => members.iter().flat_map(|(_, member)| member.names()).collect(),
        }
    }
}

/// A number that is not a small whole one: shown by its digits, never through a float.
#[derive(Debug)]
struct ExactNumber(Number);

impl Object for ExactNumber {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Self>()?;
        comparison::compare_digits(&self.0.to_string(), &other.0.to_string())
    }
}

/// The digits of a number that templates see as an object.
pub(crate) fn digits(value: &Context) -> Option<String> {
    Some(value.downcast_object_ref::<ExactNumber>()?.0.to_string())
}

/// A JSON value as templates see it: numbers keep their digits.
pub fn from_json(value: &Value) -> Context {
    convert(value, &|number| Context::from_object(ExactNumber(number.clone())))
}

/// A JSON value as conditions see it: numbers compare. minijinja orders an object after every number, so that a number which
/// keeps its digits would be greater than any literal. Decimals of up to 15 digits keep their order as floats, and nothing
/// that is computed here leaves the condition.
pub fn comparable(value: &Value) -> Context {
    // A text that JSON takes as a number is one to `f64` too; what is too large becomes infinite, which is greater than all.
    convert(value, &|number| {
        Context::from(number.to_string().parse().unwrap_or(f64::NAN))
    })
}

fn convert(value: &Value, decimal: &dyn Fn(&Number) -> Context) -> Context {
    match value {
        Value::Null => Context::from(()),
        Value::Bool(flag) => Context::from(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Context::from(whole),
            (None, Some(whole)) => Context::from(whole),
            (None, None) => decimal(number),
        },
        Value::String(text) => Context::from(text.as_str()),
        Value::Array(items) => items
            .iter()
            .map(|item| convert(item, decimal))
            .collect::<Vec<_>>()
            .into(),
        Value::Object(members) => {
            let object: IndexMap<Context, Context> = members
                .iter()
                .map(|(name, member)| (Context::from(name.as_str()), convert(member, decimal)))
                .collect();
            Context::from_object(object)
        }
    }
}

/// The way back: what an expression came to, as JSON.
fn to_json(value: &Context) -> Result<Value, String> {
    if let Some(exact) = value.downcast_object_ref::<ExactNumber>() {
        return Ok(Value::Number(exact.0.clone()));
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => value
            .try_iter()
            .map_err(|error| error.to_string())?
            .map(|item| to_json(&item))
            .collect(),
        ValueKind::Map => {
            let mut object = Map::new();
            for name in value.try_iter().map_err(|error| error.to_string())? {
                let member = value.get_item(&name).map_err(|error| error.to_string())?;
                object.insert(name.to_string(), to_json(&member)?);
            }
            Ok(Value::Object(object))
        }
        _ => serde_json::to_value(value).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(text: &str) -> Context {
        from_json(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_whole_expression_keeps_its_type_and_digits() {
        let context = context(r#"{"data":{"amount":14.90,"big":123456789012345678901234567890,"lines":[{"q":1.0}]}}"#);
        for (template, expected) in [
            ("{{ data.amount }}", "14.90"),
            ("{{ data.big }}", "123456789012345678901234567890"),
            ("{{ data.lines }}", r#"[{"q":1.0}]"#),
            (
                "{{ data }}",
                r#"{"amount":14.90,"big":123456789012345678901234567890,"lines":[{"q":1.0}]}"#,
            ),
            ("total {{ data.amount }}", r#""total 14.90""#),
        ] {
            assert_eq!(
                Template::compile(template)
                    .unwrap()
                    .render_json(&context)
                    .unwrap()
                    .to_string(),
                expected
            );
        }
    }

    #[test]
    fn a_hole_is_an_error() {
        let context = context(r#"{"data":{}}"#);
        assert!(
            Template::compile("{{ data.nothing }}")
                .unwrap()
                .render(&context)
                .is_err()
        );
        assert!(
            Template::compile("/orders/{{ data.nothing.deeper }}")
                .unwrap()
                .render(&context)
                .is_err()
        );
        assert_eq!(
            Template::compile("{{ data.nothing | default('x') }}")
                .unwrap()
                .render(&context)
                .unwrap(),
            "x"
        );
    }

    #[test]
    fn data_cannot_make_another_url() {
        let base = Context::from_safe_string("http://shop.test:8080/base".to_owned());
        let url = |id: &str| {
            let context: Context = minijinja::context! { env => minijinja::context! { URL => base.clone() }, id };
            Template::compile("{{ env.URL }}/customers/{{ id }}?q={{ id|urlencode }}")
                .unwrap()
                .render_url(&context)
        };
        assert_eq!(
            url("a b/ñ@x").unwrap(),
            "http://shop.test:8080/base/customers/a%20b%2F%C3%B1%40x?q=a%20b%2F%C3%B1%40x"
        );
        assert!(url("..").is_err());
        let authority = |text: &str| Template::compile(text).unwrap().names_in_authority();
        assert_eq!(authority("{{ env.URL }}/c/{{ data.id }}"), ["env.URL"]);
        assert_eq!(authority("https://{{ data.host }}/c"), ["data.host"]);
        assert_eq!(authority("{{ env.URL }}{{ data.x }}"), ["data.x", "env.URL"]);
        assert!(authority("http://localhost:80/{{ data.x }}").is_empty());
    }

    #[test]
    fn names_are_dotted() {
        assert_eq!(
            Template::compile("{{ env.URL }}/c/{{ data.user.id }}").unwrap().names(),
            ["data.user.id", "env.URL"]
        );
    }
}
