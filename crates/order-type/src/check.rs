//! Checks a file as a whole: that every name leads somewhere, that every order can reach an end, and that what steps
//! read is there by then.

use std::collections::{BTreeMap, BTreeSet};

use comanda_model::order_type::{Action, Step};
use serde_json::Value;

use crate::definition::Known;
use crate::diagnostic::{Report, did_you_mean};
use crate::file::{File, InitialEntry, StatusEntry};
use crate::schema::lacks;
use crate::tree::{Located, Span};
use crate::{effects, names};

/// Everything that can be said only of the whole file. `schema` is the JSON of the schema, absent where it could not
/// be read; one that is not valid still shows which fields there are.
pub(crate) fn check(file: &File, schema: Option<&Value>, known: &Known, report: &mut Report<'_>) {
    let sound = statuses_exist(file, report) & spellings_are_clear(file, report);
    steps_exist(file, report);
    pointers_lead_somewhere(file, schema, report);
    queues_are_of_one_kind(file, report);
    dead_ends(file, report);
    // Whether a status can be reached means nothing while names lead nowhere.
    if sound && !file.statuses.is_empty() {
        reachable(file, report);
        circles(file, report);
    }
    let run = steps_run_before(file);
    read_names(file, &run, schema, known, report);
    archives_are_set_up(file, known, report);
    notices_have_a_place(file, report);
    effects::check(file, &run, report);
}

fn archives_are_set_up(file: &File, known: &Known, report: &mut Report<'_>) {
    let Some(there) = &known.archives else { return };
    let unknown = file.steps.iter().filter_map(|step| step.archive.as_ref());
    for name in unknown.filter(|name| !there.contains(&name.value)) {
        let message = format!("the archive `{}` is not set up", name.value);
        let near = crate::diagnostic::nearest(&name.value, there.iter().map(String::as_str));
        let help = match near {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!(
                "name a place in comanda.toml: [archives.{}]; without one it is a directory beside the data",
                name.value
            ),
        };
        report.warning("type/missing-archive", &name.span, message, Some(help));
    }
}

fn notices_have_a_place(file: &File, report: &mut Report<'_>) {
    let of_statuses = file.statuses.iter().filter_map(|status| status.notify.as_ref());
    let of_steps = file.steps.iter().filter_map(|step| step.notify.as_ref());
    let mut named = of_statuses.chain(of_steps);
    match (&file.notify, named.next()) {
        (None, Some(span)) => {
            let message = "the customer is to be told, but the type does not say where";
            let help = "name the e-mail address in the data: [notify] email = \"/email\"".to_owned();
            report.error("type/no-notify-address", span, message, Some(help));
        }
        (Some((_, span)), None) => {
            let message = "nothing uses [notify]";
            let help = "a status or `exhausted` says when: notify = [\"customer\"]".to_owned();
            report.warning("type/unused-notify", span, message, Some(help));
        }
        _ => {}
    }
}

fn status_names(file: &File) -> impl Iterator<Item = &str> + Clone {
    file.statuses.iter().map(|status| status.name.value.as_str())
}

fn is_status(file: &File, name: &str) -> bool {
    status_names(file).any(|status| status == name)
}

fn statuses_exist(file: &File, report: &mut Report<'_>) -> bool {
    let mut sound = true;
    let mut check = |what: &str, name: &Located<String>| {
        if !is_status(file, &name.value) {
            sound = false;
            let message = format!("`{what}` names a status that does not exist");
            let help = did_you_mean(&name.value, status_names(file));
            report.error("type/unknown-status", &name.span, message, help);
        }
    };
    match &file.initial {
        Some(InitialEntry::Status(name)) => check("initial", name),
        Some(InitialEntry::From {
            default: Some(name), ..
        }) => check("initial.default", name),
        _ => {}
    }
    for (what, name) in [("refused", &file.refused), ("cancel", &file.cancel)] {
        if let Some(name) = name {
            check(what, name);
        }
    }
    for status in &file.statuses {
        status.next.iter().for_each(|branch| check("next", &branch.to));
        status.to.iter().for_each(|name| check("to", name));
        status.refused.iter().for_each(|name| check("refused", name));
        status.deadline.iter().for_each(|(_, name)| check("deadline", name));
    }
    sound
}

/// Two spellings of a status must never mean two statuses.
fn spellings_are_clear(file: &File, report: &mut Report<'_>) -> bool {
    let ignore_case = matches!(file.initial, Some(InitialEntry::From { ignore_case: true, .. }));
    let mut spellings: BTreeMap<String, &str> = BTreeMap::new();
    let mut sound = true;
    for status in &file.statuses {
        for spelling in std::iter::once(&status.name).chain(&status.aliases) {
            let folded = if ignore_case {
                spelling.value.to_lowercase()
            } else {
                spelling.value.clone()
            };
            if let Some(other) = spellings.insert(folded, &status.name.value)
                && other != status.name.value
            {
                sound = false;
                let message = format!("\"{}\" is already a spelling of the status `{other}`", spelling.value);
                report.error("type/ambiguous-status", &spelling.span, message, None);
            }
        }
    }
    sound
}

