//! Reads one `[steps.NAME]`, and the `undo` within it.

use std::time::Duration;

use comanda_model::expression::{Expression, SyntaxError};
use comanda_model::order_type::{Action, ClientCredentials, Exhausted, HttpCall, Retry, Step, WaitFor};
use comanda_model::template::{Template, TemplateTree};

use super::{choice, later};
use crate::diagnostic::{Report, did_you_mean};
use crate::fields::{Fields, queue_name, text_of, wrong_kind};
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
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"];
/// Headers that every call carries and that keep their meaning only if nothing else sets them.
const OUR_HEADERS: [&str; 11] = [
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "comanda-callback",
    "idempotency-key",
    "traceparent",
    "comanda-attempt",
    "comanda-undoes",
    "host",
    "content-length",
    "transfer-encoding",
];

/// One step, as written.
pub(crate) struct StepEntry {
    pub name: Key,
    /// What was read; where something was wrong, what could be read of it.
    pub step: Step,
    /// The names that its condition, its templates and its undo read.
    pub uses: Vec<Use>,
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
    let step = match Fields::of(node, &name.span, format!("[steps.{}]", name.value), report) {
        Some(mut fields) => {
            let mut reader = Reader {
                uses: &mut uses,
                pointers,
                within: UseIn::Call,
                report,
            };
            let step = reader.step(&mut fields);
            fields.finish(&["notify", "archive", "secret", "lease", "worker"], report);
            step
        }
        None => noop(),
    };
    StepEntry {
        name: name.clone(),
        step,
        uses,
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
        undo: None,
        batch: 1,
    }
}

pub(super) struct Reader<'r, 'b> {
    uses: &'r mut Vec<Use>,
    pointers: &'r mut Vec<Located<String>>,
    within: UseIn,
    pub(super) report: &'r mut Report<'b>,
}

impl Reader<'_, '_> {
    fn step(&mut self, fields: &mut Fields<'_>) -> Step {
        let mut step = self.call(fields, Retry::default());
        if let Some((_, node)) = fields.take("when")
            && let Some(text) = text_of("when", node, self.report)
        {
            step.when = expression(&text, self.uses, UseIn::When, self.report);
        }
        if let Some((key, node)) = fields.take("exhausted") {
            match &node.value {
                Tree::Table(_) => later("`exhausted` as a table", &key.span, self.report),
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
        step.batch = fields.whole("batch", 1, BATCH_MAX, self.report).unwrap_or(1);
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
                for (key, _) in [headers, body, sign, auth, callback].into_iter().flatten() {
                    let message = format!("`{}` belongs to `http`", key.value);
                    self.report.error("type/unknown-key", &key.span, message, None);
                }
                self.built_in(node, with, fields)
            }
            (None, Some((_, node))) => {
                if let Some((key, _)) = with {
                    self.report
                        .error("type/unknown-key", &key.span, "`with` belongs to `use`", None);
                }
                let mut call = self.http(node, headers.map(|(_, node)| node), body.map(|(_, node)| node))?;
                call.sign = sign.and_then(|(_, node)| self.setting("sign", node));
                call.auth = auth.and_then(|(key, node)| self.auth(key, node)).map(Box::new);
                call.callback = callback.and_then(|(key, node)| self.callback(key, node));
                Some(Action::Http(Box::new(call)))
            }
        }
    }

