//! A TOML file as a tree in which everything knows where it stands.

use std::ops::Range;

use serde_json::{Map, Number, Value};
use toml::de::{DeTable, DeValue};

/// A place in the file, in bytes.
pub(crate) type Span = Range<usize>;

/// Something with its place.
#[derive(Clone, Debug)]
pub(crate) struct Located<T> {
    pub value: T,
    pub span: Span,
}

/// The name of a member with its place.
pub(crate) type Key = Located<String>;

/// A value with its place.
pub(crate) type Node = Located<Tree>;

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Tree {
    Text(String),
    /// Whole numbers and others, by their digits.
    Number(String),
    Flag(bool),
    Time(String),
    List(Vec<Node>),
    Table(Vec<(Key, Node)>),
}

/// Parses a file. On a syntax error the tree is what could be made of the rest, so that the other faults of the file
/// are told as well.
pub(crate) fn parse(text: &str) -> (Node, Vec<Located<String>>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let errors = errors
        .into_iter()
        .map(|error| Located {
            value: error.message().to_owned(),
            span: error.span().unwrap_or(0..0),
        })
        .collect();
    let span = table.span();
    (
        Located {
            value: table_of(table.into_inner()),
            span,
        },
        errors,
    )
}

fn table_of(table: DeTable<'_>) -> Tree {
    let entries = table.into_iter().map(|(key, value)| {
        let key = Located {
            span: key.span(),
            value: key.into_inner().into_owned(),
        };
        let span = value.span();
        (
            key,
            Located {
                value: tree_of(value.into_inner()),
                span,
            },
        )
    });
    Tree::Table(entries.collect())
}

fn tree_of(value: DeValue<'_>) -> Tree {
    match value {
        DeValue::String(text) => Tree::Text(text.into_owned()),
        DeValue::Integer(integer) => {
            let digits = integer.as_str();
            let decimal = match integer.radix() {
                10 => digits.strip_prefix('+').unwrap_or(digits).to_owned(),
                radix => i128::from_str_radix(digits, radix).map_or_else(|_| digits.to_owned(), |n| n.to_string()),
            };
            Tree::Number(decimal)
        }
        DeValue::Float(float) => Tree::Number(float.as_str().trim_start_matches('+').to_owned()),
        DeValue::Boolean(flag) => Tree::Flag(flag),
        DeValue::Datetime(time) => Tree::Time(time.to_string()),
        DeValue::Array(items) => Tree::List(
            items
                .into_iter()
                .map(|item| {
                    let span = item.span();
                    Located {
                        value: tree_of(item.into_inner()),
                        span,
                    }
                })
                .collect(),
        ),
        DeValue::Table(table) => table_of(table),
    }
}

impl Tree {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Number(_) => "a number",
            Self::Flag(_) => "a boolean",
            Self::Time(_) => "a time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    /// The same as JSON. Numbers keep their digits; `nan` and `inf`, which JSON lacks, become null.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Text(text) | Self::Time(text) => Value::String(text.clone()),
            Self::Number(digits) => digits.parse::<Number>().map_or(Value::Null, Value::Number),
            Self::Flag(flag) => Value::Bool(*flag),
            Self::List(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Self::Table(entries) => {
                let members = entries
                    .iter()
                    .map(|(key, node)| (key.value.clone(), node.value.to_json()));
                Value::Object(members.collect::<Map<_, _>>())
            }
        }
    }

    /// The entries of a table.
    pub fn entries(&self) -> &[(Key, Node)] {
        match self {
            Self::Table(entries) => entries,
            _ => &[],
        }
    }

    /// The member of a table.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.entries()
            .iter()
            .find(|(key, _)| key.value == name)
            .map(|(_, node)| node)
    }
}

impl Node {
    /// The place of what a JSON pointer names, as deep as it leads.
    pub fn place(&self, pointer: &str) -> Span {
        let mut place = self.span.clone();
        let mut node = self;
        for token in crate::pointer::tokens(pointer) {
            let next = match &node.value {
                Tree::Table(entries) => entries
                    .iter()
                    .find(|(key, _)| key.value == token)
                    .map(|(key, node)| (key.span.clone(), node)),
                Tree::List(items) => token
                    .parse::<usize>()
                    .ok()
                    .and_then(|at| items.get(at))
                    .map(|item| (item.span.clone(), item)),
                _ => None,
            };
            let Some((span, next)) = next else { break };
            // The value of a scalar says more than its key; a table's span may be its whole section.
            place = match next.value {
                Tree::Table(_) | Tree::List(_) => span,
                _ => next.span.clone(),
            };
            node = next;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_digits_and_tables_their_order() {
        let (tree, errors) = parse("z = 1.50\na = 0x1F\n[s.\"en proceso\"]\nx = +7\n");
        assert!(errors.is_empty());
        assert_eq!(
            tree.value.to_json().to_string(),
            r#"{"z":1.50,"a":31,"s":{"en proceso":{"x":7}}}"#
        );
    }

    #[test]
    fn a_pointer_leads_to_a_place() {
        let text = "[schema]\nproperties.amount = { type = \"numbre\" }\n";
        let (tree, _) = parse(text);
        let schema = tree.value.get("schema").unwrap();
        assert_eq!(&text[schema.place("/properties/amount/type")], "\"numbre\"");
        assert_eq!(&text[schema.place("/properties/amount/nothing")], "amount");
    }

    #[test]
    fn errors_have_their_place() {
        let (_, errors) = parse("a = 1\nb = \n");
        assert_eq!(errors.len(), 1);
        assert!(errors[0].span.start >= 6);
    }
}
