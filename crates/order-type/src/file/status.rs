//! Reads one `[statuses.NAME]`.

use std::time::Duration;

use comanda_model::expression::Expression;
use comanda_model::order_type::Require;

use super::notify::parties;
use super::step::{Use, UseIn, expression};
use crate::diagnostic::Report;
use crate::fields::{Fields, is_pointer, queue_name, text_of, wrong_kind};
use crate::tree::{Key, Located, Node, Span, Tree};

/// How often an item of a queue is handed out where the file does not say.
const ATTEMPTS: u32 = 5;
const ATTEMPTS_MAX: u32 = 1000;

/// One status, as written.
pub(crate) struct StatusEntry {
    pub name: Key,
    pub aliases: Vec<Located<String>>,
    pub steps: Vec<Located<String>>,
    pub next: Vec<BranchEntry>,
    pub to: Vec<Located<String>>,
    pub refused: Option<Located<String>>,
    pub is_final: bool,
    pub undo: bool,
    pub releases_lane: bool,
    pub deadline: Option<(Duration, Located<String>)>,
    pub require: Vec<Require>,
    pub require_steps: Vec<(Located<String>, Option<String>)>,
    pub queue: Option<(Located<String>, u32)>,
    pub notify: Option<Span>,
    /// Names that the conditions of `next` read.
    pub uses: Vec<Use>,
    /// The first member that leads out of the status or works in it: what a final status must not have.
    pub way_out: Option<Span>,
}

/// One branch of `next`.
pub(crate) struct BranchEntry {
    pub when: Option<Expression>,
    pub to: Located<String>,
}

pub(super) fn parse(
    name: &Key,
    node: &Node,
    pointers: &mut Vec<Located<String>>,
    report: &mut Report<'_>,
) -> StatusEntry {
    let mut entry = StatusEntry {
        name: name.clone(),
        aliases: Vec::new(),
        steps: Vec::new(),
        next: Vec::new(),
        to: Vec::new(),
        refused: None,
        is_final: false,
        undo: false,
        releases_lane: false,
        deadline: None,
        require: Vec::new(),
        require_steps: Vec::new(),
        queue: None,
        notify: None,
        uses: Vec::new(),
        way_out: None,
    };
    let Some(mut fields) = Fields::of(node, &name.span, format!("[statuses.{}]", name.value), report) else {
        return entry;
    };
    for member in ["steps", "next", "to", "refused", "deadline"] {
        if let Some((key, _)) = fields.take(member) {
            let first = entry
                .way_out
                .as_ref()
                .is_none_or(|way_out| key.span.start < way_out.start);
            if first {
                entry.way_out = Some(key.span.clone());
            }
        }
    }
    entry.aliases = fields.texts("aliases", report);
    entry.steps = fields.texts("steps", report);
    entry.to = fields.texts("to", report);
    entry.refused = fields.text("refused", report);
    entry.is_final = fields.flag("final", report).is_some_and(|flag| flag.value);
    entry.undo = fields.flag("undo", report).is_some_and(|flag| flag.value);
    entry.releases_lane = fields.flag("releases_lane", report).is_some_and(|flag| flag.value);
    next(&mut fields, &mut entry, report);
    if let Some((key, node)) = fields.take("deadline")
        && let Some(mut inner) = Fields::of(node, &key.span, "`deadline`", report)
    {
        for member in ["after", "to"] {
            if inner.take(member).is_none() {
                inner.missing(member, report);
            }
        }
        let after = inner.duration("after", report);
        let to = inner.text("to", report);
        inner.finish(&[], report);
        entry.deadline = after.zip(to);
    }
    require(&mut fields, &mut entry, pointers, report);
    queue(&mut fields, &mut entry, report);
    entry.notify = parties(&mut fields, report);
    fields.finish(&["archive", "auth"], report);
    entry
}

fn next(fields: &mut Fields<'_>, entry: &mut StatusEntry, report: &mut Report<'_>) {
    let Some((key, node)) = fields.take("next") else { return };
    let items = match &node.value {
        Tree::Text(_) => {
            let to = text_of("next", node, report);
            entry.next.extend(to.map(|to| BranchEntry { when: None, to }));
            return;
        }
        Tree::List(items) => items,
        other => return wrong_kind("next", "a status or a list of branches", other, &node.span, report),
    };
    let mut open = false;
    for (index, item) in items.iter().enumerate() {
        let Some(mut branch) = Fields::of(item, &item.span, "a branch of `next`", report) else {
            return;
        };
        let when = branch.take("when").and_then(|(_, node)| {
            let text = text_of("when", node, report)?;
            expression(&text, &mut entry.uses, UseIn::Next, report).map(|when| (when, text.span))
        });
        let conditional = branch.take("when").is_some();
        let to = branch
            .need("to", report)
            .and_then(|(_, node)| text_of("to", node, report));
        branch.finish(&[], report);
        if !conditional && index + 1 < items.len() {
            let help = "a branch without `when` always holds; put it last".to_owned();
            let message = "the branches after this one are never taken";
            report.error("type/unreachable-branch", &item.span, message, Some(help));
        }
        open = conditional;
        if let Some(to) = to {
            entry.next.push(BranchEntry {
                when: when.map(|(when, _)| when),
                to,
            });
        }
    }
    if open || items.is_empty() {
        let message = "`next` has no last branch: an order for which no condition holds would be stuck";
        let span = if items.is_empty() { &node.span } else { &key.span };
        report.error(
            "type/no-last-branch",
            span,
            message,
            Some("end it with { to = \"…\" }".to_owned()),
        );
    }
}

fn queue(fields: &mut Fields<'_>, entry: &mut StatusEntry, report: &mut Report<'_>) {
    let Some((key, node)) = fields.take("queue") else {
        return;
    };
    if !matches!(node.value, Tree::Table(_)) {
        entry.queue = queue_name(node, report).map(|name| (name, ATTEMPTS));
        return;
    }
    let Some(mut inner) = Fields::of(node, &key.span, "`queue`", report) else {
        return;
    };
    let name = inner
        .need("name", report)
        .and_then(|(_, node)| queue_name(node, report));
    let attempts = inner.whole("attempts", 1, ATTEMPTS_MAX, report).unwrap_or(ATTEMPTS);
    inner.finish(&[], report);
    entry.queue = name.map(|name| (name, attempts));
}

fn require(
    fields: &mut Fields<'_>,
    entry: &mut StatusEntry,
    pointers: &mut Vec<Located<String>>,
    report: &mut Report<'_>,
) {
    let Some((_, node)) = fields.take("require") else {
        return;
    };
    let Tree::List(items) = &node.value else {
        return wrong_kind("require", "a list of pointers", &node.value, &node.span, report);
    };
    for item in items {
        let (field, message) = match &item.value {
            Tree::Table(_) => {
                let Some(mut inner) = Fields::of(item, &item.span, "an entry of `require`", report) else {
                    continue;
                };
                if let Some(step) = inner.text("step", report) {
                    let message = inner.text("message", report);
                    inner.finish(&[], report);
                    entry.require_steps.push((step, message.map(|message| message.value)));
                    continue;
                }
                if inner.take("field").is_none() {
                    inner.missing("field", report);
                }
                let field = inner.pointer("field", report);
                let message = inner.text("message", report);
                inner.finish(&[], report);
                (field, message.map(|message| message.value))
            }
            _ => (
                text_of("require", item, report).filter(|field| is_pointer(field, report)),
                None,
            ),
        };
        if let Some(field) = field {
            entry.require.push(Require {
                field: field.value.clone(),
                message,
            });
            pointers.push(field);
        }
    }
}
