//! From a file to a type that can be run.

use std::collections::BTreeSet;
use std::sync::Arc;

use comanda_model::OrderType;
use comanda_model::order_type::{Branch, Deadline, Fifo, Initial, Require, RequireStep, Status, StatusQueue};
use indexmap::IndexMap;
use serde_json::Value;

use crate::bundle::Bundle;
use crate::check;
use crate::diagnostic::{Diagnostic, Report, did_you_mean};
use crate::fault::{Fault, sum_fault};
use crate::file::{self, File, InitialEntry, SchemaEntry, StatusEntry};
use crate::language::Language;
use crate::schema::Schema;
use crate::tree::{self, Located};
use crate::wire::Wire;
use crate::{locate, mermaid, sample};

/// What names the templates may use: environment variables and secrets that exist.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The names of the environment variables that steps may read.
    pub env: BTreeSet<String>,
    /// The names of the secrets.
    pub secrets: BTreeSet<String>,
    /// The names of the archives that the operator has set up. None: nobody asks, because one that is not set up has a
    /// place of its own.
    pub archives: Option<BTreeSet<String>>,
    /// Whether a name that is missing makes the type unusable (`serve`) or is only told (`check`). By default the latter.
    pub missing_is_error: bool,
}

/// What came of reading a file.
#[derive(Clone, Debug)]
pub struct Read {
    /// The type; `None` if there is any error.
    pub definition: Option<Definition>,
    /// Everything that is wrong, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// One version of an order type, ready to use. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The type as the engine runs it.
    pub order_type: Arc<OrderType>,
    /// Its own form on the wire.
    pub wire: Arc<Wire>,
    /// The JSON Schema of its data.
    pub schema: Arc<Schema>,
    /// Its source.
    pub bundle: Arc<Bundle>,
}

/// Reads a file and says everything that is wrong with it. Never fails in another way, whatever the text.
pub fn read(bundle: &Bundle, known: &Known) -> Read {
    let mut report = Report::new(bundle);
    let definition = read_into(bundle, known, &mut report).filter(|_| !report.has_errors());
    Read {
        definition,
        diagnostics: report.finish(),
    }
}

fn read_into(bundle: &Bundle, known: &Known, report: &mut Report<'_>) -> Option<Definition> {
    let (root, errors) = tree::parse(&bundle.text);
    for error in &errors {
        report.error(
            "type/syntax",
            &error.span,
            "this is not valid TOML",
            Some(error.value.clone()),
        );
    }
    if !errors.is_empty() {
        // What could be read of the rest would be told as faults that vanish with the first.
        return None;
    }
    let file = file::parse(&root, report)?;
    let json = schema_json(&file.schema, bundle, report);
    let schema = json
        .as_ref()
        .and_then(|json| schema(json, &file.schema, bundle, report));
    if let Some(schema) = &schema {
        unknown_formats(schema, &file.schema, report);
        invalid_example(schema, &file, report);
    }
    check::check(&file, json.as_ref(), known, report);
    let (schema, initial) = (schema?, initial(&file)?);
    let language = file.language;
    let order_type = OrderType {
        name: file.name.value.as_str().into(),
        hash: bundle.hash(),
        language: language_code(language).into(),
        initial,
        key: file.key.map(|key| key.value),
        customer: file.customer.map(|customer| customer.value),
        fifo: file.fifo.map(|fifo| Fifo {
            key: fifo.key,
            scope: fifo.scope,
            dead_letter: fifo.dead_letter,
        }),
        refused: file.refused.map(shared),
        cancel: file.cancel.map(shared),
        statuses: file
            .statuses
            .into_iter()
            .map(|status| status_of(status, language))
            .collect::<IndexMap<_, _>>(),
        steps: file
            .steps
            .into_iter()
            .map(|step| (shared(step.name), step.step))
            .collect(),
        erase_keep: file.erase_keep.unwrap_or_else(|| schema.money()),
        rules: file.rules,
        notify: file.notify.map(|(notify, _)| notify),
    };
    Some(Definition {
        order_type: Arc::new(order_type),
        wire: Arc::new(file.wire.wire),
        schema: Arc::new(schema),
        bundle: Arc::new(bundle.clone()),
    })
}

