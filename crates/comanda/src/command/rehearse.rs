//! `comanda try`: walks the way that an order would take, with the same decision function as the server, as if every
//! step succeeded. Nothing is stored and nothing is sent.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use comanda_model::decision::{self, Change, Due, Input, Report, StepOutcome, Submission};
use comanda_model::order_type::{Action, HttpCall, OrderType, WaitFor};
use comanda_model::{Json, Order, OrderId, Phase, WorkKind};
use comanda_order_type::{Bundle, Definition};
use jiff::Timestamp;
use minijinja::value::{Value as Context, merge_maps};
use serde_json::{Value, json};
use uuid::Uuid;

use super::read_text;
use crate::cli::Try;
use crate::config::Config;
use crate::failure::Failure;
use crate::output::Output;
use crate::types::{self, Checked, TypesError};

/// More changes than any type needs that comes to an end; one that circles is stopped here.
const CHANGES_MAX: usize = 200;

pub(super) fn run(config: &Config, args: Try, output: &mut Output) -> Result<(), Failure> {
    let definition = definition(config, &args.order_type)?;
    let text = match args.sample.as_deref() {
        Some(path) => read_text(Some(path))?.1,
        None => definition.wire_sample().to_string(),
    };
    let incoming = definition
        .wire
        .read(text.as_bytes())
        .map_err(|error| Failure::Usage(format!("the sample cannot be read: {error}")))?;
    let faults = definition.validate(&incoming.value);
    if !faults.is_empty() {
        let lines: Vec<String> = faults
            .iter()
            .map(|fault| format!("\n  {}: {} ({})", fault.pointer, fault.detail, fault.code))
            .collect();
        eprintln!("error: the order would not be accepted:{}", lines.concat());
        return Err(Failure::Reported);
    }
    let mut walk = Walk::new(config, definition.order_type.clone());
    let submission = Submission {
        id: OrderId(Uuid::now_v7()),
        key: incoming.key.clone(),
        data: incoming.data.clone(),
        value: &incoming.value,
        status: incoming.status.clone(),
        due_at: None,
        traceparent: None,
    };
    let accepted = decision::accept(&walk.order_type, submission, &walk.input);
    let accepted =
        accepted.map_err(|rejection| Failure::Usage(format!("the order would not be accepted: {rejection}")))?;
    let order = walk.step_through(accepted);
    walk.end(&order);
    let stands = matches!(order.head.phase, Phase::Dead);
    if output.is_json() {
        output.json(&Value::Array(walk.stages))?;
    } else {
        for stage in &walk.stages {
            output.text(&tell(stage))?;
        }
    }
    if stands { Err(Failure::Reported) } else { Ok(()) }
}

/// The type: by its name among those that the server would offer, or by the path of its file.
fn definition(config: &Config, name: &str) -> Result<Definition, Failure> {
    let known = types::known(config, false);
    let path = Path::new(name);
    if path.extension().is_some_and(|extension| extension == "toml") {
        let checked = Checked::new(Bundle::read(path).map_err(TypesError::from)?, &known);
        eprint!("{}", checked.rendered());
        return checked.definition.ok_or(Failure::Reported);
    }
    let (definitions, _) = types::load(&config.order_types, &known)?;
    let names: Vec<String> = definitions
        .iter()
        .map(|definition| definition.order_type.name.to_string())
        .collect();
    definitions
        .into_iter()
        .find(|definition| &*definition.order_type.name == name)
        .ok_or_else(|| {
            Failure::Usage(format!(
                "there is no order type `{name}`; there are {}",
                names.join(", ")
            ))
        })
}

struct Walk {
    order_type: Arc<OrderType>,
    input: Input,
    settings: Context,
    stages: Vec<Value>,
}

impl Walk {
    fn new(config: &Config, order_type: Arc<OrderType>) -> Self {
        let names = comanda_order_type::environment_names(&order_type);
        let process = names
            .into_iter()
            .filter_map(|name| Some((name.clone(), std::env::var(&name).ok()?)));
        let mut environment: BTreeMap<String, String> = process.collect();
        environment.extend(config.env.clone());
        // Secrets are not even read: what is printed can end up anywhere.
        let secrets = config
            .secrets
            .keys()
            .map(|name| (name.clone(), format!("<secret.{name}>")))
            .collect();
        let trusted = |values: BTreeMap<String, String>| {
            let values = values
                .into_iter()
                .map(|(name, value)| (name, Context::from_safe_string(value)));
            Context::from_object(values.collect::<BTreeMap<String, Context>>())
        };
        let settings = minijinja::context! { env => trusted(environment), secret => trusted(secrets) };
        let input = Input {
            now: Timestamp::now(),
            jitter: 0.5,
            wait_scale: 1.0,
            by: "try".into(),
        };
        Self {
            order_type,
            input,
            settings,
            stages: Vec::new(),
        }
    }

