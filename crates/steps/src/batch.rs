//! Attempts of one step that go out together: `batch` in the order-type file.
//!
//! Attempts that are ready within a moment of each other and whose calls are the same but for their bodies are sent as one
//! call, whose body lists theirs. The answer lists how each went, and each attempt is answered on its own: for the engine
//! nothing is shared, neither token nor time nor retry. Only first attempts are gathered. One that has failed goes alone,
//! so that an attempt which spoils every call that it is part of does so once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use comanda_engine::{Postponed, StepCall};
use comanda_model::TypeHash;
use comanda_model::bounds::RESULT_BYTES_MAX;
use comanda_model::decision::StepOutcome;
use comanda_model::order_type::HttpCall;
use comanda_outbound::Secrets;
use parking_lot::Mutex;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, Request, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use crate::caller::{Answer, CallError, Caller, Exchange, RETRY_AFTER_MAX, hidden_of, shown};
use crate::http::{no_answer, outcome};

/// How long the first attempt of a batch waits for others.
const LINGER: Duration = Duration::from_millis(5);
/// A batch with so many bytes of bodies goes out.
const BODIES_BYTES_MAX: usize = 1024 * 1024;
/// What an item of an answer has beside its result, at most.
const ITEM_BYTES: usize = 1024;
/// The most of an answer that is read.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What every attempt has for itself, in its item instead of the call's headers.
const OF_THE_ATTEMPT: [&str; 4] = ["idempotency-key", "traceparent", "comanda-attempt", "comanda-callback"];

/// The batches that gather now.
pub(crate) struct Batches {
    caller: Arc<Caller>,
    open: Arc<Mutex<HashMap<Group, Open>>>,
}

/// What attempts must have in common to go out together.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Group {
    type_hash: TypeHash,
    step: String,
    method: Method,
    url: Url,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// A batch that gathers.
struct Open {
    members: Vec<Member>,
    bytes: usize,
    full: Arc<Notify>,
}

/// One attempt.
struct Member {
    item: Item,
    /// What may not be kept if the service quotes it.
    hidden: Option<String>,
    takes_callback: Option<Uuid>,
    answer: oneshot::Sender<StepOutcome>,
}

/// One attempt, as the service sees it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    idempotency_key: String,
    attempt: u32,
    order_id: String,
    traceparent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Asked<'a> {
    items: Vec<&'a Item>,
}

/// What a service answers. Each item is read for itself, so that one that cannot be read spoils no other.
#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ItemTold<'a> {
    idempotency_key: String,
    status: u16,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    /// Seconds.
    retry_after: Option<u64>,
}

/// What of a step a batch needs while it is on its way.
struct Call {
    http: HttpCall,
    timeout: Duration,
}

impl Batches {
    pub(crate) fn new(caller: Arc<Caller>) -> Self {
        Self {
            caller,
            open: Arc::default(),
        }
    }

    /// Makes an attempt together with others. Whoever gives it up takes it out of a batch that has not been sent yet.
    pub(crate) async fn call(&self, call: &StepCall<'_>, http: &HttpCall) -> StepOutcome {
        let request = match self.caller.request(call, http) {
            Ok(request) => request,
            Err(error) => return no_answer(error),
        };
        let (member, answer) = self.member(call, http, &request);
        let call_of = || Call {
            http: http.clone(),
            timeout: call.step.timeout,
        };
        let alone = call.attempt > 1 || call.uncertain;
        if alone {
            tokio::spawn(send(self.caller.clone(), call_of(), shape(request), vec![member]));
        } else {
            self.join(call, member, request, call_of);
        }
        answer.await.unwrap_or_else(|_| StepOutcome::Unknown {
            reason: "the batch ended without an answer".to_owned(),
            retry_after: None,
        })
    }

    fn member(
        &self,
        call: &StepCall<'_>,
        http: &HttpCall,
        request: &Request,
    ) -> (Member, oneshot::Receiver<StepOutcome>) {
        let (sender, receiver) = oneshot::channel();
        let body = request.body().and_then(reqwest::Body::as_bytes);
        let body = body.and_then(|body| serde_json::from_slice(body).ok());
        let member = Member {
            item: Item {
                idempotency_key: call.idempotency_key.clone(),
                attempt: call.attempt,
                order_id: call.order.id().to_string(),
                traceparent: call.traceparent.clone(),
                callback: self.caller.callback_url(call, http),
                body,
            },
            hidden: hidden_of(call),
            takes_callback: http.callback.and(call.callback).map(|token| token.secret),
            answer: sender,
        };
        (member, receiver)
    }

