//! The conversations of the shipped types, in their own wire forms.

use serde_json::{Value, json};

use super::{Answer, Api, quick};

const SHOP_ORDER: &str = r#"{"customer_name":"Ana Ruiz","customer_email":"ana@example.com",
 "customer_address":"1 High Street","items":[{"product_id":"p-1","name":"Notebook","quantity":2,"price":4.95}],
 "total_price":9.90,"payment_method":"card"}"#;

#[tokio::test]
async fn a_sale_comes_back_to_the_letter() {
    let api = Api::new().await;
    let answer = api.post("/sale", r#"{"amount":99.990,"currency":"EUR"}"#).await;
    assert_eq!(answer.status, 202);
    let id = answer.json()["orderId"].as_str().unwrap().to_owned();
    assert_eq!(answer.text, format!(r#"{{"orderId":"{id}"}}"#));
    assert_eq!(answer.header("location"), format!("/sale/{id}"));
    assert_eq!(answer.header("content-type"), "application/json");
    let read = api.get(&format!("/sale/{id}")).await;
    assert_eq!(
        (read.status, read.text),
        (200, format!(r#"{{"orderId":"{id}","amount":99.990,"currency":"EUR"}}"#))
    );
    assert_eq!(api.at_rest(&id).await["status"], "COMPLETED");
}

#[tokio::test]
async fn a_client_may_bring_its_own_id() {
    let api = Api::new().await;
    let body = r#"{"orderId":"A/17","amount":1,"currency":"EUR"}"#;
    let answer = api.post("/sale", body).await;
    assert_eq!((answer.status, answer.text.as_str()), (202, r#"{"orderId":"A/17"}"#));
    assert_eq!(answer.header("location"), "/sale/A%2F17");
    assert_eq!(api.get("/sale/A%2F17").await.json()["amount"].to_string(), "1");
    // The same again is the same order; other content under the same id is refused.
    let again = api.post("/sale", body).await;
    assert_eq!((again.status, &again.text), (202, &answer.text));
    assert_eq!(again.header("idempotency-replayed"), "true");
    let other = api
        .post("/sale", r#"{"orderId":"A/17","amount":2,"currency":"EUR"}"#)
        .await;
    assert_eq!((other.status, other.json()["error"].as_str()), (409, Some("key-taken")));
    assert_eq!(api.get("/sale").await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_sale_that_is_wrong_is_told_what_is_wrong() {
    let api = Api::new().await;
    for (body, field) in [
        (r#"{"currency":"EUR"}"#, "amount"),
        (r#"{"amount":-1,"currency":"EUR"}"#, "amount"),
        (r#"{"amount":"1","currency":"EUR"}"#, "amount"),
        (r#"{"amount":1,"currency":"EURO"}"#, "currency"),
        (r#"{"amount":1}"#, "currency"),
    ] {
        let answer = api.post("/sale", body).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(answer.json()["errors"][0]["field"], field, "{answer:?}");
    }
    let answer = api.post("/sale", r#"{"amount":-1,"currency":"EURO"}"#).await.json();
    assert_eq!(
        answer["errors"].as_array().unwrap().len(),
        2,
        "every fault at once: {answer}"
    );
    let answer = api.post("/sale", r#"{"amount":"#).await;
    assert_eq!(
        (answer.status, answer.json()["error"].as_str()),
        (400, Some("malformed-json"))
    );
    assert!(answer.text.contains("line 1, column 10"), "{answer:?}");
    let unknown = api.get("/sale/0190ffff-0000-7000-8000-000000000000").await;
    assert_eq!(
        (unknown.status, unknown.json()["error"].as_str()),
        (404, Some("unknown-order"))
    );
}

#[tokio::test]
async fn a_type_stands_where_the_operator_mounts_it() {
    let api = Api::new().await;
    let answer = api.post("/orders", r#"{"amount":1,"currency":"EUR"}"#).await;
    let id = answer.json()["orderId"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), format!("/orders/{id}"));
    for path in [format!("/orders/{id}"), format!("/sale/{id}")] {
        assert_eq!(api.get(&path).await.status, 200, "{path}");
    }
    // An order of another type is not there, under whatever id.
    assert_eq!(api.get(&format!("/purchase/{id}")).await.status, 404);
    assert_eq!(api.get(&format!("/orders/{id}/more")).await.code(404), "not-found");
    assert_eq!(api.get("/ordersx").await.code(404), "not-found");
}

#[tokio::test]
async fn a_purchase_goes_through_processing() {
    let api = Api::new().await;
    let answer = api
        .post("/purchase", r#"{"customerId":"c-1","items":[{"sku":"A","qty":1}]}"#)
        .await;
    let id = answer.json()["orderId"].as_str().unwrap().to_owned();
    assert_eq!(
        (answer.status, answer.text),
        (202, format!(r#"{{"orderId":"{id}","status":"RECEIVED"}}"#))
    );
    api.at_rest(&id).await;
    let order = api.get(&format!("/purchase/{id}")).await.json();
    assert_eq!(
        order,
        json!({"orderId": id, "status": "COMPLETED", "customerId": "c-1", "items": [{"sku": "A", "qty": 1}]})
    );
    let events = api.get(&format!("/v1/orders/{id}/events")).await.json();
    let path: Vec<_> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["data"]["to"].clone())
        .collect();
    assert_eq!(path, ["RECEIVED", "PROCESSING", "COMPLETED"]);
    for (body, fields) in [
        ("{}", vec!["customerId", "items"]),
        (r#"{"customerId":"","items":[]}"#, vec!["customerId", "items"]),
        (r#"{"customerId":"c"}"#, vec!["items"]),
    ] {
        let answer = api.post("/purchase", body).await;
        assert_eq!(answer.status, 400);
        let answer = answer.json();
        let named: Vec<_> = answer["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|fault| fault["field"].clone())
            .collect();
        assert_eq!(named, fields, "{answer}");
    }
}

#[tokio::test]
async fn a_purchase_is_waited_for() {
    let api = Api::new().await;
    let body = r#"{"customerId":"c-1","items":[1]}"#;
    let answer = api.ask("POST", "/purchase", &[("prefer", "wait=30")], body).await;
    assert_eq!(
        (answer.status, answer.json()["status"].as_str()),
        (200, Some("COMPLETED"))
    );
    assert_eq!(answer.header("preference-applied"), "wait=30");
}

#[tokio::test]
async fn a_work_order_speaks_spanish() {
    let api = Api::new().await;
    let body = r#"{"fecha_entrega":"10/04/2026","descripcion":"Cambiar la correa","estado":"Recibida"}"#;
    let answer = api.post("/work-order", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let order = answer.json();
    assert_eq!(order["message"], "Orden registrada con exito");
    let names: Vec<&String> = order["order"].as_object().unwrap().keys().collect();
    assert_eq!(
        names,
        [
            "id",
            "fecha_registro",
            "timestamp",
            "descripcion",
            "fecha_entrega",
            "estado"
        ]
    );
    assert_eq!(
        (&order["order"]["estado"], &order["order"]["fecha_entrega"]),
        (&json!("recibida"), &json!("10/04/2026"))
    );
    let id = order["order"]["id"].as_str().unwrap().to_owned();
    let path = format!("/work-order/{id}");

    let answer = api.patch(&path, r#"{"estado":"EN PROCESO"}"#).await;
    assert_eq!(
        (answer.status, answer.json()["estado"].as_str()),
        (200, Some("en proceso"))
    );
    // A cancel without its reason, and then with it.
    let answer = api.patch(&path, r#"{"estado":"cancelada"}"#).await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.json(),
        json!({"message": "motivo: Indique el motivo de la cancelación"})
    );
    let answer = api
        .patch(&path, r#"{"estado":"cancelada","motivo":"Ya no hace falta"}"#)
        .await;
    assert_eq!(
        (answer.status, answer.json()["estado"].as_str()),
        (200, Some("cancelada"))
    );
    let answer = api.patch(&path, r#"{"estado":"recibida"}"#).await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.json()["message"], "La orden no puede pasar a ese estado");

    let missing = api.get("/work-order/nada").await;
    assert_eq!(
        (missing.status, missing.json()),
        (404, json!({"message": "No existe esa orden"}))
    );
    let malformed = api.post("/work-order", "{").await;
    assert_eq!(malformed.status, 400);
    assert!(
        malformed.json()["message"]
            .as_str()
            .unwrap()
            .starts_with("El cuerpo no es JSON válido")
    );
    for (body, word) in [
        (
            r#"{"fecha_entrega":"31/02/2026","descripcion":"x","estado":"recibida"}"#,
            "fecha_entrega",
        ),
        (
            r#"{"fecha_entrega":"10/04/2026","descripcion":"x","estado":"perdida"}"#,
            "estado",
        ),
        (
            r#"{"fecha_entrega":"10/04/2026","descripcion":"x","estado":"cancelada"}"#,
            "motivo",
        ),
    ] {
        let answer = api.post("/work-order", body).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.text.contains(word), "{answer:?}");
    }
}

#[tokio::test]
async fn a_work_order_may_arrive_in_any_status_and_be_sent_again() {
    let api = Api::new().await;
    let body = r#"{"fecha_entrega":"10-04-1999","descripcion":"x","estado":"ENPROCESO"}"#;
    let order = api.post("/work-order", body).await.json()["order"].clone();
    assert_eq!(order["estado"], "en proceso");
    // A POST with the id of an order updates it, and answers as a POST does.
    let mut sent = order.clone();
    sent["descripcion"] = json!("y");
    sent["estado"] = json!("Completada");
    let answer = api.post("/work-order", &sent.to_string()).await;
    assert_eq!((answer.status, &answer.json()["order"]["id"]), (200, &order["id"]));
    let order = &answer.json()["order"];
    assert_eq!(
        (&order["estado"], &order["descripcion"]),
        (&json!("completada"), &json!("y"))
    );
    assert_eq!(
        api.get("/work-order").await.json()["items"].as_array().unwrap().len(),
        1
    );
    sent["id"] = json!("0190ffff-0000-7000-8000-000000000000");
    assert_eq!(api.post("/work-order", &sent.to_string()).await.status, 404);
}

#[tokio::test]
async fn a_shop_order_is_shipped_and_delivered() {
    let api = Api::new().await;
    let answer = api.post("/shop-order", SHOP_ORDER).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let order = answer.json();
    assert_eq!(
        (&order["status"], order["total_price"].to_string()),
        (&json!("pending"), "9.90".to_owned())
    );
    let id = order["id"].as_str().unwrap().to_owned();
    let path = format!("/shop-order/{id}");
    let seen = api.get(&format!("/v1/orders/{id}?wait=1")).await.json();
    assert_eq!(seen["status"], "pending");
    let answer = api.patch(&path, r#"{"status":"delivered"}"#).await;
    assert_eq!(answer.status, 409);
    assert_eq!(answer.json()["allowed"], json!(["shipped", "cancelled"]));
    for status in ["shipped", "delivered"] {
        let answer = api.patch(&path, &json!({"status": status}).to_string()).await;
        assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some(status)));
    }
    let answer = api.patch(&path, r#"{"status":"cancelled"}"#).await;
    assert_eq!((answer.status, answer.json()["allowed"].clone()), (409, json!([])));
}

#[tokio::test]
async fn a_shop_order_must_add_up() {
    let api = Api::new().await;
    for (from, to, field) in [
        ("9.90", "9.91", "total_price"),
        ("\"quantity\":2", "\"quantity\":0", "items[0].quantity"),
        ("\"quantity\":2", "\"quantity\":1.5", "items[0].quantity"),
        ("ana@example.com", "ana", "customer_email"),
    ] {
        let answer = api.post("/shop-order", &SHOP_ORDER.replace(from, to)).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_eq!(answer.json()["errors"][0]["field"], field, "{answer:?}");
    }
    // The status that it begins in may be said.
    let with_status = SHOP_ORDER.replacen('{', r#"{"status":"pending","#, 1);
    assert_eq!(api.post("/shop-order", &with_status).await.status, 202);
}

#[tokio::test]
async fn a_storefront_order_needs_its_parcel() {
    let api = Api::new().await;
    api.post("/v1/customers", r#"{"id":"u-1","name":"Ada"}"#).await;
    let stock = r#"{"quantity":5,"price":14.90,"currency":"EUR"}"#;
    assert_eq!(api.post("/v1/inventory/A-1/receive", stock).await.status, 200);
    let answer = api
        .post(
            "/storefront-order",
            r#"{"userId":"u-1","products":[{"sku":"A-1","quantity":2}]}"#,
        )
        .await;
    assert_eq!(answer.status, 202);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/storefront-order/{id}");
    // Until its carrier has been told and it has been paid for.
    loop {
        let order = api.get(&format!("/v1/orders/{id}")).await.json();
        if order["status"] == "processing" && order["work"]["state"] == "waiting" {
            break;
        }
        let version = order["version"].clone();
        api.get(&format!("/v1/orders/{id}?wait=30&version={version}")).await;
    }
    let shown = api.get(&path).await.json();
    assert_eq!(shown["shipping"]["carrier"], "Sandbox", "{shown}");
    let tracking = shown["shipping"]["trackingNumber"].as_str().unwrap();
    assert!(tracking.starts_with("SANDBOX-"), "{tracking}");
    // A person may say another, and cannot leave it empty.
    let answer = api.patch(&path, r#"{"shipping":{"trackingNumber":" "}}"#).await;
    assert_eq!(answer.status, 200);
    let answer = api.patch(&path, r#"{"status":"delivered"}"#).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(answer.json()["errors"][0]["field"], "shipping.trackingNumber");
    let body = r#"{"status":"delivered","shipping":{"carrier":"X","trackingNumber":"1"}}"#;
    let answer = api.patch(&path, body).await;
    assert_eq!(
        (answer.status, answer.json()["shipping"]["carrier"].as_str()),
        (200, Some("X"))
    );
}

#[tokio::test]
async fn an_unchanged_status_changes_nothing() {
    let api = Api::new().await;
    let order = api.post("/waiting", r#"{"who":"a","n":1.0}"#).await.json();
    let path = format!("/waiting/{}", order["id"].as_str().unwrap());
    let tag = api.get(&path).await.header("etag").to_owned();
    let answer = api.ask("PATCH", &path, &[("if-match", &tag)], "{}").await;
    assert_eq!((answer.status, answer.header("etag")), (200, tag.as_str()));
    let answer = api.ask("PATCH", &path, &[("if-match", "\"99\"")], "{}").await;
    assert_eq!(answer.status, 412);
    let answer = api.ask("PATCH", &path, &[("if-match", &tag)], r#"{"n":2.50}"#).await;
    assert_eq!(
        (answer.status, answer.json()["n"].to_string()),
        (200, "2.50".to_owned())
    );
    assert_ne!(answer.header("etag"), tag);
    assert_eq!(
        api.ask("GET", &path, &[("if-none-match", answer.header("etag"))], "")
            .await
            .status,
        304
    );
    let answer = api.patch(&path, r#"{"who":"b"}"#).await;
    assert_eq!((answer.status, answer.json()["error"].as_str()), (409, Some("fixed")));
}

#[tokio::test]
async fn a_mount_says_what_it_takes() {
    let api = Api::new().await;
    let answer = api.ask("DELETE", "/sale/x", &[], "").await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, "GET, HEAD, PATCH, OPTIONS")
    );
    let answer = api.ask("PUT", "/sale", &[], "").await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, "GET, HEAD, POST, OPTIONS")
    );
    let answer = api.ask("POST", "/sale", &[("content-type", "text/plain")], "").await;
    assert_eq!(answer.status, 415);
    let answer = api
        .post("/sale", &format!("{{\"x\":\"{}\"}}", "x".repeat(70_000)))
        .await;
    assert_eq!(
        (answer.status, answer.json()["error"].as_str()),
        (413, Some("too-large"))
    );
}

#[tokio::test]
async fn a_mount_is_shared_with_the_pages_that_its_type_names() {
    let api = Api::new().await;
    let preflight = [
        ("origin", "https://any.example"),
        ("access-control-request-method", "POST"),
    ];
    let answer = api.ask("OPTIONS", "/work-order", &preflight, "").await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert!(
        answer
            .header("access-control-allow-headers")
            .contains("Idempotency-Key")
    );
    // Also a refusal can be read by the page.
    let answer = api.ask("POST", "/work-order", &preflight[..1], "{").await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (400, "*")
    );
    let ours = [("origin", "https://shop.example")];
    let answer = api.ask("POST", "/waiting", &ours, "{}").await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (202, "https://shop.example")
    );
    assert_eq!(answer.header("vary"), "Origin");
    let answer = api.ask("OPTIONS", "/waiting", &preflight, "").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    let answer = api.ask("OPTIONS", "/sale", &preflight, "").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_list_is_in_the_wire_form() {
    let api = Api::new().await;
    for number in 0..3 {
        api.post("/purchase", &json!({"customerId": "c", "items": [number]}).to_string())
            .await;
    }
    let first = api.get("/purchase?limit=2&customer=c").await;
    assert_eq!(first.json()["items"][0]["items"], json!([2]));
    assert_eq!(first.json()["items"].as_array().unwrap().len(), 2);
    let link = first.header("link").to_owned();
    let next = link.strip_prefix('<').unwrap().split_once('>').unwrap().0;
    assert!(next.contains("customer=c"));
    let second = api.get(next).await.json();
    assert_eq!(second["items"][0]["items"], json!([0]));
    assert_eq!(second["nextCursor"], json!(null));
    assert_eq!(api.get("/purchase?limit=501").await.status, 400);
    assert_eq!(api.get("/purchase?limits=1").await.status, 400);
}

/// What it answers is what the bench sets beside storing, so it has to be the whole answer.
#[tokio::test]
async fn a_server_that_only_measures_answers_as_any_and_forgets() {
    let only_measures = comanda_engine::Options {
        bench_no_store: true,
        ..quick()
    };
    let (api, stores) = (Api::over(only_measures, |_| {}).await, Api::new().await);
    let single = r#"{"customerId":"c","items":[1]}"#;
    let v1 = format!(r#"{{"type":"purchase","data":{single}}}"#);
    let batch = format!(r#"[{v1},{{"type":"purchase","data":{{}}}}]"#);
    for (path, body) in [
        ("/purchase", single),
        ("/purchase", r#"{"customerId":"c"}"#),
        ("/v1/orders", &v1),
        ("/v1/orders/batch", &batch),
    ] {
        let (answer, stored) = (api.post(path, body).await, stores.post(path, body).await);
        assert_eq!(answer.status, stored.status, "{path} {body}");
        let names = |answer: &Answer| answer.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&answer), names(&stored), "{path} {body}");
        let members = |answer: &Answer| match answer.json() {
            Value::Object(members) => members.keys().cloned().collect::<Vec<_>>(),
            other => vec![format!("{} items", other.as_array().map_or(0, Vec::len))],
        };
        assert_eq!(members(&answer), members(&stored), "{path} {body}");
        if let Some(at) = answer.headers.get("location") {
            assert_eq!(api.get(at.to_str().unwrap()).await.status, 404);
        }
    }
    assert_eq!(api.get("/purchase").await.json()["items"], json!([]));
    assert_eq!(
        stores.get("/purchase").await.json()["items"].as_array().unwrap().len(),
        3
    );
}
