//! Settings that are calls to a service: `"GET https://shop.example/customers/{{ with.customer }}"`.

use comanda_model::order_type::HttpCall;
use comanda_model::template::{Template, TemplateTree};

/// Reads one call; `None` for an empty text. The host comes from the settings alone.
pub(super) fn call(text: &str) -> Result<Option<HttpCall>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let (method, url) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let url = url.trim();
    if !["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&method) || url.is_empty() {
        return Err(format!(
            "\"{text}\" is no call; write a method and a URL, such as \"POST https://payments.example/payments\""
        ));
    }
    if !["http://", "https://", "{{"].iter().any(|begin| url.starts_with(begin)) {
        return Err(format!(
            "\"{url}\" is no URL; it begins with http://, https:// or {{{{ env.… }}}}"
        ));
    }
    let url = Template::compile(url).map_err(|error| error.message)?;
    let foreign = url
        .names_in_authority()
        .into_iter()
        .find(|name| !name.starts_with("env.") && !name.starts_with("secret."));
    if let Some(name) = foreign {
        return Err(format!(
            "the host would come from `{name}`; only env and secret may name one"
        ));
    }
    let body = match method {
        "GET" | "DELETE" => None,
        // What is asked for, whole.
        _ => Some(TemplateTree::Text(
            Template::compile("{{ with }}").map_err(|error| error.message)?,
        )),
    };
    Ok(Some(HttpCall {
        method: method.to_owned(),
        url,
        headers: Vec::new(),
        body,
        sign: None,
        auth: None,
        callback: None,
    }))
}

/// Reads a template that all calls to a service share (the `Authorization` header, the secret that signs); `None` for an
/// empty text.
pub(super) fn shared(text: &str) -> Result<Option<Template>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    Template::compile(text).map(Some).map_err(|error| error.message)
}

/// The call with this header, signed with this secret.
pub(super) fn authorized(mut call: HttpCall, authorization: &Option<Template>, sign: &Option<Template>) -> HttpCall {
    let header = authorization
        .iter()
        .map(|value| ("authorization".to_owned(), value.clone()));
    call.headers.extend(header);
    call.sign.clone_from(sign);
    call
}

/// The environment variables that calls read.
pub fn environment_names<'c>(calls: impl IntoIterator<Item = &'c HttpCall>) -> Vec<String> {
    let names = calls.into_iter().flat_map(|call| {
        let headers = call.headers.iter().flat_map(|(_, template)| template.names());
        let sign = call.sign.iter().flat_map(Template::names);
        call.url
            .names()
            .into_iter()
            .chain(headers)
            .chain(sign)
            .collect::<Vec<_>>()
    });
    names
        .filter_map(|name| name.strip_prefix("env.").map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_and_its_host_is_the_operators() {
        assert!(call("").unwrap().is_none());
        let read = call("POST {{ env.PAYMENTS }}/payments/{{ with.payment }}/void")
            .unwrap()
            .unwrap();
        assert_eq!(read.method, "POST");
        assert_eq!(environment_names([&read]), ["PAYMENTS"]);
        for bad in ["POST", "SEND http://a/", "GET a", "GET http://{{ with.host }}/"] {
            assert!(call(bad).is_err(), "{bad}");
        }
    }
}