    fn join(&self, call: &StepCall<'_>, member: Member, request: Request, call_of: impl Fn() -> Call) {
        let bytes = member.item.body.as_ref().map_or(0, |body| body.get().len());
        let request = shape(request);
        let group = Group {
            type_hash: call.order.head.type_hash,
            step: call.name.to_owned(),
            method: request.method().clone(),
            url: request.url().clone(),
            headers: request
                .headers()
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        };
        let mut all = self.open.lock();
        let open = all.entry(group.clone()).or_insert_with(|| Open {
            members: Vec::new(),
            bytes: 0,
            full: Arc::default(),
        });
        open.members.push(member);
        open.bytes += bytes;
        let (is_first, full) = (open.members.len() == 1, open.full.clone());
        let size = usize::try_from(call.step.batch).unwrap_or(usize::MAX);
        let members = if open.members.len() >= size || open.bytes >= BODIES_BYTES_MAX {
            all.remove(&group).map(|open| open.members)
        } else {
            None
        };
        drop(all);
        if let Some(members) = members {
            full.notify_one();
            tokio::spawn(send(self.caller.clone(), call_of(), request, members));
        } else if is_first {
            let (caller, open, call) = (self.caller.clone(), self.open.clone(), call_of());
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    // Whoever filled it has sent it.
                    () = full.notified() => return,
                    () = tokio::time::sleep(LINGER) => {}
                }
                let members = {
                    let mut all = open.lock();
                    let is_this = all.get(&group).is_some_and(|open| Arc::ptr_eq(&open.full, &full));
                    is_this.then(|| all.remove(&group)).flatten().map(|open| open.members)
                };
                if let Some(members) = members {
                    send(caller, call, request, members).await;
                }
            });
        }
    }
}

/// A request without what belongs to one attempt.
fn shape(mut request: Request) -> Request {
    for name in OF_THE_ATTEMPT {
        request.headers_mut().remove(name);
    }
    *request.body_mut() = None;
    request
}

/// Sends a batch, and answers each of its members.
async fn send(caller: Arc<Caller>, call: Call, mut request: Request, mut members: Vec<Member>) {
    let _place = match caller.admit_request(&call.http, &request).await {
        Ok(place) => place,
        Err(Postponed { reason, after }) => {
            for member in members {
                member.end(StepOutcome::Postponed {
                    reason: reason.clone(),
                    after,
                });
            }
            return;
        }
    };
    // Those that were given up meanwhile are not asked for.
    members.retain(|member| !member.answer.is_closed());
    if members.is_empty() {
        return;
    }
    let items = members.iter().map(|member| &member.item).collect();
    match serde_json::to_vec(&Asked { items }) {
        Ok(body) => *request.body_mut() = Some(body.into()),
        Err(error) => {
            for member in members {
                let reason = format!("the batch could not be written: {error}");
                member.end(StepOutcome::Failed {
                    reason,
                    retry_after: None,
                });
            }
            return;
        }
    }
    request
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let hidden: Vec<String> = members.iter().filter_map(|member| member.hidden.clone()).collect();
    let exchange = Exchange {
        http: &call.http,
        // A message of its own: what comes again later comes in another one.
        sign_as: &format!("batch-{}", Uuid::new_v4().simple()),
        timeout: call.timeout,
        hidden: hidden.clone(),
        body_bytes_max: (members.len() * (RESULT_BYTES_MAX + ITEM_BYTES)).min(ANSWER_BYTES_MAX),
    };
    let asked = format!(
        "{} {} with {} together",
        request.method(),
        shown(request.url()),
        members.len()
    );
    // The members' own times are about to pass too.
    let answer = tokio::time::timeout(call.timeout, caller.send_request(&exchange, &request)).await;
    let Ok(answer) = answer else { return };
    deal(&caller, &asked, &Secrets::new(hidden), answer, members);
}

/// Tells each member how it went.
fn deal(caller: &Caller, asked: &str, hidden: &Secrets, answer: Result<Answer, CallError>, members: Vec<Member>) {
    let answer = match answer {
        Ok(answer) if answer.status.is_success() => answer,
        // No to all of them, which may be due to one: alone each is told whether it is meant.
        Ok(answer) if answer.status.is_client_error() && members.len() > 1 => {
            for member in members {
                member.end(StepOutcome::Failed {
                    reason: answer.described.clone(),
                    retry_after: answer.retry_after,
                });
            }
            return;
        }
        whole => {
            for member in members {
                member.end(match whole.clone() {
                    Ok(answer) => outcome(answer),
                    Err(error) => no_answer(error),
                });
            }
            return;
        }
    };
    let text = String::from_utf8_lossy(&answer.body);
    let told = serde_json::from_str::<Told<'_>>(&text).map_or_else(|_| Vec::new(), |told| told.items);
    let told = told
        .into_iter()
        .filter_map(|item| serde_json::from_str(item.get()).ok());
    let mut told: HashMap<String, ItemTold<'_>> = told
        .map(|item: ItemTold<'_>| (item.idempotency_key.clone(), item))
        .collect();
    for member in members {
        let item = told.remove(&member.item.idempotency_key);
        let item = item.and_then(|item| Some((StatusCode::from_u16(item.status).ok()?, item)));
        let ended = match (item, member.takes_callback) {
            (Some((StatusCode::ACCEPTED, _)), Some(secret)) => StepOutcome::Waiting { secret },
            (Some((status, item)), _) => {
                let body = item.body.map(RawValue::get).filter(|body| *body != "null");
                let mut part = caller.part(asked, hidden, status, body.unwrap_or_default());
                part.retry_after = item
                    .retry_after
                    .map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
                outcome(part)
            }
            // The service took the batch, and does not say what became of this.
            (None, _) => StepOutcome::Unknown {
                reason: format!(
                    "{asked}: {}, and nothing that can be read about this attempt",
                    answer.status
                ),
                retry_after: answer.retry_after,
            },
        };
        member.end(ended);
    }
}

impl Member {
    fn end(self, outcome: StepOutcome) {
        // Whoever has given it up listens no more.
        let _ = self.answer.send(outcome);
    }
}
