//! The file as it was written: every section read into its own shape, with the places that later checks point to.

mod built_in;
mod call;
mod notify;
mod rust;
mod status;
mod step;

use comanda_model::order_type::{DeadLetterInLane, FifoScope, Notify, SumRule};

pub(crate) use status::StatusEntry;
pub(crate) use step::{StepEntry, Use, UseIn};

use crate::diagnostic::{Report, did_you_mean};
use crate::fields::{Fields, is_pointer, text_of, wrong_kind};
use crate::language::Language;
use crate::pointer::tokens;
use crate::tree::{Key, Located, Node, Span, Tree};
use crate::wire::{self, Surroundings};

/// The longest name of a type, status or step, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// The most statuses or steps of one type.
const ENTRIES_MAX: usize = 200;

/// Names that would hide a route of the API, since a type's mount stands at `/{name}`.
const RESERVED: [&str; 5] = ["v1", "docs", "healthz", "readyz", "metrics"];

/// The whole file.
pub(crate) struct File {
    pub name: Located<String>,
    pub language: Language,
    pub initial: Option<InitialEntry>,
    pub key: Option<Located<String>>,
    pub customer: Option<Located<String>>,
    pub fifo: Option<FifoEntry>,
    pub refused: Option<Located<String>>,
    pub cancel: Option<Located<String>>,
    pub schema: SchemaEntry,
    pub rules: Vec<SumRule>,
    /// `[notify]`, with its place.
    pub notify: Option<(Notify, Span)>,
    /// `erase.keep`, if the file says it.
    pub erase_keep: Option<Vec<String>>,
    pub statuses: Vec<StatusEntry>,
    pub steps: Vec<StepEntry>,
    pub wire: wire::Parsed,
    /// Pointers into the data, from everywhere but `[wire]`.
    pub pointers: Vec<Located<String>>,
}

/// `initial`.
pub(crate) enum InitialEntry {
    Status(Located<String>),
    From {
        pointer: Located<String>,
        ignore_case: bool,
        default: Option<Located<String>>,
    },
}

/// `fifo`.
pub(crate) struct FifoEntry {
    /// `None`: all orders in one lane.
    pub key: Option<String>,
    pub scope: FifoScope,
    pub dead_letter: DeadLetterInLane,
}

/// `schema`.
pub(crate) enum SchemaEntry {
    /// There is none.
    None,
    /// A file beside this one.
    File(Located<String>),
    /// In this file.
    Inline(Node),
}

/// Reads the whole file. What is wrong is reported; the rest is read as far as it goes.
pub(crate) fn parse(root: &Node, report: &mut Report<'_>) -> Option<File> {
    let top: Span = 0..0;
    let mut fields = Fields::of(root, &top, "the file", report)?;
    let name = fields
        .need("name", report)
        .and_then(|(_, node)| text_of("name", node, report));
    let name = name.filter(|name| is_type_name(name, report)).unwrap_or(Located {
        value: String::new(),
        span: top,
    });
    let language = language(&mut fields, report);
    let initial = initial(&mut fields, report);
    let key = fields.pointer("key", report);
    let customer = fields.pointer("customer", report);
    let fifo = fifo(&mut fields, report);
    let refused = fields.text("refused", report);
    let cancel = fields.text("cancel", report);
    let schema = schema(&mut fields, report);
    let status_from = match &initial {
        Some(InitialEntry::From { pointer, .. }) => Some(pointer),
        _ => None,
    };
    let around = Surroundings {
        language,
        key: key.as_ref(),
        status_from,
    };
    let wire = wire::parse(fields.take("wire"), &around, report);
    let mut pointers = Vec::new();
    let rules = rules(&mut fields, &mut pointers, report);
    let erase_keep = erase_keep(&mut fields, &mut pointers, report);
    let statuses = statuses(&mut fields, &mut pointers, report);
    let steps = steps(&mut fields, &mut pointers, report);
    let notify = notify::place(&mut fields, &mut pointers, report);
    if let Some(Some(key)) = fifo.as_ref().map(|(_, key)| key) {
        pointers.push(key.clone());
    }
    pointers.extend(customer.clone());
    if !wire.key_is_moved {
        pointers.extend(key.clone());
    }
    fields.finish(&["archive", "queue", "auth", "secret", "retention"], report);
    Some(File {
        name,
        language,
        initial,
        key,
        customer,
        fifo: fifo.map(|(entry, _)| entry),
        refused,
        cancel,
        schema,
        rules,
        notify,
        erase_keep,
        statuses,
        steps,
        wire,
        pointers,
    })
}