fn shared(name: Located<String>) -> Arc<str> {
    name.value.into()
}

fn language_code(language: Language) -> &'static str {
    language.pick("en", "es", "pt")
}

fn initial(file: &File) -> Option<Initial> {
    Some(match file.initial.as_ref()? {
        InitialEntry::Status(status) => Initial::Status(status.value.as_str().into()),
        InitialEntry::From {
            pointer,
            ignore_case,
            default,
        } => Initial::From {
            pointer: pointer.value.clone(),
            ignore_case: *ignore_case,
            default: default.as_ref().map(|default| default.value.as_str().into()),
        },
    })
}

fn status_of(entry: StatusEntry, language: Language) -> (Arc<str>, Status) {
    let required = |require: Require| Require {
        message: require
            .message
            .or_else(|| Some(language.required_for_status().to_owned())),
        ..require
    };
    let status = Status {
        aliases: entry.aliases.into_iter().map(shared).collect(),
        steps: entry.steps.into_iter().map(shared).collect(),
        next: entry
            .next
            .into_iter()
            .map(|branch| Branch {
                when: branch.when,
                to: shared(branch.to),
            })
            .collect(),
        to: entry.to.into_iter().map(shared).collect(),
        refused: entry.refused.map(shared),
        is_final: entry.is_final,
        undo: entry.undo,
        releases_lane: entry.releases_lane,
        deadline: entry.deadline.map(|(after, to)| Deadline { after, to: shared(to) }),
        require: entry.require.into_iter().map(required).collect(),
        require_steps: entry
            .require_steps
            .into_iter()
            .map(|(step, message)| RequireStep {
                step: shared(step),
                message: message.or_else(|| Some(language.not_done_yet().to_owned())),
            })
            .collect(),
        queue: entry.queue.map(|(name, attempts)| StatusQueue {
            name: name.value.into(),
            attempts,
        }),
        notifies_customer: entry.notify.is_some(),
    };
    (shared(entry.name), status)
}

fn schema_json(entry: &SchemaEntry, bundle: &Bundle, report: &mut Report<'_>) -> Option<Value> {
    let name = match entry {
        SchemaEntry::None => return Some(serde_json::json!({ "type": "object" })),
        SchemaEntry::Inline(node) => return Some(node.value.to_json()),
        SchemaEntry::File(name) => name,
    };
    let Some((_, text)) = &bundle.schema else {
        let message = format!("the schema file \"{}\" is not there", name.value);
        let help = "it is looked for beside this file".to_owned();
        report.error("type/no-schema-file", &name.span, message, Some(help));
        return None;
    };
    match serde_json::from_str(text) {
        Ok(json) => Some(json),
        Err(error) => {
            let at = offset(text, error.line(), error.column());
            let message = "the schema file is not valid JSON".to_owned();
            report.schema_error("type/bad-schema", &(at..at + 1), message, Some(error.to_string()));
            None
        }
    }
}

fn schema(json: &Value, entry: &SchemaEntry, bundle: &Bundle, report: &mut Report<'_>) -> Option<Schema> {
    let faults = match Schema::compile(json.clone()) {
        Ok(schema) => return Some(schema),
        Err(faults) => faults,
    };
    for fault in faults {
        let message = "the schema is not valid";
        match (entry, &bundle.schema) {
            (SchemaEntry::Inline(node), _) => {
                report.error(
                    "type/bad-schema",
                    &node.place(&fault.pointer),
                    message,
                    Some(fault.message),
                );
            }
            (_, Some((_, text))) => {
                let span = locate::place(text, &fault.pointer);
                report.schema_error("type/bad-schema", &span, message.to_owned(), Some(fault.message));
            }
            _ => report.error("type/bad-schema", &(0..0), message, Some(fault.message)),
        }
    }
    None
}

