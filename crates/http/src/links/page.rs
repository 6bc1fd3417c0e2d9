//! The page behind a link: one file without anything from elsewhere, in the reader's language. It is whole without its
//! script, which only keeps it fresh.

use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::json;

use super::view::TrackedOrder;
use crate::pages::escape;
use crate::respond::insert;

const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:2em auto;padding:0 1em;color-scheme:light dark}\
    #status{font-size:1.6em;margin:.2em 0}#failed{border-left:4px solid #c33;padding-left:.6em}time{opacity:.7}";

struct Words {
    order: &'static str,
    history: &'static str,
    failed: &'static str,
    delayed: &'static str,
    gone: &'static str,
}

fn words(language: &str) -> Words {
    match language {
        "es" => Words {
            order: "Pedido",
            history: "Cómo va",
            failed: "Algo no ha salido bien",
            delayed: "Su pedido se retrasa. Ya lo sabemos y lo vamos a revisar.",
            gone: "Este enlace ya no es válido.",
        },
        "pt" => Words {
            order: "Pedido",
            history: "Como está",
            failed: "Algo não correu bem",
            delayed: "O seu pedido está atrasado. Já sabemos e vamos verificar.",
            gone: "Esta ligação já não é válida.",
        },
        _ => Words {
            order: "Order",
            history: "How it goes",
            failed: "Something went wrong",
            delayed: "Your order is delayed. We know of it and will look at it.",
            gone: "This link is no longer valid.",
        },
    }
}

/// The order's page.
pub(super) fn page(view: &TrackedOrder) -> Response {
    let words = words(&view.language);
    let mut history = String::new();
    for moment in &view.history {
        let what = moment.status.as_deref().unwrap_or(words.failed);
        let reason = moment.reason.as_deref().map(|reason| format!(": {}", escape(reason)));
        history.push_str(&format!(
            "<li><time datetime=\"{at}\">{at}</time> <strong>{}</strong>{}</li>",
            escape(what),
            reason.unwrap_or_default(),
            at = moment.at,
        ));
    }
    let hidden = if view.failed { "" } else { " hidden" };
    let body = format!(
        "<p>{} {}</p><h1 id=\"status\" aria-live=\"polite\">{}</h1><p id=\"failed\"{hidden}>{}</p><h2>{}</h2><ol id=\"history\">{history}</ol>",
        words.order,
        escape(&view.reference),
        escape(&view.status),
        words.delayed,
        words.history,
    );
    let nonce = format!("{:032x}", rand::random::<u128>());
    // `<` would end the element that it stands in.
    let data = json!({"failed": words.failed}).to_string().replace('<', "\\u003c");
    let script = format!(
        "<script type=\"application/json\" id=\"words\" nonce=\"{nonce}\">{data}</script><script nonce=\"{nonce}\">{SCRIPT}</script>"
    );
    let title = format!("{} {}", words.order, escape(&view.reference));
    html(
        StatusCode::OK,
        &view.language,
        &title,
        &format!("{body}{script}"),
        &nonce,
    )
}

/// What a person sees whose link is void.
pub(super) fn gone(status: StatusCode) -> Response {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let lines = ["en", "es", "pt"].map(|language| format!("<p lang=\"{language}\">{}</p>", words(language).gone));
    html(status, "en", words("en").gone, &lines.concat(), &nonce)
}

fn html(status: StatusCode, language: &str, title: &str, body: &str, nonce: &str) -> Response {
    let page = format!(
        "<!doctype html><html lang=\"{language}\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style nonce=\"{nonce}\">{STYLE}</style></head><body>{body}</body></html>"
    );
    let mut response = Response::new(Body::from(page));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    insert(headers, CONTENT_SECURITY_POLICY, &policy);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    private(&mut response);
    response
}

/// What belongs to one person: kept by nobody, and not told to pages that are opened from there.
pub(super) fn private(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