    /// Goes on until the order rests.
    fn step_through(&mut self, accepted: Change) -> Order {
        let mut order = self.take(accepted);
        for _ in 0..CHANGES_MAX {
            let order_type = self.order_type.clone();
            match decision::due(&order, &order_type, &self.input) {
                Due::Change(change) => order = self.take(*change),
                Due::Run(run) => {
                    let mut stage = json!({"kind": "step", "step": *run.name, "does": run.step.action.kind()});
                    if run.undo {
                        stage["undo"] = Value::from(true);
                    }
                    let refused = match &run.step.action {
                        Action::Http(call) => {
                            stage["sends"] = self.request(&order, call);
                            None
                        }
                        Action::Fail { reason, refuse } => {
                            stage["reason"] = Value::from(reason.as_str());
                            Some((reason.clone(), *refuse))
                        }
                        Action::Noop
                        | Action::Wait(WaitFor::Span(_) | WaitFor::Until(_))
                        | Action::Approval { .. }
                        | Action::Queue(_)
                        | Action::BuiltIn(_)
                        | Action::Rust(_) => None,
                    };
                    let result = match &run.step.action {
                        Action::BuiltIn(built_in) if !run.undo => built_in.kind.sample_result().map(Json::from_valid),
                        _ => None,
                    };
                    self.stages.push(stage);
                    let outcome = match refused {
                        None => StepOutcome::Done { result },
                        Some((reason, true)) => StepOutcome::Refused { reason },
                        Some((reason, false)) => StepOutcome::Failed {
                            reason,
                            retry_after: None,
                        },
                    };
                    let report = Report {
                        started_at: self.input.now,
                        ended_at: self.input.now,
                        outcome,
                    };
                    let change = decision::report(&order, &order_type, report, &self.input);
                    order = self.take(change);
                }
                Due::Nothing if order.head.queued_at(true).is_some() => {
                    let work = order.head.work.as_ref();
                    let step = work.and_then(|work| work.kind.step()).map(|name| name.to_string());
                    let queue = work.and_then(|work| work.queue.as_ref()).map(|name| name.to_string());
                    self.stages
                        .push(json!({"kind": "step", "step": step, "does": "queue", "queue": queue}));
                    let report = Report {
                        started_at: self.input.now,
                        ended_at: self.input.now,
                        outcome: StepOutcome::Done { result: None },
                    };
                    let change = decision::report(&order, &order_type, report, &self.input);
                    order = self.take(change);
                }
                Due::Nothing => match order.head.work.as_ref().and_then(|work| work.due_at) {
                    // Only its own work is waited for; a status's deadline is what happens if nobody acts.
                    Some(due_at) if due_at > self.input.now && order.head.phase != Phase::Dead => {
                        self.stages.push(
                            json!({"kind": "wait", "seconds": (due_at - self.input.now).get_seconds(),
                            "for": wait_reason(&order)}),
                        );
                        self.input.now = due_at;
                    }
                    _ => return order,
                },
            }
        }
        self.stages.push(json!({"kind": "circle", "changes": CHANGES_MAX}));
        order
    }

    fn take(&mut self, change: Change) -> Order {
        for event in &change.events {
            let mut stage =
                json!({"kind": "event", "event": event.kind.wire_name().trim_start_matches("comanda.order.")});
            for (name, text) in [
                ("from", event.from.as_deref()),
                ("to", event.to.as_deref()),
                ("reason", event.reason.as_deref()),
            ] {
                if let Some(text) = text {
                    stage[name] = Value::from(text);
                }
            }
            self.stages.push(stage);
        }
        change.order
    }