fn is_type_name(name: &Located<String>, report: &mut Report<'_>) -> bool {
    let text = name.value.as_str();
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !plain || !text.starts_with(|first: char| first.is_ascii_lowercase()) || text.ends_with('-') || text.len() > 64 {
        let help = "a type's name is in kebab-case, at most 64 letters: \"work-order\"".to_owned();
        report.error(
            "type/bad-name",
            &name.span,
            format!("\"{text}\" is no name of a type"),
            Some(help),
        );
        return false;
    }
    if RESERVED.contains(&text) {
        let message = format!("\"{text}\" is a route of the API, where this type's mount would stand");
        report.error("type/bad-name", &name.span, message, None);
        return false;
    }
    true
}

/// Whether a status or a step may have this name.
fn is_name(key: &Key, what: &str, report: &mut Report<'_>) -> bool {
    let text = key.value.as_str();
    let bad = text.trim() != text || text.is_empty() || text.len() > NAME_BYTES_MAX;
    if bad || text.chars().any(char::is_control) {
        let help = format!("1 to {NAME_BYTES_MAX} bytes, without spaces at its ends or control characters");
        report.error(
            "type/bad-name",
            &key.span,
            format!("\"{text}\" is no name of a {what}"),
            Some(help),
        );
        return false;
    }
    true
}

