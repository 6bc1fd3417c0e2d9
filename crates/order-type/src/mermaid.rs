//! Draws a type as a Mermaid state diagram.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

use comanda_model::OrderType;
use comanda_model::order_type::Initial;

/// A `stateDiagram-v2`: statuses with their steps, and the ways between them.
pub(crate) fn draw(order_type: &OrderType) -> String {
    let mut out = String::from("stateDiagram-v2\n");
    // Names may hold anything, so statuses get ids of their own.
    let ids: HashMap<&str, String> = order_type
        .statuses
        .keys()
        .enumerate()
        .map(|(index, name)| (name.as_ref(), format!("s{index}")))
        .collect();
    let id = |name: &str| ids.get(name).map_or("s", String::as_str);
    for (name, status) in &order_type.statuses {
        let steps = if status.steps.is_empty() {
            String::new()
        } else {
            format!(" ({})", status.steps.join(", "))
        };
        line(
            &mut out,
            format_args!("state \"{}\" as {}", plain(&format!("{name}{steps}")), id(name)),
        );
    }
    match &order_type.initial {
        Initial::Status(name) => line(&mut out, format_args!("[*] --> {}", id(name))),
        Initial::From { default, .. } => {
            for name in order_type.statuses.keys() {
                let label = if default.as_ref() == Some(name) {
                    " : default"
                } else {
                    ""
                };
                line(&mut out, format_args!("[*] --> {}{label}", id(name)));
            }
        }
    }
    for (name, status) in &order_type.statuses {
        let from = id(name);
        for branch in &status.next {
            let label = branch
                .when
                .as_ref()
                .map(|when| format!(" : {}", plain(when.text())))
                .unwrap_or_default();
            line(&mut out, format_args!("{from} --> {}{label}", id(&branch.to)));
        }
        for to in &status.to {
            line(&mut out, format_args!("{from} --> {} : by hand", id(to)));
        }
        if let (false, Some(to)) = (status.steps.is_empty(), order_type.refused_from(name)) {
            line(&mut out, format_args!("{from} --> {} : refused", id(to)));
        }
        if let Some(deadline) = &status.deadline {
            line(
                &mut out,
                format_args!("{from} --> {} : after {}", id(&deadline.to), shown(deadline.after)),
            );
        }
        if status.is_final {
            line(&mut out, format_args!("{from} --> [*]"));
        }
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "    {text}");
}

/// A label without what Mermaid gives a meaning.
fn plain(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '"' => '\'',
            ':' | ';' | '#' => ' ',
            other if other.is_control() => ' ',
            other => other,
        })
        .collect()
}

/// A duration in its largest whole unit.
fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    for (unit, name) in [(86_400, "d"), (3600, "h"), (60, "m")] {
        if seconds >= unit && seconds.is_multiple_of(unit) {
            return format!("{}{name}", seconds / unit);
        }
    }
    format!("{duration:?}")
}