    /// What an HTTP step would send, as far as it can be rendered without the answers of the steps before it.
    fn request(&self, order: &Order, call: &HttpCall) -> Value {
        let context = match decision::context(order) {
            Ok(context) => merge_maps([context, self.settings.clone()]),
            Err(error) => return json!({"error": error}),
        };
        let told =
            |rendered: Result<Value, String>| rendered.unwrap_or_else(|error| json!({"cannotBeRendered": error}));
        let headers: serde_json::Map<String, Value> = call
            .headers
            .iter()
            .map(|(name, template)| {
                let rendered = template
                    .render(&context)
                    .map(Value::from)
                    .map_err(|error| error.to_string());
                (name.clone(), told(rendered))
            })
            .collect();
        let mut sends = json!({
            "method": call.method,
            "url": told(call.url.render_url(&context).map(Value::from).map_err(|error| error.to_string())),
        });
        if !headers.is_empty() {
            sends["headers"] = Value::Object(headers);
        }
        if let Some(body) = &call.body {
            sends["body"] = told(body.render(&context).map_err(|error| error.to_string()));
        }
        sends
    }

    fn end(&mut self, order: &Order) {
        let status = &order.head.status;
        let stage = match order.head.phase {
            Phase::Final => json!({"kind": "end", "status": **status, "final": true}),
            Phase::Dead => {
                let reason = order.head.dead.as_ref().map(|dead| dead.reason.clone());
                json!({"kind": "dead-letter", "status": **status, "reason": reason})
            }
            Phase::Scheduled | Phase::Active | Phase::Undoing => {
                let declared = self.order_type.status(status);
                let to: Vec<&str> = declared
                    .iter()
                    .flat_map(|status| &status.to)
                    .map(AsRef::as_ref)
                    .collect();
                let mut stage = json!({"kind": "rests", "status": **status, "to": to});
                if let Some(deadline) = declared.and_then(|status| status.deadline.as_ref()) {
                    stage["deadlineSeconds"] = Value::from(deadline.after.as_secs());
                    stage["deadlineTo"] = Value::from(&*deadline.to);
                }
                stage
            }
        };
        self.stages.push(stage);
    }
}

fn wait_reason(order: &Order) -> &'static str {
    match order.head.work.as_ref().map(|work| &work.kind) {
        Some(WorkKind::Begin) => "its beginning",
        Some(WorkKind::Wait(_)) => "a wait step",
        Some(WorkKind::Approval(_)) => "an approval",
        _ => "another try",
    }
}

/// A stage as people read it.
fn tell(stage: &Value) -> String {
    let text = |name: &str| stage[name].as_str().unwrap_or_default();
    let mut told = match text("kind") {
        "event" => match (stage["from"].as_str(), stage["to"].as_str()) {
            (Some(from), Some(to)) => format!("{from} → {to}\n"),
            (None, Some(to)) => format!("{} in {to}\n", text("event")),
            _ => format!("{}\n", text("event")),
        },
        "step" => {
            let undo = if stage["undo"] == true { "undo of " } else { "" };
            format!("  {undo}step {} ({})\n", text("step"), text("does"))
        }
        "wait" => format!("  waits {} s for {}\n", stage["seconds"], text("for")),
        "circle" => format!(
            "  … and so on: it has not come to rest after {} changes\n",
            stage["changes"]
        ),
        "dead-letter" => format!("a dead letter in {}: {}\n", text("status"), text("reason")),
        "rests" => {
            let to: Vec<&str> = stage["to"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            format!("{} waits for a transition to {}\n", text("status"), to.join(" or "))
        }
        _ => format!("{} is final\n", text("status")),
    };
    if let Some(to) = stage["deadlineTo"].as_str() {
        told.push_str(&format!(
            "  if none comes within {} s: {to}\n",
            stage["deadlineSeconds"]
        ));
    }
    let sends = &stage["sends"];
    if sends.is_object() {
        told.push_str(&format!("    {} {}\n", plain(&sends["method"]), plain(&sends["url"])));
        for (name, value) in sends["headers"].as_object().into_iter().flatten() {
            told.push_str(&format!("    {name}: {}\n", plain(value)));
        }
        if !sends["body"].is_null() {
            told.push_str(&format!("    {}\n", plain(&sends["body"])));
        }
    }
    told
}

fn plain(value: &Value) -> String {
    match (value.as_str(), value["cannotBeRendered"].as_str()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(error)) => format!("(known only when it runs: {error})"),
        (None, None) => value.to_string(),
    }
}
