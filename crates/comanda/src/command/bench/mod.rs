//! `comanda bench`: drives a running server over real HTTP, says how fast it was, and then checks every order that it
//! accepted: a number that was reached by losing orders is worth nothing.

mod check;
mod drive;
mod follow;
mod report;

use std::sync::Arc;

use comanda_order_type::{Definition, Known};
use serde_json::{Value, json};

use super::read_json;
use crate::cli::{Bench, Global};
use crate::failure::Failure;
use crate::output::{Output, progress};
use crate::remote::{Remote, RemoteError, segment};

pub(super) async fn run(remote: Remote, global: &Global, args: Bench, output: &mut Output) -> Result<(), Failure> {
    // A server that is not there, or does not know the type, is said now and not in thousands of failures.
    let definition = remote
        .get(&format!("/v1/order-types/{}", segment(&args.order_type)), &[])
        .await?
        .body;
    let order = order(&args, &definition)?;
    let target = drive::Target::new(remote.url(), global.api_key.as_deref(), &args, &order)?;
    let before = newest(&remote, &args).await?;
    eprintln!(
        "{} connections submit {} for {} to {}",
        args.connections,
        args.order_type,
        crate::config::units::show(args.duration),
        remote.url()
    );
    let bar = progress(0, "submitting");
    let driven = drive::run(Arc::new(target), &args, &remote, &bar).await?;
    bar.finish_and_clear();
    let checked = if args.no_check {
        None
    } else {
        Some(check::run(&remote, &args, &driven, before.as_deref()).await?)
    };
    report::print(&args, &driven, checked.as_ref(), output)?;
    let lost = checked.is_some_and(|checked| !checked.is_sound());
    if lost || driven.accepted() == 0 {
        Err(Failure::Reported)
    } else {
        Ok(())
    }
}

/// The order to submit: what was given, else the sample of the type. Alone it is sent in its type's wire form; in a
/// batch, as `/v1` takes it.
fn order(args: &Bench, definition: &Value) -> Result<Value, Failure> {
    let given = args.body.as_deref().map(|path| read_json(Some(path))).transpose()?;
    let shipped = comanda_order_type::shipped().into_iter().find_map(|bundle| {
        let definition = comanda_order_type::read(&bundle, &Known::default()).definition?;
        (*definition.order_type.name == *args.order_type).then_some(definition)
    });
    let example = || definition["schema"]["examples"].get(0).cloned();
    let order = given
        .or_else(|| shipped.as_ref().map(Definition::wire_sample))
        .or_else(example);
    let order = order.ok_or_else(|| {
        Failure::Usage(format!(
            "the schema of `{}` has no `examples`; give an order with --body",
            args.order_type
        ))
    })?;
    if args.batch.is_none() {
        return Ok(order);
    }
    let mut submission = json!({"type": args.order_type, "data": order});
    // A type that takes its status from the order takes it beside the data on `/v1`.
    if let Some(incoming) = shipped.and_then(|shipped| shipped.wire.read(order.to_string().as_bytes()).ok()) {
        submission["data"] = incoming.value;
        if let Some(status) = incoming.status {
            submission["status"] = Value::from(status);
        }
    }
    Ok(submission)
}

/// The newest order of the type before the run: the list of orders is read down to it afterwards.
async fn newest(remote: &Remote, args: &Bench) -> Result<Option<String>, RemoteError> {
    let query = [("type", Some(args.order_type.clone())), ("limit", Some("1".to_owned()))];
    let page = remote.get("/v1/orders", &query).await?.body;
    Ok(page["items"][0]["id"].as_str().map(str::to_owned))
}

/// The most values that orders are varied over: each body is made before the run.
const VARIED_MAX: u32 = 10_000;

/// Reads `POINTER=COUNT`.
pub(crate) fn vary(text: &str) -> Result<(String, u32), String> {
    let (pointer, count) = text.split_once('=').ok_or("write it as POINTER=COUNT")?;
    if !pointer.starts_with('/') {
        return Err("a place is named by a JSON pointer, such as /customerId".to_owned());
    }
    match count.parse() {
        Ok(count @ 1..=VARIED_MAX) => Ok((pointer.to_owned(), count)),
        _ => Err(format!("the count is a number from 1 to {VARIED_MAX}")),
    }
}

/// The bodies of requests, sent in turn: the order, or so many of it; varied if that was asked for.
fn bodies(args: &Bench, order: &Value) -> Result<Vec<String>, Failure> {
    let Some((pointer, count)) = &args.vary else {
        return Ok(vec![body(args, std::iter::repeat(order.to_string()))]);
    };
    let inside = if args.batch.is_some() { "/data" } else { "" };
    let place = format!("{inside}{pointer}");
    let orders: Vec<String> = (0..*count)
        .map(|number| {
            let mut order = order.clone();
            let value = order.pointer_mut(&place).ok_or_else(|| {
                Failure::Usage(format!(
                    "the order has nothing at {pointer} that could be varied; give one with --body"
                ))
            })?;
            *value = Value::from(format!("v-{number}"));
            Ok(order.to_string())
        })
        .collect::<Result<_, Failure>>()?;
    // In a batch neighbours differ, and each order comes first once.
    Ok((0..orders.len())
        .map(|first| body(args, orders.iter().cycle().skip(first).cloned()))
        .collect())
}

/// The body of a request: an order, or so many.
fn body(args: &Bench, mut orders: impl Iterator<Item = String>) -> String {
    match args.batch {
        None => orders.next().unwrap_or_default(),
        Some(count) => format!("[{}]", orders.take(count as usize).collect::<Vec<_>>().join(",")),
    }
}
