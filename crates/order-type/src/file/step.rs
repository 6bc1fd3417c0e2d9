//! Reads one `[steps.NAME]`, and the `undo` within it.

use std::time::Duration;

use comanda_model::expression::{Expression, SyntaxError};
use comanda_model::order_type::{Action, Exhausted, Retry, Step, WaitFor};

use super::choice;
use super::notify::parties;
use crate::diagnostic::{Report, did_you_mean};
use crate::fields::{Fields, kebab_name, queue_name, text_of};
use crate::tree::{Key, Located, Node, Span, Tree};

/// The bound of one attempt where the file sets none.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest bound of one attempt.
const TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);
/// The bound of one attempt by a worker from outside, who extends its lease as it goes.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(60 * 60);
const QUEUE_TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How often an undo is tried where the file does not say: an effect that cannot be taken back needs a person.
const UNDO_ATTEMPTS: u32 = 10;
const ATTEMPTS_MAX: u32 = 1000;
const BATCH_MAX: u32 = 1000;
/// The most by which waits may grow from one attempt to the next.
const FACTOR_MAX: f64 = 100.0;

const BUILT_IN: [&str; 4] = ["noop", "fail", "wait", "approval"];

/// One step, as written.
pub(crate) struct StepEntry {
    pub name: Key,
    /// What was read; where something was wrong, what could be read of it.
    pub step: Step,
    /// The names that its condition, its templates and its undo read.
    pub uses: Vec<Use>,
    /// Where its archive is named.
    pub archive: Option<Located<String>>,
    /// Where it says that the customer is told.
    pub notify: Option<Span>,
}

/// A name that a condition or a template reads, with the place of the text that reads it.
pub(crate) struct Use {
    /// Dotted: `steps.reserve.total`.
    pub name: String,
    pub span: Span,
    pub within: UseIn,
}

/// What reads a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UseIn {
    /// A step's condition.
    When,
    /// A condition of `next`.
    Next,
    /// An outbound call.
    Call,
    /// The outbound call of an undo.
    Undo,
}

pub(super) fn parse(
    name: &Key,
    node: &Node,
    pointers: &mut Vec<Located<String>>,
    report: &mut Report<'_>,
) -> StepEntry {
    let mut uses = Vec::new();
    let mut failed = Failed::default();
    let step = match Fields::of(node, &name.span, format!("[steps.{}]", name.value), report) {
        Some(mut fields) => {
            let mut reader = Reader {
                uses: &mut uses,
                pointers,
                within: UseIn::Call,
                report,
            };
            let step = reader.step(&mut fields, &mut failed);
            fields.finish(&["archive", "secret", "lease", "worker"], report);
            step
        }
        None => noop(),
    };
    StepEntry {
        name: name.clone(),
        step,
        uses,
        archive: failed.archive,
        notify: failed.notify,
    }
}

fn noop() -> Step {
    Step {
        action: Action::Noop,
        when: None,
        timeout: TIMEOUT,
        timeout_total: None,
        unknown: None,
        retry: Retry::default(),
        exhausted: Exhausted::DeadLetter,
        archive: None,
        notifies_customer: false,
        undo: None,
        batch: 1,
        shows: None,
    }
}

/// What is done beside when a step is exhausted, with its places.
#[derive(Default)]
struct Failed {
    archive: Option<Located<String>>,
    notify: Option<Span>,
}

pub(super) struct Reader<'r, 'b> {
    pub(super) uses: &'r mut Vec<Use>,
    pointers: &'r mut Vec<Located<String>>,
    pub(super) within: UseIn,
    pub(super) report: &'r mut Report<'b>,
}

