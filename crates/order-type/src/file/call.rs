//! Reads a step's outbound call: its URL, headers, body, signature, credentials and callback, and the question that is
//! asked when nobody knows what became of it.

use std::time::Duration;

use comanda_model::order_type::{ClientCredentials, HttpCall};
use comanda_model::template::{Template, TemplateTree};

use super::step::{Reader, Use, syntax};
use crate::diagnostic::did_you_mean;
use crate::fields::{Fields, text_of, wrong_kind};
use crate::tree::{Key, Located, Node, Span, Tree};

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

impl Reader<'_, '_> {
    /// The question that is asked when an attempt's outcome is unknown.
    pub(super) fn question(&mut self, key: &Key, node: &Node, owner: &str) -> Option<Box<HttpCall>> {
        let mut inner = Fields::of(node, &key.span, format!("`unknown` of {owner}"), self.report)?;
        let http = inner.need("http", self.report);
        let (headers, body) = (inner.take("headers"), inner.take("body"));
        let (sign, auth) = (inner.take("sign"), inner.take("auth"));
        inner.finish(&[], self.report);
        let (_, node) = http?;
        let mut call = self.http(node, headers.map(|(_, node)| node), body.map(|(_, node)| node))?;
        call.sign = sign.and_then(|(_, node)| self.setting("sign", node));
        self.authenticate(&mut call, auth);
        Some(Box::new(call))
    }

    /// `callback = { within = "2h" }`.
    pub(super) fn callback(&mut self, key: &Key, node: &Node) -> Option<Duration> {
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

    /// Sets how the call gets its token.
    pub(super) fn authenticate(&mut self, call: &mut HttpCall, auth: Option<(&Key, &Node)>) {
        let Some((key, node)) = auth else { return };
        if let Some(host) = call.url.foreign_host() {
            self.told_to_anyone(&host, "the token", &key.span);
        }
        call.auth = self.auth(key, node).map(Box::new);
    }

    /// `auth = { token_url, client_id, client_secret, scope }`.
    pub(super) fn auth(&mut self, key: &Key, node: &Node) -> Option<ClientCredentials> {
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
    pub(super) fn setting(&mut self, name: &str, node: &Node) -> Option<Template> {
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

    pub(super) fn http(&mut self, node: &Node, headers: Option<&Node>, body: Option<&Node>) -> Option<HttpCall> {
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
        let headers = self.headers(headers);
        let body = body.and_then(|body| self.body(body));
        if let Some(host) = url.as_ref().and_then(Template::foreign_host) {
            let in_headers = headers.iter().flat_map(|(_, template)| template.names());
            let in_url = url.iter().flat_map(Template::names);
            let mut told = in_headers
                .chain(in_url)
                .chain(body.iter().flat_map(TemplateTree::names));
            if let Some(secret) = told.find(|name| name.starts_with("secret.")) {
                self.told_to_anyone(&host, &format!("`{secret}`"), &text.span);
            }
        }
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

    /// A call whose host an order says must not carry what only the operator's services may know.
    pub(super) fn told_to_anyone(&mut self, host: &str, what: &str, span: &Span) {
        let message = format!("{what} would be sent to a host that comes from `{host}`");
        let help =
            "whoever writes the order would learn it; name the host in the file or by `env`, or sign the call instead";
        self.report
            .error("type/foreign-host", span, message, Some(help.to_owned()));
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
}