/// The place of a line and a column, both from 1, in bytes.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    before + column.saturating_sub(1)
}

/// A format that nothing checks is mostly a slip of the pen.
fn unknown_formats(schema: &Schema, entry: &SchemaEntry, report: &mut Report<'_>) {
    const FORMATS: [&str; 9] = [
        "money",
        "iso4217",
        "email",
        "date",
        "date-time",
        "time",
        "uuid",
        "uri",
        "hostname",
    ];
    for (pointer, format) in schema.unknown_formats() {
        let message = format!("the format \"{format}\" is checked by nothing");
        let help = did_you_mean(&format, FORMATS);
        match entry {
            SchemaEntry::Inline(node) => report.warning("type/unknown-format", &node.place(&pointer), message, help),
            SchemaEntry::File(name) => {
                report.warning(
                    "type/unknown-format",
                    &name.span,
                    format!("{message} (at {pointer})"),
                    help,
                );
            }
            SchemaEntry::None => {}
        }
    }
}

/// Examples are shown to people as what they can send, so they must be right.
fn invalid_example(schema: &Schema, file: &File, report: &mut Report<'_>) {
    let Some(example) = schema.json().get("examples").and_then(|examples| examples.get(0)) else {
        return;
    };
    let sums = file
        .rules
        .iter()
        .filter_map(|rule| sum_fault(rule, example, Language::English));
    let dates = file
        .wire
        .wire
        .dates()
        .iter()
        .filter_map(|rule| rule.fault(example, Language::English));
    let fault = schema
        .faults(example, Language::English)
        .into_iter()
        .chain(sums)
        .chain(dates)
        .next();
    if let Some(fault) = fault {
        let span = match &file.schema {
            SchemaEntry::Inline(node) => node.place("/examples"),
            SchemaEntry::File(name) => name.span.clone(),
            SchemaEntry::None => 0..0,
        };
        let message = "the first example of the schema is not valid itself";
        let help = format!("{} {}", fault.pointer, fault.detail);
        report.warning("type/invalid-example", &span, message, Some(help));
    }
}

impl Definition {
    /// Everything that is wrong with some data: what breaks the schema, then dates and sums; messages in the type's
    /// language. Empty: the data is valid.
    pub fn validate(&self, data: &Value) -> Vec<Fault> {
        let language = self.wire.language();
        if !data.is_object() {
            let detail = language.keyword("type", &Value::from("object"));
            return vec![Fault {
                pointer: String::new(),
                code: "type".to_owned(),
                detail,
            }];
        }
        let mut faults = self.schema.faults(data, language);
        for date in self.wire.dates() {
            let at_fault = faults.iter().any(|fault| fault.pointer == date.pointer);
            faults.extend(date.fault(data, language).filter(|_| !at_fault));
        }
        for rule in &self.order_type.rules {
            if let Some(fault) = sum_fault(rule, data, language)
                && !faults.iter().any(|known| known.pointer == fault.pointer)
            {
                faults.push(fault);
            }
        }
        faults
    }

    /// The type as a Mermaid `stateDiagram-v2`: statuses, ways, steps.
    pub fn mermaid(&self) -> String {
        mermaid::draw(&self.order_type)
    }

    /// A small example of the data: the schema's first example, or one made up from the schema.
    pub fn sample(&self) -> Value {
        sample::sample(self.schema.json())
    }

    /// The example as the mount takes it: under the wire's names, and with a status where a submission names one.
    pub fn wire_sample(&self) -> Value {
        let status = match &self.order_type.initial {
            Initial::Status(_) => None,
            Initial::From { default, .. } => default
                .as_deref()
                .or_else(|| self.order_type.statuses.keys().next().map(AsRef::as_ref)),
        };
        self.wire.as_sent(&self.sample(), status)
    }
}