impl Reader<'_, '_> {
    fn step(&mut self, fields: &mut Fields<'_>, failed: &mut Failed) -> Step {
        let mut step = self.call(fields, Retry::default());
        if let Some((_, node)) = fields.take("when")
            && let Some(text) = text_of("when", node, self.report)
        {
            step.when = expression(&text, self.uses, UseIn::When, self.report);
        }
        if let Some((key, node)) = fields.take("exhausted") {
            match &node.value {
                Tree::Table(_) => {
                    *failed = self.failed(key, node, fields.owner()).unwrap_or_default();
                    step.archive = failed.archive.as_ref().map(|name| name.value.as_str().into());
                    step.notifies_customer = failed.notify.is_some();
                }
                _ => {
                    let words = [("dead-letter", Exhausted::DeadLetter), ("undo", Exhausted::Undo)];
                    step.exhausted = choice(fields, "exhausted", &words, self.report).unwrap_or(Exhausted::DeadLetter);
                }
            }
        }
        if let Some((key, node)) = fields.take("unknown") {
            if !matches!(step.action, Action::Http(_)) {
                let message = "`unknown` belongs to `http`";
                self.report.error("type/unknown-key", &key.span, message, None);
            }
            step.unknown = self.question(key, node, fields.owner());
        }
        if let Some(pointer) = fields.pointer("shows", self.report) {
            step.shows = Some(pointer.value.clone());
            self.pointers.push(pointer);
        }
        step.batch = self.batch(fields, &step.action);
        if let Some((key, node)) = fields.take("undo")
            && let Some(mut inner) = Fields::of(node, &key.span, format!("`undo` of {}", fields.owner()), self.report)
        {
            self.within = UseIn::Undo;
            let retry = Retry {
                attempts: UNDO_ATTEMPTS,
                ..Retry::default()
            };
            step.undo = Some(Box::new(self.call(&mut inner, retry)));
            inner.finish(&[], self.report);
        }
        step
    }

    /// `exhausted = { archive = "failures", notify = ["customer"] }`: a dead letter that is also written elsewhere, and
    /// of which someone is told.
    fn failed(&mut self, key: &Key, node: &Node, owner: &str) -> Option<Failed> {
        let mut inner = Fields::of(node, &key.span, format!("`exhausted` of {owner}"), self.report)?;
        let archive = inner.take("archive");
        if archive.is_none() && inner.take("notify").is_none() {
            inner.missing("archive", self.report);
        }
        let notify = parties(&mut inner, self.report);
        inner.finish(&[], self.report);
        let archive = archive.and_then(|(_, node)| kebab_name("archive", "an archive", "failures", node, self.report));
        Some(Failed { archive, notify })
    }

    /// `batch = 10`: how many attempts go out in one call.
    fn batch(&mut self, fields: &mut Fields<'_>, action: &Action) -> u32 {
        let batch = fields.whole("batch", 1, BATCH_MAX, self.report).unwrap_or(1);
        let Some((key, _)) = fields.take("batch").filter(|_| batch > 1) else {
            return batch;
        };
        match action {
            Action::Http(http) if matches!(http.method.as_str(), "GET" | "HEAD" | "DELETE") => {
                let message = format!(
                    "`batch` of a {} call, which has no body to list attempts in",
                    http.method
                );
                let help = "use POST, PUT or PATCH, or take `batch` out".to_owned();
                self.report.error("type/bad-batch", &key.span, message, Some(help));
            }
            // What has no effect outside is committed together with others, whatever is said here.
            Action::Http(_) | Action::Noop | Action::Fail { .. } | Action::Wait(_) => {}
            other => {
                let message = format!(
                    "`batch` has no effect on `{}`: it takes one order at a time",
                    other.kind()
                );
                let help = match other {
                    Action::Queue(_) => "a worker says itself how many it claims at once".to_owned(),
                    _ => "only calls over `http` go out together".to_owned(),
                };
                self.report.warning("type/idle-batch", &key.span, message, Some(help));
            }
        }
        batch
    }

    /// What a step and its undo have in common.
    fn call(&mut self, fields: &mut Fields<'_>, retry: Retry) -> Step {
        let action = self.action(fields).unwrap_or(Action::Noop);
        let (default, longest, words) = match action {
            Action::Queue(_) => (QUEUE_TIMEOUT, QUEUE_TIMEOUT_MAX, "seven days"),
            _ => (TIMEOUT, TIMEOUT_MAX, "one hour"),
        };
        let timeout = fields.duration("timeout", self.report).unwrap_or(default);
        if timeout.is_zero() || timeout > longest {
            let span = fields
                .take("timeout")
                .map_or(fields.span(), |(_, node)| &node.span)
                .clone();
            let message = format!("`timeout` must be longer than nothing and at most {words}");
            self.report.error("type/bad-duration", &span, message, None);
        }
        let timeout_total = fields.duration("timeout_total", self.report);
        if timeout_total.is_some_and(|total| total < timeout) {
            let message = "`timeout_total` is shorter than `timeout`, the bound of one attempt";
            let span = fields
                .take("timeout_total")
                .map_or(fields.span(), |(_, node)| &node.span)
                .clone();
            self.report.error("type/bad-duration", &span, message, None);
        }
        let retry = self.retry(fields, retry);
        Step {
            action,
            timeout_total,
            timeout,
            retry,
            ..noop()
        }
    }

