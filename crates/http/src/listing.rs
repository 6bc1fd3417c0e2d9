//! Pages of lists: their filters, their cursors, and the link to the next one.

use axum::http::header::LINK;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use comanda_store::ListQuery;
use serde::Serialize;

use crate::problem::Problem;
use crate::request::Query;
use crate::respond::{insert, json_response};

/// A page.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Where the next page begins; null when there is nothing more.
    pub(crate) next_cursor: Option<String>,
}

impl<T: Serialize> Page<T> {
    /// The answer, with a `Link` to the next page (RFC 8288).
    pub(crate) fn respond(&self, uri: &Uri) -> Response {
        let mut response = json_response(StatusCode::OK, self);
        if let Some(next) = &self.next_cursor {
            let mut pairs = form_urlencoded::Serializer::new(String::new());
            for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
                if name != "cursor" {
                    pairs.append_pair(&name, &value);
                }
            }
            pairs.append_pair("cursor", next);
            let link = format!("<{}?{}>; rel=\"next\"", uri.path(), pairs.finish());
            insert(response.headers_mut(), LINK, &link);
        }
        response
    }
}

/// The filters that lists of orders take.
pub(crate) fn list_query(query: &mut Query) -> Result<ListQuery, Problem> {
    Ok(ListQuery {
        order_type: query.take("type"),
        status: query.take("status"),
        customer: query.take("customer"),
        group: query.take("group"),
        phase: None,
        cause: None,
        accepted_after: query.take_time("acceptedAfter")?,
        accepted_before: query.take_time("acceptedBefore")?,
        limit: query.take_limit()?,
        cursor: query.take("cursor").map(|text| place(&text)).transpose()?,
    })
}

/// The text of a list's cursor. The letter tells it from a cursor of events, which would be read as another place.
pub(crate) fn list_cursor(next: u64) -> String {
    format!("o{next:x}")
}

fn place(cursor: &str) -> Result<u64, Problem> {
    cursor
        .strip_prefix('o')
        .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| Problem::new("invalid-request", "`cursor` must be what an earlier page gave you"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_and_nothing_else_is_one() {
        for next in [0, 1, u64::MAX] {
            assert_eq!(place(&list_cursor(next)).unwrap(), next);
        }
        for bad in ["", "o", "1", "o+1", "oxyz", "o1ffffffffffffffff", "1-2"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_next_page_keeps_the_filters() {
        let page = Page::<u8> {
            items: vec![],
            next_cursor: Some("o2".to_owned()),
        };
        let response = page.respond(&"/v1/orders?type=a%20b&cursor=o1&limit=5".parse().unwrap());
        assert_eq!(
            response.headers()["link"],
            "</v1/orders?type=a+b&limit=5&cursor=o2>; rel=\"next\""
        );
    }
}
