//! The shipped types: each is read without a diagnostic, and each speaks on the wire exactly as it promises.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::sync::Arc;

use comanda_model::order_type::FifoScope;
use comanda_model::{Json, OrderId};
use comanda_order_type::{Definition, Fault, Known, OrderFacts, WireError, read, shipped};
use jiff::Timestamp;
use serde_json::Value;

fn definition(name: &str) -> Definition {
    let bundle = shipped()
        .into_iter()
        .find(|bundle| bundle.path.ends_with(&format!("/{name}.toml")))
        .unwrap();
    read(&bundle, &Known::default()).definition.unwrap()
}

fn id() -> OrderId {
    "01900000-0000-7000-8000-000000000001".parse().unwrap()
}

fn facts<'a>(status: &'a str, key: Option<&'a str>, data: &'a Json) -> OrderFacts<'a> {
    let accepted_at: Timestamp = "2026-04-10T12:30:45.000123Z".parse().unwrap();
    OrderFacts {
        id: id(),
        key,
        status,
        accepted_at,
        updated_at: accepted_at,
        data: data.clone(),
    }
}

fn faults(definition: &Definition, body: &str) -> Vec<(String, String)> {
    let incoming = definition.wire.read(body.as_bytes()).unwrap();
    definition
        .validate(&incoming.value)
        .into_iter()
        .map(|fault| (fault.pointer, fault.code))
        .collect()
}

fn invalid(definition: &Definition, body: &str) -> (u16, String) {
    let incoming = definition.wire.read(body.as_bytes()).unwrap();
    let faults = definition.validate(&incoming.value);
    assert!(!faults.is_empty(), "{body}");
    let detail = "The data is not valid";
    definition.wire.error(&WireError {
        status: 422,
        code: "invalid-data",
        detail,
        faults: &faults,
        allowed: None,
    })
}

#[test]
fn every_shipped_type_reads_without_a_word() {
    for bundle in shipped() {
        let read = read(
            &bundle,
            &Known {
                missing_is_error: true,
                ..Known::default()
            },
        );
        assert_eq!(read.diagnostics, [], "{}", bundle.path);
        let definition = read.definition.unwrap();
        assert_eq!(bundle.path, format!("order-types/{}.toml", definition.order_type.name));
        assert_eq!(definition.validate(&definition.sample()), [], "{}", bundle.path);
        let sent = definition.wire_sample().to_string();
        let incoming = definition.wire.read(sent.as_bytes()).unwrap();
        assert_eq!(definition.validate(&incoming.value), [], "{sent}");
        assert!(definition.mermaid().starts_with("stateDiagram-v2\n"));
    }
}