    fn action(&mut self, fields: &mut Fields<'_>) -> Option<Action> {
        let (built_in, http) = (fields.take("use"), fields.take("http"));
        let queue = fields.take("queue");
        let with = fields.take("with");
        let headers = fields.take("headers");
        let body = fields.take("body");
        let (sign, auth, callback) = (fields.take("sign"), fields.take("auth"), fields.take("callback"));
        if let Some((key, node)) = queue {
            if let Some((other, _)) = built_in.or(http) {
                let message = format!("{} has both `{}` and `queue`", fields.owner(), other.value);
                let help = "a step does one thing".to_owned();
                self.report.error("type/two-actions", &key.span, message, Some(help));
                return None;
            }
            for (key, _) in [with, headers, body, sign, auth, callback].into_iter().flatten() {
                let message = format!("`{}` belongs to a call, not to `queue`", key.value);
                let help = "a worker is given the order's data and the results of its steps".to_owned();
                self.report.error("type/unknown-key", &key.span, message, Some(help));
            }
            return queue_name(node, self.report).map(|name| Action::Queue(name.value.into()));
        }
        match (built_in, http) {
            (None, None) => {
                let message = format!("{} does nothing: it has no `use`, `http` or `queue`", fields.owner());
                let help = "use = \"noop\" succeeds at once".to_owned();
                self.report.error("type/no-action", fields.span(), message, Some(help));
                None
            }
            (Some(_), Some((key, _))) => {
                let message = format!("{} has both `use` and `http`", fields.owner());
                self.report.error(
                    "type/two-actions",
                    &key.span,
                    message,
                    Some("a step does one thing".to_owned()),
                );
                None
            }
            (Some((_, node)), None) => {
                let mut action = self.built_in(node, with, fields);
                let callback = match (&mut action, callback) {
                    (Some(Action::Rust(rust)), Some((key, node))) => {
                        rust.callback = self.callback(key, node);
                        None
                    }
                    (_, callback) => callback,
                };
                for (key, _) in [headers, body, sign, auth, callback].into_iter().flatten() {
                    let message = format!("`{}` belongs to `http`", key.value);
                    self.report.error("type/unknown-key", &key.span, message, None);
                }
                action
            }
            (None, Some((_, node))) => {
                if let Some((key, _)) = with {
                    self.report
                        .error("type/unknown-key", &key.span, "`with` belongs to `use`", None);
                }
                let mut call = self.http(node, headers.map(|(_, node)| node), body.map(|(_, node)| node))?;
                call.sign = sign.and_then(|(_, node)| self.setting("sign", node));
                self.authenticate(&mut call, auth);
                call.callback = callback.and_then(|(key, node)| self.callback(key, node));
                Some(Action::Http(Box::new(call)))
            }
        }
    }

