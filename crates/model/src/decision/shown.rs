//! An order's data as people see it: where a step says `shows`, what it answered stands among the data.
//!
//! The data itself stays as it was sent. What it says goes before what a step answered, so that a person can correct a
//! carrier's tracking number by an edit; and what was taken back is shown no more, because its result is gone.

use serde_json::{Map, Value};

use crate::json::Json;
use crate::order::Order;
use crate::order_type::OrderType;

/// The order's data with what its steps show. Without such a step it is the very text that was sent.
pub fn shown(order_type: &OrderType, order: &Order) -> Json {
    let mut shown: Option<Value> = None;
    for (name, result) in &order.results {
        let pointer = order_type.steps.get(name).and_then(|step| step.shows.as_deref());
        let Some(pointer) = pointer else { continue };
        // What is kept is valid; were it not, the data is shown without it.
        let Ok(result) = result.value() else { continue };
        if shown.is_none() {
            shown = order.data.value().ok();
        }
        if let Some(data) = &mut shown {
            put_under(data, pointer, result);
        }
    }
    shown.map_or_else(|| order.data.clone(), |data| Json::from(&data))
}

/// Puts a value at a pointer, under what is there.
fn put_under(data: &mut Value, pointer: &str, value: Value) {
    let mut at = data;
    for token in pointer.split('/').skip(1) {
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
        // Something else than an object is what the data says.
        let Value::Object(members) = at else { return };
        let name = token.replace("~1", "/").replace("~0", "~");
        at = members.entry(name).or_insert(Value::Null);
    }
    underlay(at, value);
}

fn underlay(over: &mut Value, under: Value) {
    match (over, under) {
        (Value::Object(over), Value::Object(under)) => {
            for (name, value) in under {
                underlay(over.entry(name).or_insert(Value::Null), value);
            }
        }
        (over @ Value::Null, under) => *over = under,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_data_says_goes_before_what_a_step_answered() {
        let shipment = json!({"carrier": "Carrier", "trackingNumber": "T-1"});
        for (data, expected) in [
            (json!({"a": 1}), json!({"a": 1, "shipping": shipment})),
            (json!({"shipping": null}), json!({"shipping": shipment})),
            (
                json!({"shipping": {"trackingNumber": "X", "carrier": null, "service": "fast"}}),
                json!({"shipping": {"trackingNumber": "X", "carrier": "Carrier", "service": "fast"}}),
            ),
            (json!({"shipping": "by hand"}), json!({"shipping": "by hand"})),
        ] {
            let mut shown = data;
            put_under(&mut shown, "/shipping", shipment.clone());
            assert_eq!(shown, expected);
        }
        let mut deep = json!({"list": [1]});
        put_under(&mut deep, "/a~1b/c", json!(1.10));
        put_under(&mut deep, "/list/0", json!(2));
        assert_eq!(deep, json!({"list": [1], "a/b": {"c": 1.10}}));
    }
}
