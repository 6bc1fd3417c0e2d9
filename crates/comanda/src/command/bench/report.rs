//! What `bench` says in the end.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::check::Checked;
use super::drive::Driven;
use crate::cli::Bench;
use crate::config::units::show;
use crate::failure::Failure;
use crate::output::Output;

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

pub(super) fn print(
    args: &Bench,
    driven: &Driven,
    checked: Option<&Checked>,
    output: &mut Output,
) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&as_json(args, driven, checked))?);
    }
    let accepted = per_second(driven.accepted(), driven.took);
    output.line(&format!(
        "accepted    {} in {}: {accepted}/s",
        driven.accepted(),
        show(driven.took)
    ))?;
    output.line(&format!("submit      {}", latencies(&driven.submit)))?;
    if !driven.followed.is_empty() {
        output.line(&format!(
            "to the end  {} ({} orders followed)",
            latencies(&driven.followed),
            driven.followed.len()
        ))?;
    }
    if driven.turned_away > 0 {
        output.line(&format!("turned away {} (the server was full)", driven.turned_away))?;
    }
    if let Some(failure) = &driven.failure {
        output.line(&format!("failed      {}, such as: {failure}", driven.failed))?;
    }
    let Some(checked) = checked else {
        return Ok(output.line("not checked (--no-check): how many of these orders are there is not known")?);
    };
    if checked.completed > 0 {
        let completed = per_second(checked.completed, checked.span);
        output.line(&format!(
            "completed   {} in {}: {completed}/s",
            checked.completed,
            show(checked.span)
        ))?;
        output.line(&format!(
            "in store    {} (acceptance to end, all orders)",
            latencies(&checked.to_final)
        ))?;
    }
    let mut verdict = format!("{} of {} accepted orders are there", checked.found, driven.accepted());
    for (count, what) in [
        (checked.completed, "final"),
        (checked.waiting, "waiting as their type says"),
        (checked.dead, "DEAD LETTERS"),
        (checked.moving, "STILL AT WORK"),
        (checked.lost, "LOST"),
        (checked.repeated, "answered twice"),
        (checked.unanswered, "more that came meanwhile without an answer to us"),
    ] {
        if count > 0 {
            verdict.push_str(&format!(", {count} {what}"));
        }
    }
    output.line(&format!("checked     {verdict}"))?;
    for id in &checked.named {
        output.line(&format!("            see: comanda get {id} --history"))?;
    }
    Ok(())
}

fn per_second(count: u64, span: Duration) -> u64 {
    let rate = (u128::from(count) * 1_000_000).checked_div(span.as_micros());
    rate.map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
}

fn latencies(histogram: &Histogram<u64>) -> String {
    let at = |micros| show(Duration::from_micros(micros));
    let parts: Vec<String> = QUANTILES
        .iter()
        .map(|(name, quantile)| format!("{name} {}", at(histogram.value_at_quantile(*quantile))))
        .collect();
    format!("{}  max {}", parts.join("  "), at(histogram.max()))
}

fn quantiles(histogram: &Histogram<u64>) -> Value {
    json!({
        "count": histogram.len(),
        "p50": histogram.value_at_quantile(0.5),
        "p99": histogram.value_at_quantile(0.99),
        "p999": histogram.value_at_quantile(0.999),
        "max": histogram.max(),
    })
}

fn as_json(args: &Bench, driven: &Driven, checked: Option<&Checked>) -> Value {
    let checked = checked.map(|checked| {
        json!({
            "found": checked.found,
            "completed": checked.completed,
            "completedPerSecond": per_second(checked.completed, checked.span),
            "waiting": checked.waiting,
            "dead": checked.dead,
            "moving": checked.moving,
            "lost": checked.lost,
            "repeated": checked.repeated,
            "unanswered": checked.unanswered,
            "toFinalMicros": quantiles(&checked.to_final),
        })
    });
    json!({
        "type": args.order_type,
        "connections": args.connections,
        "batch": args.batch,
        "rate": args.rate,
        "tookMs": u64::try_from(driven.took.as_millis()).unwrap_or(u64::MAX),
        "accepted": driven.accepted(),
        "acceptedPerSecond": per_second(driven.accepted(), driven.took),
        "turnedAway": driven.turned_away,
        "failed": driven.failed,
        "failure": driven.failure,
        "submitMicros": quantiles(&driven.submit),
        "followedMicros": quantiles(&driven.followed),
        "check": checked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_whole_and_never_divide_by_nothing() {
        assert_eq!(per_second(10, Duration::from_millis(2500)), 4);
        assert_eq!(per_second(10, Duration::ZERO), 0);
    }
}