    fn built_in(&mut self, node: &Node, with: Option<(&Key, &Node)>, fields: &Fields<'_>) -> Option<Action> {
        let name = text_of("use", node, self.report)?;
        if super::rust::is_name(&name.value) {
            return self.rust(&name, with);
        }
        let inner = match with {
            Some((key, node)) => Some(Fields::of(node, &key.span, "`with`", self.report)?),
            None => None,
        };
        if name.value.contains('.') {
            return self.dotted(&name, inner, fields.owner());
        }
        match name.value.as_str() {
            "noop" => {
                if let Some(inner) = inner {
                    inner.finish(&[], self.report);
                }
                Some(Action::Noop)
            }
            "fail" => {
                let Some(mut inner) = inner else {
                    return Some(Action::Fail {
                        reason: "told to fail".to_owned(),
                        refuse: false,
                    });
                };
                let reason = inner.text("reason", self.report).map(|reason| reason.value);
                let refuse = choice(&mut inner, "kind", &[("retry", false), ("refuse", true)], self.report);
                inner.finish(&[], self.report);
                Some(Action::Fail {
                    reason: reason.unwrap_or_else(|| "told to fail".to_owned()),
                    refuse: refuse.unwrap_or(false),
                })
            }
            "wait" => {
                let Some(mut inner) = inner else {
                    let help = "with = { for = \"10s\" }".to_owned();
                    let message = format!("{} waits, but does not say how long", fields.owner());
                    self.report.error("type/missing-key", &name.span, message, Some(help));
                    return None;
                };
                let span = inner.duration("for", self.report);
                let until = inner.pointer("until", self.report);
                let wait = match (inner.take("for"), inner.take("until")) {
                    (Some(_), Some((key, _))) => {
                        let message = "`wait` has both `for` and `until`";
                        self.report.error("type/two-actions", &key.span, message, None);
                        None
                    }
                    (None, None) => {
                        let message = "`wait` needs `for` or `until`";
                        self.report.error("type/missing-key", inner.span(), message, None);
                        None
                    }
                    _ => span.map(WaitFor::Span).or_else(|| {
                        let until = until?;
                        self.pointers.push(until.clone());
                        Some(WaitFor::Until(until.value))
                    }),
                };
                inner.finish(&[], self.report);
                wait.map(Action::Wait)
            }
            "approval" => {
                if self.within == UseIn::Undo {
                    let message = "an undo cannot wait for a person";
                    self.report.error("type/bad-undo", &name.span, message, None);
                }
                let mut within = None;
                if let Some(mut inner) = inner {
                    within = inner.duration("within", self.report);
                    inner.finish(&[], self.report);
                }
                Some(Action::Approval { within })
            }
            unknown => {
                let message = format!("there is no built-in step \"{unknown}\"");
                self.report
                    .error("type/unknown-use", &name.span, message, did_you_mean(unknown, BUILT_IN));
                None
            }
        }
    }

    fn retry(&mut self, fields: &mut Fields<'_>, default: Retry) -> Retry {
        let Some((key, node)) = fields.take("retry") else {
            return default;
        };
        let Some(mut inner) = Fields::of(node, &key.span, "`retry`", self.report) else {
            return default;
        };
        let attempts = inner
            .whole("attempts", 1, ATTEMPTS_MAX, self.report)
            .unwrap_or(default.attempts);
        let first = inner.duration("first", self.report);
        let max = inner.duration("max", self.report);
        let factor = match inner.take("factor") {
            Some((_, node)) => {
                let factor = match &node.value {
                    Tree::Number(digits) => digits.parse::<f64>().ok(),
                    _ => None,
                };
                let factor = factor.filter(|factor| (1.0..=FACTOR_MAX).contains(factor));
                if factor.is_none() {
                    let message = format!("`factor` must be a number from 1 to {FACTOR_MAX}");
                    self.report.error("type/wrong-kind", &node.span, message, None);
                }
                factor.unwrap_or(default.factor)
            }
            None => default.factor,
        };
        if let (Some(first), Some(max)) = (first, max)
            && max < first
        {
            let message = "`retry` has a `max` that is shorter than `first`";
            self.report.error("type/bad-duration", inner.span(), message, None);
        }
        inner.finish(&[], self.report);
        let first = first.unwrap_or(default.first);
        Retry {
            attempts,
            first,
            factor,
            max: max.unwrap_or(default.max.max(first)),
        }
    }
}

/// Compiles a condition and notes what it reads.
pub(super) fn expression(
    text: &Located<String>,
    uses: &mut Vec<Use>,
    within: UseIn,
    report: &mut Report<'_>,
) -> Option<Expression> {
    match Expression::compile(&text.value) {
        Ok(expression) => {
            for name in expression.names() {
                let span = report.narrow(&text.span, &name);
                uses.push(Use { name, span, within });
            }
            Some(expression)
        }
        Err(error) => {
            syntax(&error, "condition", text, report);
            None
        }
    }
}

pub(super) fn syntax(error: &SyntaxError, what: &str, text: &Located<String>, report: &mut Report<'_>) {
    let mut span = report.narrow(&text.span, &text.value);
    // A string with escapes stands in the file otherwise than it reads; then all of it is pointed at.
    if let (Some(range), true) = (&error.range, span.len() == text.value.len()) {
        span = span.start + range.start..span.start + range.end;
    }
    report.error(
        "type/bad-template",
        &span,
        format!("this {what} cannot be read"),
        Some(error.message.clone()),
    );
}