fn language(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Language {
    let Some(code) = fields.text("language", report) else {
        return Language::default();
    };
    Language::of(&code.value).unwrap_or_else(|| {
        let message = format!("there are no messages in \"{}\"", code.value);
        report.error(
            "type/unknown-language",
            &code.span,
            message,
            did_you_mean(&code.value, Language::CODES),
        );
        Language::default()
    })
}

fn initial(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<InitialEntry> {
    let (key, node) = fields.need("initial", report)?;
    match &node.value {
        Tree::Text(_) => text_of("initial", node, report).map(InitialEntry::Status),
        Tree::Table(_) => {
            let mut inner = Fields::of(node, &key.span, "`initial`", report)?;
            if inner.take("from").is_none() {
                inner.missing("from", report);
            }
            let pointer = inner.pointer("from", report);
            let ignore_case = inner.flag("ignore_case", report).is_some_and(|flag| flag.value);
            let default = inner.text("default", report);
            inner.finish(&[], report);
            let pointer = pointer?;
            if tokens(&pointer.value).count() != 1 {
                let message = "`initial.from` must be a member at the top of what is sent".to_owned();
                report.error("type/bad-pointer", &pointer.span, message, None);
                return None;
            }
            Some(InitialEntry::From {
                pointer,
                ignore_case,
                default,
            })
        }
        other => {
            wrong_kind("initial", "a status or { from = \"/…\" }", other, &node.span, report);
            None
        }
    }
}

/// The entry, and the group key with its place.
fn fifo(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<(FifoEntry, Option<Located<String>>)> {
    let (key, node) = fields.take("fifo")?;
    let mut inner = Fields::of(node, &key.span, "`fifo`", report)?;
    let group = match inner.need("key", report) {
        Some((_, node)) => text_of("key", node, report).filter(|group| group.value != "*"),
        None => None,
    };
    let group = group.filter(|group| is_pointer(group, report));
    let scope = choice(
        &mut inner,
        "scope",
        &[("life", FifoScope::Life), ("status", FifoScope::Status)],
        report,
    );
    let dead_letter = [("park", DeadLetterInLane::Park), ("leave", DeadLetterInLane::Leave)];
    let dead_letter = choice(&mut inner, "dead_letter", &dead_letter, report);
    inner.finish(&[], report);
    let entry = FifoEntry {
        key: group.as_ref().map(|group| group.value.clone()),
        scope: scope.unwrap_or(FifoScope::Life),
        dead_letter: dead_letter.unwrap_or(DeadLetterInLane::Park),
    };
    Some((entry, group))
}

/// One of some words.
fn choice<T: Copy>(
    fields: &mut Fields<'_>,
    name: &'static str,
    choices: &[(&'static str, T)],
    report: &mut Report<'_>,
) -> Option<T> {
    let text = fields.text(name, report)?;
    let found = choices.iter().find(|(word, _)| *word == text.value);
    if found.is_none() {
        let words = choices.iter().map(|(word, _)| *word);
        let message = format!("`{name}` cannot be \"{}\"", text.value);
        report.error(
            "type/unknown-value",
            &text.span,
            message,
            did_you_mean(&text.value, words),
        );
    }
    found.map(|(_, value)| *value)
}

fn schema(fields: &mut Fields<'_>, report: &mut Report<'_>) -> SchemaEntry {
    let Some((_, node)) = fields.take("schema") else {
        let message = "the type has no `schema`: every JSON object would be accepted";
        report.warning(
            "type/no-schema",
            fields.span(),
            message,
            Some("add a [schema], or name a file".to_owned()),
        );
        return SchemaEntry::None;
    };
    match &node.value {
        Tree::Text(_) => text_of("schema", node, report).map_or(SchemaEntry::None, SchemaEntry::File),
        Tree::Table(_) => SchemaEntry::Inline(node.clone()),
        other => {
            wrong_kind("schema", "a file name or a table", other, &node.span, report);
            SchemaEntry::None
        }
    }
}

fn rules(fields: &mut Fields<'_>, pointers: &mut Vec<Located<String>>, report: &mut Report<'_>) -> Vec<SumRule> {
    let Some((key, node)) = fields.take("rules") else {
        return Vec::new();
    };
    let Tree::List(items) = &node.value else {
        wrong_kind("rules", "a list of tables ([[rules]])", &node.value, &key.span, report);
        return Vec::new();
    };
    let mut rules = Vec::with_capacity(items.len());
    for item in items {
        let Some(mut fields) = Fields::of(item, &key.span, "[[rules]]", report) else {
            continue;
        };
        if let Some((key, node)) = fields.need("sum", report)
            && let Some(mut sum) = Fields::of(node, &key.span, "`sum`", report)
        {
            let mut pointer = |name: &'static str| {
                if sum.take(name).is_none() {
                    sum.missing(name, report);
                }
                sum.pointer(name, report)
            };
            let (of, equals) = (pointer("of"), pointer("equals"));
            if sum.take("product").is_none() {
                sum.missing("product", report);
            }
            let product = sum.texts("product", report);
            sum.finish(&[], report);
            pointers.extend([&of, &equals].into_iter().flatten().cloned());
            if let (Some(of), Some(equals)) = (of, equals) {
                for name in &product {
                    let value = format!("{}/0{}", of.value, crate::pointer::token(&name.value));
                    pointers.push(Located {
                        value,
                        span: name.span.clone(),
                    });
                }
                let product = product.into_iter().map(|name| name.value).collect();
                rules.push(SumRule {
                    of: of.value,
                    product,
                    equals: equals.value,
                });
            }
        }
        fields.finish(&[], report);
    }
    rules
}

/// `erase.keep`: pointers in which `*` stands for every item of an array.
fn erase_keep(
    fields: &mut Fields<'_>,
    pointers: &mut Vec<Located<String>>,
    report: &mut Report<'_>,
) -> Option<Vec<String>> {
    let (key, node) = fields.take("erase")?;
    let mut inner = Fields::of(node, &key.span, "`erase`", report)?;
    if inner.take("keep").is_none() {
        inner.missing("keep", report);
    }
    let keep = inner.texts("keep", report);
    inner.finish(&[], report);
    let mut kept = Vec::with_capacity(keep.len());
    for pointer in keep.into_iter().filter(|pointer| is_pointer(pointer, report)) {
        pointers.push(Located {
            // Whether the schema has it is asked of the first item.
            value: pointer.value.replace("/*", "/0"),
            span: pointer.span.clone(),
        });
        kept.push(pointer.value);
    }
    Some(kept)
}

/// The tables of a section, by name.
fn section<'n>(
    fields: &mut Fields<'n>,
    name: &'static str,
    what: &str,
    report: &mut Report<'_>,
) -> Vec<(&'n Key, &'n Node)> {
    let Some((key, node)) = fields.take(name) else {
        return Vec::new();
    };
    let Tree::Table(entries) = &node.value else {
        wrong_kind(name, "tables by name", &node.value, &node.span, report);
        return Vec::new();
    };
    if entries.len() > ENTRIES_MAX {
        let message = format!("a type has at most {ENTRIES_MAX} {name}");
        report.error("type/too-many", &key.span, message, None);
    }
    entries
        .iter()
        .take(ENTRIES_MAX)
        .filter(|(key, _)| is_name(key, what, report))
        .map(|(key, node)| (key, node))
        .collect()
}

fn statuses(fields: &mut Fields<'_>, pointers: &mut Vec<Located<String>>, report: &mut Report<'_>) -> Vec<StatusEntry> {
    let entries = section(fields, "statuses", "status", report);
    if entries.is_empty() {
        let help = "add [statuses.NAME], one for each place where an order can stand".to_owned();
        report.error(
            "type/missing-key",
            fields.span(),
            "the type has no `statuses`",
            Some(help),
        );
    }
    entries
        .into_iter()
        .map(|(key, node)| status::parse(key, node, pointers, report))
        .collect()
}

fn steps(fields: &mut Fields<'_>, pointers: &mut Vec<Located<String>>, report: &mut Report<'_>) -> Vec<StepEntry> {
    let entries = section(fields, "steps", "step", report);
    entries
        .into_iter()
        .map(|(key, node)| step::parse(key, node, pointers, report))
        .collect()
}