    fn built_in(&mut self, node: &Node, with: Option<(&Key, &Node)>, fields: &Fields<'_>) -> Option<Action> {
        let name = text_of("use", node, self.report)?;
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

    /// The question that is asked when an attempt's outcome is unknown.
    fn question(&mut self, key: &Key, node: &Node, owner: &str) -> Option<Box<HttpCall>> {
        let mut inner = Fields::of(node, &key.span, format!("`unknown` of {owner}"), self.report)?;
        let http = inner.need("http", self.report);
        let (headers, body) = (inner.take("headers"), inner.take("body"));
        let (sign, auth) = (inner.take("sign"), inner.take("auth"));
        inner.finish(&[], self.report);
        let (_, node) = http?;
        let mut call = self.http(node, headers.map(|(_, node)| node), body.map(|(_, node)| node))?;
        call.sign = sign.and_then(|(_, node)| self.setting("sign", node));
        call.auth = auth.and_then(|(key, node)| self.auth(key, node)).map(Box::new);
        Some(Box::new(call))
    }

    /// `callback = { within = "2h" }`.
    fn callback(&mut self, key: &Key, node: &Node) -> Option<Duration> {
        let mut inner = Fields::of(node, &key.span, "`callback`", self.report)?;
        let within = inner.duration("within", self.report);
        if inner.take("within").is_none() {
            inner.missing("within", self.report);
        }
        if within.is_some_and(|within| within.is_zero()) {
            let message = "`within` must be longer than nothing";
            self.report.error("type/bad-duration", &node.span, message, None);
        }
        inner.finish(&[], self.report);
        within
    }

    /// `auth = { token_url, client_id, client_secret, scope }`.
    fn auth(&mut self, key: &Key, node: &Node) -> Option<ClientCredentials> {
        let mut inner = Fields::of(node, &key.span, "`auth`", self.report)?;
        let mut needed = |name| inner.need(name, self.report).map(|(_, node)| (name, node));
        let (token_url, client_id, client_secret) = (needed("token_url"), needed("client_id"), needed("client_secret"));
        let scope = inner.take("scope").map(|(_, node)| ("scope", node));
        inner.finish(&[], self.report);
        let mut setting = |given: Option<(&str, &Node)>| given.and_then(|(name, node)| self.setting(name, node));
        let (token_url, client_id, client_secret, scope) = (
            setting(token_url),
            setting(client_id),
            setting(client_secret),
            setting(scope),
        );
        Some(ClientCredentials {
            token_url: token_url?,
            client_id: client_id?,
            client_secret: client_secret?,
            scope,
        })
    }

    /// A template of what the operator has set: it reads `env` and `secret`, and nothing of the order.
    fn setting(&mut self, name: &str, node: &Node) -> Option<Template> {
        let text = text_of(name, node, self.report)?;
        let template = self.template(&text)?;
        let foreign = template
            .names()
            .into_iter()
            .find(|name| !name.starts_with("env.") && !name.starts_with("secret."));
        if let Some(foreign) = foreign {
            let message = format!("`{name}` would come from `{foreign}`");
            let help = "only the file, `env` and `secret` may say this".to_owned();
            self.report
                .error("type/foreign-setting", &text.span, message, Some(help));
        }
        Some(template)
    }

    fn http(&mut self, node: &Node, headers: Option<&Node>, body: Option<&Node>) -> Option<HttpCall> {
        let text = text_of("http", node, self.report)?;
        let (method, url) = text
            .value
            .split_once(char::is_whitespace)
            .unwrap_or((text.value.as_str(), ""));
        let url = url.trim();
        if !METHODS.contains(&method) || url.is_empty() {
            let help = "a call is a method and a URL: \"POST https://shop.example/charges\"".to_owned();
            let near = did_you_mean(method, METHODS)
                .filter(|_| !url.is_empty())
                .unwrap_or(help);
            let message = format!("\"{}\" is no call", text.value);
            self.report.error("type/bad-call", &text.span, message, Some(near));
        }
        let literal_start = !url.starts_with("{{");
        if !url.is_empty() && literal_start && !url.starts_with("http://") && !url.starts_with("https://") {
            let message = format!("\"{url}\" is no URL");
            let help = "it begins with http://, https:// or {{ env.… }}".to_owned();
            self.report.error("type/bad-call", &text.span, message, Some(help));
        }
        let url = self.template(&Located {
            value: url.to_owned(),
            span: text.span.clone(),
        });
        if let Some(url) = &url {
            let foreign = url
                .names_in_authority()
                .into_iter()
                .find(|name| !name.starts_with("env.") && !name.starts_with("secret."));
            if let Some(name) = foreign {
                let help = "only the file, `env` and `secret` may name a host; an order could otherwise call anyone";
                let message = format!("the host of this URL would come from `{name}`");
                self.report
                    .error("type/foreign-host", &text.span, message, Some(help.to_owned()));
            }
        }
        let headers = self.headers(headers);
        let body = body.and_then(|body| self.body(body));
        let method = method.to_owned();
        Some(HttpCall {
            method,
            url: url?,
            headers,
            body,
            sign: None,
            auth: None,
            callback: None,
        })
    }

    fn headers(&mut self, node: Option<&Node>) -> Vec<(String, Template)> {
        let Some(node) = node else { return Vec::new() };
        let Tree::Table(entries) = &node.value else {
            wrong_kind("headers", "a table", &node.value, &node.span, self.report);
            return Vec::new();
        };
        let mut headers = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            let name = key.value.as_str();
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty() || !name.bytes().all(token) {
                self.report.error(
                    "type/bad-header",
                    &key.span,
                    format!("\"{name}\" is no name of a header"),
                    None,
                );
            } else if OUR_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                let message = format!("the header `{name}` is set by every call itself");
                self.report
                    .error("type/bad-header", &key.span, message, Some("take it out".to_owned()));
            }
            let template = text_of(name, node, self.report).and_then(|text| self.template(&text));
            headers.extend(template.map(|template| (key.value.clone(), template)));
        }
        headers
    }

    pub(super) fn body(&mut self, node: &Node) -> Option<TemplateTree> {
        let mut sound = true;
        self.texts(node, &mut sound);
        // Every string was compiled once already, so that its fault has been told with its place.
        sound
            .then(|| TemplateTree::compile(&node.value.to_json()).ok())
            .flatten()
    }

    /// Compiles every string within a value.
    fn texts(&mut self, node: &Node, sound: &mut bool) {
        match &node.value {
            Tree::Text(text) => {
                let text = Located {
                    value: text.clone(),
                    span: node.span.clone(),
                };
                *sound &= self.template(&text).is_some();
            }
            Tree::List(items) => items.iter().for_each(|item| self.texts(item, sound)),
            Tree::Table(entries) => entries.iter().for_each(|(_, node)| self.texts(node, sound)),
            Tree::Number(_) | Tree::Flag(_) | Tree::Time(_) => {}
        }
    }

    fn template(&mut self, text: &Located<String>) -> Option<Template> {
        match Template::compile(&text.value) {
            Ok(template) => {
                for name in template.names() {
                    let span = self.report.narrow(&text.span, &name);
                    self.uses.push(Use {
                        name,
                        span,
                        within: self.within,
                    });
                }
                Some(template)
            }
            Err(error) => {
                syntax(&error, "template", text, self.report);
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

fn syntax(error: &SyntaxError, what: &str, text: &Located<String>, report: &mut Report<'_>) {
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