fn steps_exist(file: &File, report: &mut Report<'_>) {
    let names = file.steps.iter().map(|step| step.name.value.as_str());
    let mut used = BTreeSet::new();
    for status in &file.statuses {
        let mut here = BTreeSet::new();
        for step in &status.steps {
            used.insert(step.value.as_str());
            if !names.clone().any(|name| name == step.value) {
                let message = format!("`steps` names a step that does not exist: `{}`", step.value);
                report.error(
                    "type/unknown-step",
                    &step.span,
                    message,
                    did_you_mean(&step.value, names.clone()),
                );
            } else if !here.insert(step.value.as_str()) {
                let message = format!("the step `{}` stands twice in one status", step.value);
                report.error(
                    "type/repeated-step",
                    &step.span,
                    message,
                    Some("give the second one its own name".to_owned()),
                );
            }
        }
    }
    for (step, _) in file.statuses.iter().flat_map(|status| &status.require_steps) {
        if !names.clone().any(|name| name == step.value) {
            let message = format!("`require` names a step that does not exist: `{}`", step.value);
            let help = did_you_mean(&step.value, names.clone());
            report.error("type/unknown-step", &step.span, message, help);
        }
    }
    for step in &file.steps {
        if !used.contains(step.name.value.as_str()) {
            let message = format!("no status runs the step `{}`", step.name.value);
            report.warning("type/unused-step", &step.name.span, message, None);
        }
    }
}

/// A worker must know what it is given: work that the order waits for, or word of a status.
fn queues_are_of_one_kind(file: &File, report: &mut Report<'_>) {
    let works_in = |step: &Step, name: &str| matches!(&step.action, Action::Queue(queue) if **queue == *name);
    for (name, _) in file.statuses.iter().filter_map(|status| status.queue.as_ref()) {
        let works = file.steps.iter().find(|entry| {
            let undo = entry.step.undo.as_deref();
            works_in(&entry.step, &name.value) || undo.is_some_and(|undo| works_in(undo, &name.value))
        });
        if let Some(entry) = works {
            let message = format!(
                "the step `{}` already works in the queue `{}`",
                entry.name.value, name.value
            );
            let help = "give the status a queue of its own".to_owned();
            report.error("type/two-queues", &name.span, message, Some(help));
        }
    }
}

fn pointers_lead_somewhere(file: &File, schema: Option<&Value>, report: &mut Report<'_>) {
    let Some(schema) = schema else { return };
    for pointer in file.pointers.iter().chain(&file.wire.pointers) {
        if let Some(lack) = lacks(schema, &pointer.value) {
            let message = format!(
                "\"{}\" leads nowhere: the schema has no `{}` there",
                pointer.value, lack.token
            );
            let help = did_you_mean(&lack.token, lack.known.iter().map(String::as_str));
            report.error("type/unknown-field", &pointer.span, message, help);
        }
    }
}

fn dead_ends(file: &File, report: &mut Report<'_>) {
    for status in &file.statuses {
        let name = &status.name.value;
        match (&status.way_out, status.is_final) {
            (Some(span), true) => {
                let message = format!("`{name}` is final, yet has a way on");
                let help = "a final status has no steps, no next, no to, no refused and no deadline".to_owned();
                report.error("type/final-with-way-out", span, message, Some(help));
            }
            (None, false) => {
                let message = format!("an order in `{name}` would be stuck: nothing leads out of it");
                let help = "give it steps, next, to or a deadline, or say final = true".to_owned();
                report.error("type/stuck", &status.name.span, message, Some(help));
            }
            _ => {}
        }
    }
}

/// Where an order may go from a status.
fn ways<'f>(file: &'f File, status: &'f StatusEntry) -> BTreeSet<&'f str> {
    let mut ways: BTreeSet<&str> = status.next.iter().map(|branch| branch.to.value.as_str()).collect();
    ways.extend(status.to.iter().map(|name| name.value.as_str()));
    ways.extend(status.deadline.iter().map(|(_, name)| name.value.as_str()));
    if !status.steps.is_empty() {
        let refused = status.refused.as_ref().or(file.refused.as_ref());
        ways.extend(refused.map(|name| name.value.as_str()));
    }
    ways
}

