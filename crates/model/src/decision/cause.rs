//! What dead letters of the same cause have in common: the step, and the reason without what differs from order to order.
//!
//! A reason is a text of somebody else's, so this is a judgement about words, made the same way for all of them: what
//! looks like a number, an id, an address or a quotation becomes `#`. Words that name an error (`card_declined`, `503`)
//! stay, or different errors would pass for one.

use crate::order::bounded;

/// The longest cause, in bytes.
const BYTES_MAX: usize = 200;
/// What takes the place of what differs.
const DIFFERS: &str = "#";
/// How a name ends behind which an id stands: `orderId=abc`.
const NAMES_OF_IDS: [&str; 7] = ["id", "key", "ref", "reference", "number", "token", "email"];

/// The cause of a dead letter.
pub(super) fn cause(step: &str, reason: &str) -> String {
    let text = without_quotations(reason);
    let words: Vec<String> = text.split_whitespace().map(word).collect();
    bounded(format!("{step}: {}", words.join(" ")), BYTES_MAX)
}

/// Puts `#` for each text in quotation marks that stands in prose. In JSON they are how names and words are written, and
/// in backticks stands the name of a field where it begins with a slash; those stay to be judged word by word.
fn without_quotations(reason: &str) -> String {
    let mut text = String::with_capacity(reason.len());
    let mut rest = reason;
    while let Some(start) = rest.find(['"', '\'', '`', '\u{201c}', '\u{ab}']) {
        let (before, quoted) = rest.split_at(start);
        text.push_str(before);
        let Some(mark) = quoted.chars().next() else { break };
        let inner = &quoted[mark.len_utf8()..];
        let closing = match mark {
            '\u{201c}' => '\u{201d}',
            '\u{ab}' => '\u{bb}',
            same => same,
        };
        // An apostrophe stands within or behind a word.
        let opens = mark != '\'' || !text.ends_with(char::is_alphanumeric);
        let end = inner.find(closing).filter(|_| opens);
        let Some(end) = end else {
            text.push(mark);
            rest = inner;
            continue;
        };
        let after = &inner[end + closing.len_utf8()..];
        let quotation = &inner[..end];
        let stays = match mark {
            '"' => is_json(&text, after),
            '`' => quotation.starts_with('/'),
            _ => false,
        };
        if stays {
            // Apart, so that each is a word of its own.
            text.push_str(" \"");
            text.push_str(quotation);
            text.push_str("\" ");
        } else {
            text.push_str(DIFFERS);
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// Whether quotation marks between these texts are those of JSON: a name before a colon, or a value in an object or array.
fn is_json(before: &str, after: &str) -> bool {
    let before = before.trim_end();
    let value_of_name = before
        .strip_suffix(':')
        .is_some_and(|name| name.trim_end().ends_with('"'));
    let in_list = before.ends_with(['{', '[']) || (before.ends_with(',') && before.contains(['{', '[']));
    value_of_name || (in_list && after.trim_start().starts_with([':', ',', ']', '}']))
}

/// A word, or `#` with the punctuation around it if it differs from order to order.
fn word(word: &str) -> String {
    let is_edge = |character: char| !character.is_alphanumeric() && !matches!(character, '#' | '/' | '_');
    let core = word.trim_matches(is_edge);
    if core.is_empty() || core == DIFFERS {
        return word.to_owned();
    }
    let Some(start) = word.find(core) else {
        return word.to_owned();
    };
    let (before, after) = (&word[..start], &word[start + core.len()..]);
    if let Some((name, value)) = core.split_once(['=', ':']) {
        let lower = name.to_ascii_lowercase();
        let names_id = NAMES_OF_IDS.iter().any(|end| lower.ends_with(end));
        if names_id && !value.is_empty() && !value.starts_with('/') {
            let mark = &core[name.len()..=name.len()];
            return format!("{before}{name}{mark}{DIFFERS}{after}");
        }
    }
    if differs(core) {
        return format!("{before}{DIFFERS}{after}");
    }
    word.to_owned()
}

/// Whether a word is a number or an id. A status code is neither.
fn differs(word: &str) -> bool {
    let has_digit = word.bytes().any(|byte| byte.is_ascii_digit());
    if has_digit {
        return !(word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit()));
    }
    let is_address = word.contains('@') || word.contains("://");
    let is_hex = word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_address || is_hex || is_prefixed(word)
}

/// Whether it is an id of the form `ORD-abc`: capitals, then what no name of an error has behind capitals, or so few of
/// them that they are no word.
fn is_prefixed(word: &str) -> bool {
    let Some((prefix, rest)) = word.split_once(['-', '_', '#']) else {
        return false;
    };
    let capitals = prefix.len() >= 2 && prefix.bytes().all(|byte| byte.is_ascii_uppercase());
    let in_capitals = rest.bytes().all(|byte| !byte.is_ascii_lowercase());
    capitals && !rest.is_empty() && (!in_capitals || (prefix.len() <= 3 && word.contains('-')))
}

#[cfg(test)]
mod tests {
    use super::cause;

    /// Each row: reasons of one cause, and the cause.
    const ONE_CAUSE: [(&[&str], &str); 12] = [
        (
            &[
                "connection to 10.0.0.1:8080 refused",
                "connection to 10.0.0.2:8080 refused",
            ],
            "pay: connection to # refused",
        ),
        (
            &[
                "order ORD-abc is unknown",
                "order ORD-xyz is unknown",
                "order ORD-QRS is unknown",
                "order ORD-17 is unknown",
            ],
            "pay: order # is unknown",
        ),
        (
            &[
                "no account 0190c7a2-5b1e-7d3f-8a4c-1f2e3d4c5b6a.",
                "no account deadbeef-cafe-babe-face-feedfacecafe.",
            ],
            "pay: no account #.",
        ),
        (
            &["unknown customer \"ann\"", "unknown customer \"bob the builder\""],
            "pay: unknown customer #",
        ),
        (&["no such user 'ann'", "no such user 'o.k.'"], "pay: no such user #"),
        (
            &["the customer `ann` is blocked", "the customer `bob` is blocked"],
            "pay: the customer # is blocked",
        ),
        (
            &["mail to ann@shop.example bounced", "mail to bob@other.example bounced"],
            "pay: mail to # bounced",
        ),
        (
            &["lookup of orderId=abc failed", "lookup of orderId=xyz failed"],
            "pay: lookup of orderId=# failed",
        ),
        (&["503: try later", "503: try later"], "pay: 503: try later"),
        (
            &[
                r#"500: {"error":"no_funds","order":"ORD-abc"}"#,
                r#"500: {"error":"no_funds","order":"ORD-xyz"}"#,
                r#"500: {"error":"no_funds","order":"0190c7a2-5b1e-7d3f-8a4c-1f2e3d4c5b6a"}"#,
            ],
            r##"pay: 500: { "error" : "no_funds" , "order" : "#" }"##,
        ),
        (
            &[
                "GET https://pay.example/orders/abc: 404",
                "GET https://pay.example/orders/xyz: 404",
            ],
            "pay: GET #: 404",
        ),
        (&["can't be had", "can't be had"], "pay: can't be had"),
    ];

    /// Reasons that are different causes.
    const APART: [(&str, &str); 7] = [
        (r#"{"error":"no_funds"}"#, r#"{"error":"card_expired"}"#),
        ("CARD_DECLINED", "CARD_EXPIRED"),
        ("CARD-DECLINED", "CARD-EXPIRED"),
        ("503 from the service", "502 from the service"),
        ("503: busy", "502: busy"),
        (
            "`/shipping/carrier` is missing",
            "`/shipping/trackingNumber` is missing",
        ),
        ("read-only", "write-only"),
    ];

    #[test]
    fn the_same_error_with_other_ids_is_one_cause() {
        for (reasons, expected) in ONE_CAUSE {
            for reason in reasons {
                assert_eq!(cause("pay", reason), expected, "{reason}");
            }
        }
    }

    #[test]
    fn different_errors_are_different_causes() {
        for (one, other) in APART {
            assert_ne!(cause("pay", one), cause("pay", other), "{one}");
        }
        assert_ne!(cause("pay", "down"), cause("ship", "down"));
    }

    #[test]
    fn any_text_has_a_bounded_cause() {
        for text in [
            "",
            "'",
            "\"",
            "`a",
            "\u{201c}x",
            "''''",
            "\u{ab}\u{bb}",
            "=",
            "id=",
            "a:b:",
            "é=\u{1f600}'",
        ] {
            assert!(cause("s", text).len() <= super::BYTES_MAX);
        }
        assert!(cause("s", &"x".repeat(10_000)).len() <= super::BYTES_MAX);
    }
}
