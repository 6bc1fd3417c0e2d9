//! Erasing: what an order knows of its customer goes; that it was there, what it was worth and when it went where stays.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Rejection;
use super::draft::Draft;
use crate::event::EventKind;
use crate::json::Json;
use crate::order::{Acceptance, Phase};

impl Draft<'_> {
    /// The id, the client's own id, the type, the statuses and the times stay, and of the data what the type keeps.
    pub(super) fn erase(&mut self) -> Result<(), Rejection> {
        if self.order.head.phase != Phase::Final {
            return Err(Rejection::NotFinal {
                status: self.order.head.status.clone(),
            });
        }
        let data = self
            .order
            .data
            .value()
            .map_err(|error| Rejection::Data(error.to_string()))?;
        self.order.data = Json::from(&kept(&data, &self.order_type.erase_keep));
        self.data_changed = true;
        self.order.results.clear();
        self.order.accepted = Arc::new(Acceptance {
            customer: None,
            group: None,
            traceparent: None,
            ..(*self.order.accepted).clone()
        });
        let head = &mut self.order.head;
        head.erased_at = Some(self.input.now);
        // A lane is named after its group.
        head.lane = None;
        head.past_callbacks.clear();
        self.touch();
        self.event(EventKind::Erased, self.input.by.clone(), None);
        Ok(())
    }
}

/// The part of an object that some pointers name. Numbers keep their digits.
fn kept(data: &Value, pointers: &[String]) -> Value {
    let mut rest = Value::Object(Map::new());
    for pointer in pointers {
        let tokens: Vec<String> = pointer
            .split('/')
            .skip(1)
            .map(|token| token.replace("~1", "/").replace("~0", "~"))
            .collect();
        copy(data, &tokens, &mut rest);
    }
    rest
}

/// Copies what `tokens` name of `from` into `to`. Items of an array keep their places, so that what belongs together
/// stays together.
fn copy(from: &Value, tokens: &[String], to: &mut Value) {
    let Some((token, rest)) = tokens.split_first() else {
        *to = from.clone();
        return;
    };
    match from {
        Value::Object(members) => {
            let Some(member) = members.get(token) else { return };
            if !to.is_object() {
                *to = Value::Object(Map::new());
            }
            if let Some(target) = to.as_object_mut() {
                copy(member, rest, target.entry(token.clone()).or_insert(Value::Null));
            }
        }
        Value::Array(items) if token == "*" => {
            if !to.is_array() {
                *to = Value::Array(vec![Value::Null; items.len()]);
            }
            for (item, target) in items.iter().zip(to.as_array_mut().into_iter().flatten()) {
                copy(item, rest, target);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept_of(data: &str, pointers: &[&str]) -> String {
        let pointers: Vec<String> = pointers.iter().map(|pointer| (*pointer).to_owned()).collect();
        kept(&serde_json::from_str(data).unwrap(), &pointers).to_string()
    }

    #[test]
    fn what_is_named_stays_to_the_digit() {
        let data =
            r#"{"name":"Ana","amount":10.50,"a/b":{"c":1e+5,"d":2},"items":[{"sku":"x","price":1.10},{"sku":"y"}]}"#;
        assert_eq!(
            kept_of(
                data,
                &["/amount", "/a~1b/c", "/items/*/price", "/missing", "/amount/deeper"]
            ),
            r#"{"amount":10.50,"a/b":{"c":1e+5},"items":[{"price":1.10},null]}"#
        );
        assert_eq!(kept_of(data, &[]), "{}");
        assert_eq!(
            kept_of(data, &["/items/*/price", "/items/*/sku"]),
            r#"{"items":[{"price":1.10,"sku":"x"},{"sku":"y"}]}"#
        );
        assert_eq!(kept_of("[1]", &["/amount"]), "{}");
    }
}
