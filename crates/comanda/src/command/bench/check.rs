//! Afterwards: is every order that was accepted there, and final?
//!
//! The list of orders is read page by page and compared with the ids that were answered, 16 bytes each. Whatever the
//! list does not show is asked for by its id before it is called lost.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::drive::{Driven, histogram, micros};
use crate::cli::Bench;
use crate::failure::Failure;
use crate::output::progress;
use crate::remote::{Remote, RemoteError};

/// How many of the last orders are waited for before the list is read.
const LAST: usize = 16;
/// How many ids are named of what is wrong.
const NAMED_MAX: usize = 10;

/// What the check found.
pub(super) struct Checked {
    /// Answered ids that are there.
    pub(super) found: u64,
    /// Answered ids that are there more than once: the same order was answered twice.
    pub(super) repeated: u64,
    /// Final orders.
    pub(super) completed: u64,
    /// Orders that wait for someone outside, as their type says.
    pub(super) waiting: u64,
    /// Dead letters.
    pub(super) dead: u64,
    /// Orders that are still at work.
    pub(super) moving: u64,
    /// Orders that came meanwhile and are none of these: an answer was lost, or another client submitted them.
    pub(super) unanswered: u64,
    /// Answered ids that are not there.
    pub(super) lost: u64,
    /// Some of the ids that are wrong.
    pub(super) named: Vec<Uuid>,
    /// How long orders took from acceptance to their end, in microseconds by the server's clock.
    pub(super) to_final: Histogram<u64>,
    /// From the first acceptance to the last end.
    pub(super) span: Duration,
}

impl Checked {
    /// Whether nothing was lost and nothing is left over.
    pub(super) fn is_sound(&self) -> bool {
        self.lost == 0 && self.moving == 0 && self.dead == 0
    }
}

/// How an order stands.
enum Stand {
    Final,
    Waiting,
    Dead,
    Moving,
}

pub(super) async fn run(
    remote: &Remote,
    args: &Bench,
    driven: &Driven,
    before: Option<&str>,
) -> Result<Checked, Failure> {
    let deadline = Instant::now() + args.settle;
    // Ids are in the order of acceptance: when the last ones rest, nearly all do.
    for id in driven.ids.iter().rev().take(LAST) {
        settled(remote, Uuid::from_bytes(*id), deadline).await?;
    }
    let mut checked = Checked {
        found: 0,
        repeated: driven.ids.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64,
        completed: 0,
        waiting: 0,
        dead: 0,
        moving: 0,
        unanswered: 0,
        lost: 0,
        named: Vec::new(),
        to_final: histogram()?,
        span: Duration::ZERO,
    };
    let mut seen = vec![false; driven.ids.len()];
    let mut span: Option<(Timestamp, Timestamp)> = None;
    let bar = progress(driven.accepted(), "checking");
    let mut cursor = None;
    loop {
        let query = [
            ("type", Some(args.order_type.clone())),
            ("limit", Some("500".to_owned())),
            ("cursor", cursor.take()),
        ];
        let page = remote.get("/v1/orders", &query).await?.body;
        let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        // The list is newest first, so everything from this order on was there before the run.
        let end = items
            .iter()
            .position(|order| before.is_some() && order["id"].as_str() == before);
        for order in &items[..end.unwrap_or(items.len())] {
            let id = order["id"]
                .as_str()
                .and_then(|id| Uuid::try_parse(id).ok())
                .unwrap_or_default();
            match driven.ids.binary_search(id.as_bytes()) {
                Ok(index) if !seen[index] => {
                    seen[index] = true;
                    let order = if matches!(stand(order), Stand::Moving) {
                        settled(remote, id, deadline).await?.unwrap_or_default()
                    } else {
                        order.clone()
                    };
                    checked.add(id, &order, &mut span);
                    bar.inc(1);
                }
                Ok(_) => {}
                Err(_) => checked.unanswered += 1,
            }
        }
        cursor = page["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() || end.is_some() {
            break;
        }
    }
    for (index, _) in seen.iter().enumerate().filter(|(_, seen)| !**seen) {
        if index > 0 && driven.ids[index - 1] == driven.ids[index] || driven.ids.get(index + 1) == driven.ids.get(index)
        {
            continue;
        }
        let id = Uuid::from_bytes(driven.ids[index]);
        match settled(remote, id, deadline).await? {
            Some(order) => checked.add(id, &order, &mut span),
            None => {
                checked.lost += 1;
                checked.name(id);
            }
        }
    }
    bar.finish_and_clear();
    checked.span = span.map_or(Duration::ZERO, |(first, last)| {
        last.duration_since(first).unsigned_abs()
    });
    Ok(checked)
}

impl Checked {
    fn add(&mut self, id: Uuid, order: &Value, span: &mut Option<(Timestamp, Timestamp)>) {
        self.found += 1;
        match stand(order) {
            Stand::Final => self.completed += 1,
            Stand::Waiting => {
                self.waiting += 1;
                return;
            }
            Stand::Dead => {
                self.dead += 1;
                return self.name(id);
            }
            Stand::Moving => {
                self.moving += 1;
                return self.name(id);
            }
        }
        let time = |name: &str| order[name].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        if let (Some(accepted_at), Some(ended_at)) = (time("acceptedAt"), time("updatedAt")) {
            self.to_final
                .saturating_record(micros(ended_at.duration_since(accepted_at).unsigned_abs()));
            let (first, last) = span.get_or_insert((accepted_at, ended_at));
            *first = accepted_at.min(*first);
            *last = ended_at.max(*last);
        }
    }

    fn name(&mut self, id: Uuid) {
        if self.named.len() < NAMED_MAX {
            self.named.push(id);
        }
    }
}

fn stand(order: &Value) -> Stand {
    match order["work"]["state"].as_str() {
        _ if order["final"] == true => Stand::Final,
        Some("waiting") => Stand::Waiting,
        Some("parked") => Stand::Dead,
        _ => Stand::Moving,
    }
}

/// An order once it rests, or as it stands at the deadline. `None` if there is no such order.
async fn settled(remote: &Remote, id: Uuid, deadline: Instant) -> Result<Option<Value>, RemoteError> {
    loop {
        let left = deadline
            .saturating_duration_since(Instant::now())
            .as_secs()
            .clamp(1, 30);
        let answer = remote
            .get(&format!("/v1/orders/{id}"), &[("wait", Some(left.to_string()))])
            .await;
        let order = match answer {
            Ok(answer) => answer.body,
            Err(RemoteError::Problem(problem)) if problem.status == http::StatusCode::NOT_FOUND => return Ok(None),
            Err(error) => return Err(error),
        };
        if !matches!(stand(&order), Stand::Moving) || Instant::now() >= deadline {
            return Ok(Some(order));
        }
    }
}