#[test]
fn a_sale_keeps_its_digits() {
    let sale = definition("sale");
    let incoming = sale.wire.read(br#"{"amount": 99.990, "currency":"EUR"}"#).unwrap();
    assert_eq!((incoming.id, incoming.key, incoming.status), (None, None, None));
    assert_eq!(incoming.data.as_str(), r#"{"amount": 99.990, "currency":"EUR"}"#);
    assert_eq!(sale.validate(&incoming.value), []);
    let facts = facts("ACCEPTED", None, &incoming.data);
    assert_eq!(
        sale.wire.accepted(&facts),
        (202, format!(r#"{{"orderId":"{}"}}"#, id()))
    );
    assert_eq!(
        sale.wire.write(&facts),
        format!(r#"{{"orderId":"{}","amount":99.990,"currency":"EUR"}}"#, id())
    );
}

#[test]
fn a_sale_takes_the_clients_own_id() {
    let sale = definition("sale");
    for (sent, key) in [
        (r#""A-17""#, "A-17"),
        ("1700000000000000000000", "1700000000000000000000"),
    ] {
        let body = format!(r#"{{"orderId":{sent},"currency":"EUR","amount":1e2}}"#);
        let incoming = sale.wire.read(body.as_bytes()).unwrap();
        assert_eq!(incoming.key.as_deref(), Some(key));
        assert_eq!(incoming.data.as_str(), r#"{"currency":"EUR","amount":1e2}"#);
        let written = sale.wire.write(&facts("ACCEPTED", Some(key), &incoming.data));
        assert_eq!(
            written,
            format!(r#"{{"orderId":"{key}","amount":1e2,"currency":"EUR"}}"#)
        );
    }
    for (sent, code) in [("[]", "type"), ("true", "type"), (r#""""#, "minLength")] {
        let malformed = sale
            .wire
            .read(format!(r#"{{"orderId":{sent}}}"#).as_bytes())
            .unwrap_err();
        assert_eq!(
            (malformed.code, malformed.faults[0].pointer.as_str()),
            ("invalid-data", "/orderId")
        );
        assert_eq!(malformed.faults[0].code, code);
    }
    assert_eq!(sale.wire.read(br#"{"orderId":null}"#).unwrap().key, None);
}

#[test]
fn a_sale_says_what_is_wrong() {
    let sale = definition("sale");
    for (body, status, answer) in [
        (
            "{}",
            400,
            r#"{"error":"invalid-data","message":"amount is required; currency is required","errors":[{"field":"amount","code":"required","message":"is required"},{"field":"currency","code":"required","message":"is required"}]}"#,
        ),
        (
            r#"{"amount":-1,"currency":"EUR"}"#,
            400,
            r#"{"error":"invalid-data","message":"amount must be at least 0","errors":[{"field":"amount","code":"minimum","message":"must be at least 0"}]}"#,
        ),
        (
            r#"{"amount":"99.99","currency":"euros"}"#,
            400,
            r#"{"error":"invalid-data","message":"amount must be a number; currency must be a currency code of ISO 4217, such as EUR","errors":[{"field":"amount","code":"type","message":"must be a number"},{"field":"currency","code":"format","message":"must be a currency code of ISO 4217, such as EUR"}]}"#,
        ),
    ] {
        assert_eq!(invalid(&sale, body), (status, answer.to_owned()));
    }
    for body in ["", "{", "[1]", "\"x\"", "{\"a\":1}x", "{\"amount\":NaN}", "null"] {
        let malformed = sale.wire.read(body.as_bytes()).unwrap_err();
        assert!(
            ["malformed-json", "not-an-object"].contains(&malformed.code),
            "{body}: {malformed}"
        );
    }
    assert_eq!(sale.wire.read(b"{\"a\":\"\xff\"}").unwrap_err().code, "malformed-json");
    let twice = sale
        .wire
        .read(br#"{"amount":1,"currency":"EUR","amount":2}"#)
        .unwrap_err();
    assert_eq!(twice.faults[0].pointer, "/amount");
}

#[test]
fn a_purchase_names_every_field_at_fault() {
    let purchase = definition("purchase");
    let body = r#"{"customerId":"c-1","items":[{"sku":"x","price":1.10}]}"#;
    let incoming = purchase.wire.read(body.as_bytes()).unwrap();
    let accepted = facts("RECEIVED", None, &incoming.data);
    assert_eq!(
        purchase.wire.accepted(&accepted),
        (202, format!(r#"{{"orderId":"{}","status":"RECEIVED"}}"#, id()))
    );
    assert_eq!(
        purchase.wire.write(&facts("COMPLETED", None, &incoming.data)),
        format!(
            r#"{{"orderId":"{}","status":"COMPLETED","customerId":"c-1","items":[{{"sku":"x","price":1.10}}]}}"#,
            id()
        )
    );
    for (body, expected) in [
        ("{}", vec![("/customerId", "required"), ("/items", "required")]),
        (
            r#"{"customerId":"","items":[]}"#,
            vec![("/customerId", "minLength"), ("/items", "minItems")],
        ),
        (
            r#"{"customerId":null,"items":{}}"#,
            vec![("/customerId", "type"), ("/items", "type")],
        ),
    ] {
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(at, code)| (at.to_owned(), code.to_owned()))
            .collect();
        assert_eq!(faults(&purchase, body), expected, "{body}");
    }
    let order_type = &purchase.order_type;
    assert_eq!(order_type.customer.as_deref(), Some("/customerId"));
    assert_eq!(
        order_type.statuses.keys().map(AsRef::as_ref).collect::<Vec<&str>>(),
        ["RECEIVED", "PROCESSING", "COMPLETED"]
    );
}

#[test]
fn a_work_order_in_its_own_words() {
    let work_order = definition("work-order");
    assert_eq!(work_order.wire.cors(), ["*"]);
    assert_eq!(work_order.wire.status_field(), Some("estado"));
    let body = r#"{"fecha_entrega":"10/04/2026","descripcion":"Cambiar correa","estado":"Recibida"}"#;
    let incoming = work_order.wire.read(body.as_bytes()).unwrap();
    assert_eq!(incoming.status.as_deref(), Some("Recibida"));
    assert_eq!(
        incoming.data.as_str(),
        r#"{"fecha_entrega":"10/04/2026","descripcion":"Cambiar correa"}"#
    );
    assert_eq!(work_order.validate(&incoming.value), []);
    let (status, answer) = work_order.wire.accepted(&facts("recibida", None, &incoming.data));
    assert_eq!(status, 200);
    assert_eq!(
        answer,
        format!(
            concat!(
                r#"{{"message":"Orden registrada con exito","order":{{"id":"{}","#,
                r#""fecha_registro":"2026-04-10T12:30:45.000123","timestamp":"1775824245.000123","#,
                r#""descripcion":"Cambiar correa","fecha_entrega":"10/04/2026","estado":"recibida"}}}}"#
            ),
            id()
        )
    );
    // What was read may be sent back as it is.
    let order: Value = serde_json::from_str(&answer).unwrap();
    let again = work_order.wire.read(order["order"].to_string().as_bytes()).unwrap();
    assert_eq!(again.id, Some(id().to_string()));
    assert_eq!(again.value, incoming_reordered(&incoming.value));
}

fn incoming_reordered(value: &Value) -> Value {
    serde_json::json!({ "descripcion": value["descripcion"], "fecha_entrega": value["fecha_entrega"] })
}

#[test]
fn a_work_order_refuses_in_spanish() {
    let work_order = definition("work-order");
    assert_eq!(
        invalid(&work_order, r#"{"fecha_entrega":"31/04/2026","estado":"recibida"}"#),
        (
            400,
            concat!(
                r#"{"message":"descripcion es obligatorio; "#,
                r#"fecha_entrega debe ser una fecha del calendario (30/04/2026, 30-04-2026)"}"#
            )
            .to_owned()
        )
    );
    let malformed = work_order.wire.read(b"{").unwrap_err();
    assert_eq!(malformed.detail, "El cuerpo no es JSON válido (línea 1, columna 1)");
    let error = |code: &str, detail: &str, status: u16, faults: &[Fault], allowed: Option<&[Arc<str>]>| {
        work_order.wire.error(&WireError {
            status,
            code,
            detail,
            faults,
            allowed,
        })
    };
    let (status, body) = error("malformed-json", &malformed.detail, 400, &[], None);
    assert_eq!(
        (status, body.as_str()),
        (400, r#"{"message":"El cuerpo no es JSON válido (línea 1, columna 1)"}"#)
    );
    let (status, body) = error("unknown-order", "there is no order 1", 404, &[], None);
    assert_eq!((status, body.as_str()), (404, r#"{"message":"No existe esa orden"}"#));
    let allowed: [Arc<str>; 2] = ["completada".into(), "cancelada".into()];
    let (status, body) = error("illegal-transition", "an order …", 409, &[], Some(&allowed));
    assert_eq!(status, 409);
    assert_eq!(
        body,
        r#"{"message":"La orden no puede pasar a ese estado. Permitidos: completada, cancelada"}"#
    );
    let missing = comanda_model::decision::missing_fields(&work_order.order_type, "cancelada", &Value::Null);
    let faults: Vec<Fault> = missing
        .into_iter()
        .map(|missing| Fault {
            pointer: missing.field,
            code: "required".to_owned(),
            detail: missing.message,
        })
        .collect();
    let (status, body) = error("requires", "", 422, &faults, None);
    assert_eq!(
        (status, body.as_str()),
        (400, r#"{"message":"motivo: Indique el motivo de la cancelación"}"#)
    );
    assert_eq!(work_order.wire.translate("something-new", "detail"), "detail");
}

#[test]
fn a_work_order_knows_its_statuses_in_any_spelling() {
    let order_type = definition("work-order").order_type;
    for (spelled, status) in [
        ("EN PROCESO", "en proceso"),
        ("enProceso", "en proceso"),
        ("En_Proceso", "en proceso"),
        ("RECIBIDA", "recibida"),
        ("Cancelada", "cancelada"),
    ] {
        assert_eq!(order_type.resolve_status(spelled).map(AsRef::as_ref), Some(status));
    }
    assert_eq!(order_type.resolve_status("perdida"), None);
    let fifo = order_type.fifo.as_ref().unwrap();
    assert_eq!((fifo.key.as_deref(), fifo.scope), (None, FifoScope::Status));
}

#[test]
fn a_shop_order_adds_up() {
    let shop = definition("shop-order");
    let body = r#"{"customer_name":"Ana","customer_email":"ana@example.com","customer_address":"1 High St","items":[{"product_id":"p1","name":"Mug","quantity":3,"price":0.10}],"total_price":0.3,"payment_method":"card","status":"pending"}"#;
    let incoming = shop.wire.read(body.as_bytes()).unwrap();
    assert_eq!(incoming.status.as_deref(), Some("pending"));
    assert_eq!(shop.validate(&incoming.value), []);
    let written = shop.wire.write(&facts("shipped", None, &incoming.data));
    let expected = body.replace(r#","status":"pending""#, "");
    assert_eq!(
        written,
        format!(r#"{{"id":"{}","status":"shipped",{}"#, id(), &expected[1..])
    );
    for (from, to, at, code) in [
        (r#""total_price":0.3"#, r#""total_price":0.31"#, "/total_price", "sum"),
        (r#""quantity":3"#, r#""quantity":0"#, "/items/0/quantity", "minimum"),
        (r#""quantity":3"#, r#""quantity":1.5"#, "/items/0/quantity", "type"),
        ("ana@example.com", "ana(at)example.com", "/customer_email", "format"),
    ] {
        let faults = faults(&shop, &body.replace(from, to));
        assert!(faults.contains(&(at.to_owned(), code.to_owned())), "{faults:?}");
    }
    let (_, answer) = invalid(&shop, &body.replace("0.3,", "0.31,"));
    assert!(
        answer.contains("total_price must equal the sum of quantity × price over items, which is 0.3"),
        "{answer}"
    );
    let order_type = &shop.order_type;
    assert_eq!(order_type.steps["process"].retry.attempts, 3);
    assert_eq!(order_type.cancel_from("shipped").map(AsRef::as_ref), Some("cancelled"));
    assert_eq!(order_type.cancel_from("delivered"), None);
}

#[test]
fn a_patch_is_read_the_same_way() {
    let shop = definition("shop-order");
    let patch = shop.wire.read(br#"{"status":"shipped"}"#).unwrap();
    assert_eq!((patch.status.as_deref(), patch.data.as_str()), (Some("shipped"), "{}"));
    let patch = shop.wire.read(br#"{"customer_name":null,"status":null}"#).unwrap();
    assert_eq!((patch.status, patch.data.as_str()), (None, r#"{"customer_name":null}"#));
}

#[test]
fn a_storefront_order_needs_its_parcel_to_be_delivered() {
    let storefront = definition("storefront-order");
    assert_eq!(
        faults(&storefront, r#"{"userId":"u","products":[{"sku":"a","quantity":1}]}"#),
        []
    );
    let order_type = &storefront.order_type;
    let lacking = |text: &str| {
        let data = serde_json::from_str(text).unwrap();
        comanda_model::decision::missing_fields(order_type, "delivered", &data).len()
    };
    assert_eq!(lacking("{}"), 2);
    assert_eq!(lacking(r#"{"shipping":{"carrier":"DHL","trackingNumber":"1"}}"#), 0);
    assert!(order_type.statuses["canceled"].undo);
    assert_eq!(order_type.cancel_from("received").map(AsRef::as_ref), Some("canceled"));
}