fn reachable(file: &File, report: &mut Report<'_>) {
    let begin: Vec<&str> = match &file.initial {
        Some(InitialEntry::Status(name)) => vec![name.value.as_str()],
        // The submission may name any of them.
        Some(InitialEntry::From { .. }) => status_names(file).collect(),
        None => return,
    };
    let forward: BTreeMap<&str, BTreeSet<&str>> = file
        .statuses
        .iter()
        .map(|status| (status.name.value.as_str(), ways(file, status)))
        .collect();
    let mut backward: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, ways) in &forward {
        for to in ways {
            backward.entry(to).or_default().insert(from);
        }
    }
    let ends: Vec<&str> = file
        .statuses
        .iter()
        .filter(|status| status.is_final)
        .map(|status| status.name.value.as_str())
        .collect();
    if ends.is_empty() {
        let span = file.statuses.first().map_or(0..0, |status| status.name.span.clone());
        let help = "say final = true of those where an order ends".to_owned();
        report.error(
            "type/no-way-to-final",
            &span,
            "no status is final: no order would ever end",
            Some(help),
        );
    }
    let reached = closure(begin, &forward);
    let ending = closure(ends.clone(), &backward);
    for status in &file.statuses {
        let name = status.name.value.as_str();
        if !reached.contains(name) {
            let message = format!("no order can ever come to `{name}`");
            report.error("type/unreachable-status", &status.name.span, message, None);
        } else if !ends.is_empty() && !ending.contains(name) && status.way_out.is_some() {
            let message = format!("from `{name}` there is no way to a final status");
            report.error("type/no-way-to-final", &status.name.span, message, None);
        }
    }
}

fn closure<'f>(begin: Vec<&'f str>, edges: &BTreeMap<&'f str, BTreeSet<&'f str>>) -> BTreeSet<&'f str> {
    let mut reached: BTreeSet<&str> = begin.iter().copied().collect();
    let mut open = begin;
    while let Some(name) = open.pop() {
        for next in edges.get(name).into_iter().flatten() {
            if reached.insert(next) {
                open.push(next);
            }
        }
    }
    reached
}

/// Statuses that lead into one another without a step or a wait would keep an order going round for ever.
fn circles(file: &File, report: &mut Report<'_>) {
    let edges: BTreeMap<&str, BTreeSet<&str>> = file
        .statuses
        .iter()
        .filter(|status| status.steps.is_empty())
        .map(|status| {
            let next = status.next.iter().map(|branch| branch.to.value.as_str());
            (status.name.value.as_str(), next.collect())
        })
        .collect();
    for status in &file.statuses {
        let name = status.name.value.as_str();
        let begin: Vec<&str> = edges.get(name).into_iter().flatten().copied().collect();
        if let Some(first) = begin.first().copied()
            && closure(begin, &edges).contains(name)
        {
            let message = format!("`{name}` leads back to itself through statuses without steps");
            let span: Span = status
                .next
                .iter()
                .find(|branch| branch.to.value == first)
                .map_or_else(|| status.name.span.clone(), |branch| branch.to.span.clone());
            report.error(
                "type/endless",
                &span,
                message,
                Some("an order would go round for ever".to_owned()),
            );
        }
    }
}

/// For each status, the steps that may have run before an order enters it.
fn steps_run_before(file: &File) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut before: BTreeMap<&str, BTreeSet<&str>> = status_names(file).map(|name| (name, BTreeSet::new())).collect();
    loop {
        let mut changed = false;
        for status in &file.statuses {
            let mut after = before.get(status.name.value.as_str()).cloned().unwrap_or_default();
            after.extend(status.steps.iter().map(|step| step.value.as_str()));
            for to in ways(file, status) {
                if let Some(target) = before.get_mut(to) {
                    let size = target.len();
                    target.extend(&after);
                    changed |= target.len() > size;
                }
            }
        }
        if !changed {
            return before;
        }
    }
}

fn read_names(
    file: &File,
    before: &BTreeMap<&str, BTreeSet<&str>>,
    schema: Option<&Value>,
    known: &Known,
    report: &mut Report<'_>,
) {
    let mut run_by_step: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for status in &file.statuses {
        let mut run = before.get(status.name.value.as_str()).cloned().unwrap_or_default();
        for name in &status.steps {
            run_by_step.entry(name.value.as_str()).or_default().extend(&run);
            run.insert(name.value.as_str());
        }
        for used in &status.uses {
            names::check(used, &run, file, schema, known, report);
        }
    }
    let all: BTreeSet<&str> = file.steps.iter().map(|step| step.name.value.as_str()).collect();
    for step in &file.steps {
        let name = step.name.value.as_str();
        // A step that no status runs is told as that alone.
        let run = run_by_step.get(name).unwrap_or(&all);
        let mut with_itself = run.clone();
        with_itself.insert(name);
        for used in &step.uses {
            let run = if used.within == crate::file::UseIn::Undo {
                &with_itself
            } else {
                run
            };
            names::check(used, run, file, schema, known, report);
        }
    }
}
