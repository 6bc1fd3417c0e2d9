//! What bodies look like. Those that are read or written by types of this crate are described by those types; the others
//! by types that exist only here, and a test holds the answers against them.
#![allow(dead_code, reason = "described here, written elsewhere")]

use serde_json::Value;
use utoipa::{OpenApi, ToSchema};

use crate::audit::AuditView;
use crate::callbacks::{ApproveBody, CallbackTaken, RejectBody};
use crate::claims::{
    ClaimBody, ClaimOutcome, ClaimedItem, CompleteBody, CompleteItem, FailBody, FailItem, FailKind, HeartbeatBody,
    HeartbeatItem,
};
use crate::customers::{CustomerBody, CustomerView};
use crate::dead_letters::{DiscardBody, FilterBody, RedriveBody, RedriveStart, SweepItemView, SweepView, Version};
use crate::erasure::{ErasableView, EraseBody, NotFinalView};
use crate::intake::{
    DiscardedView, MessageTaken, RejectedList, RejectedView, RetriedView, SourceList, SourceView, StillRejected,
    WhichBody,
};
use crate::inventory::{CountBody, ReceiveBody, StockView};
use crate::jobs::{JobFailureView, JobList, JobView};
use crate::links::{LinkBody, LinkView, Moment, TrackedOrder};
use crate::orders::{CancelBody, SubmitBody, TransitionBody};
use crate::queues::{DeadItemPage, DeadItemView, DeadItemsBody, DeadItemsMoved, QueueView};
use crate::subscriptions::{
    Begin, DeliveryView, FilterView, Include, OrderingView, ResendAnswer, ResendBody, RotateBody, Signature,
    SubscriptionBody, SubscriptionView,
};
use comanda_deliver::{AttemptView, CloudEvent, EventData, NoticeData, NoticeEvent};

/// A message in the sender's own form: the source's settings say where in it the order's data is.
#[derive(ToSchema)]
struct IntakeMessage {
    #[schema(value_type = Option<Object>)]
    data: Option<Value>,
}

/// What a callback says. With `kind` it is a no, with a reason; every other JSON, or none, is the step's result.
#[derive(ToSchema)]
struct Callback {
    /// `refuse` for good, or `retry`.
    kind: Option<String>,
    /// Why.
    reason: Option<String>,
}

/// An order, as `/v1` shows it.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct Order {
    id: String,
    /// The client's own id.
    key: Option<String>,
    #[schema(rename = "type")]
    order_type: String,
    /// The version of its type that it lives on.
    type_version: String,
    status: String,
    /// Whether nothing moves it any more.
    #[schema(rename = "final")]
    is_final: bool,
    /// Counts its changes.
    version: u64,
    customer: Option<String>,
    /// Its group key: orders of one type with the same one are worked in the order in which they were accepted.
    group: Option<String>,
    /// Its data, as sent.
    #[schema(value_type = Object, additional_properties)]
    data: Value,
    /// What its steps left, by step.
    #[schema(value_type = Object, additional_properties)]
    results: Value,
    /// Why it is not moving; null when it is final.
    work: Option<Work>,
    #[schema(format = DateTime)]
    accepted_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    /// When what it knew of its customer was erased; left out for others.
    #[schema(format = DateTime, required = false)]
    erased_at: Option<String>,
}

/// Why an order is not moving.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct Work {
    step: Option<String>,
    state: WorkState,
    attempt: Option<u32>,
    #[schema(format = DateTime)]
    due_at: Option<String>,
    last_error: Option<String>,
    /// For whom or what it waits.
    #[schema(required = false)]
    waiting_for: Option<String>,
    /// Since when its step is held back, because its service takes no calls or has no room for one. `dueAt` is the next try.
    #[schema(required = false, format = DateTime)]
    held_back_since: Option<String>,
    /// The worker that has claimed it from its queue.
    #[schema(required = false)]
    worker: Option<String>,
    /// How many of its lane are before it.
    #[schema(required = false)]
    behind: Option<u32>,
    /// When the deadline of its status passes.
    #[schema(required = false, format = DateTime)]
    deadline_at: Option<String>,
    /// Whether it is taking back what it did.
    #[schema(required = false)]
    undoing: Option<bool>,
}

/// Why an order is not moving, in one word.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
enum WorkState {
    Due,
    Running,
    Retrying,
    Waiting,
    Queued,
    Parked,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct OrderPage {
    items: Vec<Order>,
    /// Where the next page begins; null when there is nothing more.
    next_cursor: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct AuditPage {
    items: Vec<AuditView>,
    /// Where the next page begins; null when there is nothing more.
    next_cursor: Option<String>,
}

/// An event of an order or, where it was asked for by its type, of a subscription.
#[derive(serde::Serialize, ToSchema)]
#[serde(untagged)]
enum FeedItem {
    Order(CloudEvent),
    Notice(NoticeEvent),
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct EventPage {
    items: Vec<FeedItem>,
    /// Where to go on. Of `/v1/events` it is always there: events may yet come.
    next_cursor: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct AttemptPage {
    items: Vec<AttemptView>,
    next_cursor: Option<String>,
}

#[derive(ToSchema)]
struct BatchAnswer {
    /// In the order of the submissions.
    items: Vec<BatchItem>,
}

/// An order of a batch: whole, or with `Prefer: return=minimal` where to find it.
#[derive(ToSchema)]
#[serde(untagged)]
enum BatchOrder {
    Whole(Box<Order>),
    Reference(OrderReference),
}

/// No more of an order than where to find it, and where it stands.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct OrderReference {
    #[schema(format = "uuid")]
    id: String,
    status: String,
}

/// What became of one submission.
#[derive(ToSchema)]
struct BatchItem {
    index: u32,
    /// The HTTP status that it would have had alone.
    status: u16,
    /// The order, if it was accepted.
    #[schema(required = false)]
    order: Option<BatchOrder>,
    /// Why not, if it was refused.
    #[schema(required = false)]
    problem: Option<Problem>,
}

#[derive(ToSchema)]
struct OrderTypeList {
    items: Vec<OrderTypeSummary>,
}

#[derive(ToSchema)]
struct OrderTypeSummary {
    name: String,
    /// The version: a hash of its source.
    hash: String,
    /// The language of its messages.
    language: String,
    statuses: Vec<StatusView>,
}

#[derive(ToSchema)]
struct OrderType {
    name: String,
    hash: String,
    language: String,
    statuses: Vec<StatusView>,
    /// The JSON Schema (2020-12) of its orders' data.
    #[schema(value_type = Object, additional_properties)]
    schema: Value,
    /// Mermaid, `stateDiagram-v2`.
    map: String,
    /// An example of the data.
    #[schema(value_type = Object, additional_properties)]
    sample: Value,
    steps: Vec<StepView>,
}

#[derive(ToSchema)]
struct StatusView {
    name: String,
    #[schema(rename = "final")]
    is_final: bool,
    /// The steps that run in it.
    steps: Vec<String>,
    /// Where the outside may move an order from it.
    to: Vec<String>,
}

#[derive(ToSchema)]
struct StepView {
    name: String,
    kind: String,
    /// The most attempts.
    attempts: u32,
    /// Whether it can be taken back.
    undo: bool,
}

/// What a dead letter has beside its order.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct DeadLetterPart {
    dead_letter: DeadLetterCause,
    /// The trace of its submission.
    traceparent: Option<String>,
    /// Each try of each step; only where one dead letter was asked for.
    #[schema(required = false)]
    attempts: Option<Vec<AttemptView>>,
}

/// Why an order is a dead letter.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct DeadLetterCause {
    #[schema(format = DateTime)]
    at: String,
    step: String,
    /// What it has in common with others.
    cause: String,
    reason: String,
    /// Whether what was exhausted is an undo.
    undo_failed: bool,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct DeadLetterPage {
    #[schema(value_type = Vec<Object>)]
    items: Vec<Value>,
    next_cursor: Option<String>,
}

#[derive(ToSchema)]
struct SubscriptionList {
    items: Vec<SubscriptionView>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct DeliveryPage {
    /// Newest first.
    items: Vec<DeliveryView>,
    /// Where the next page begins; null when there is nothing more.
    next_cursor: Option<String>,
}

#[derive(ToSchema)]
struct CauseList {
    /// Most frequent first.
    items: Vec<Cause>,
}

#[derive(ToSchema)]
struct Cause {
    cause: String,
    #[schema(rename = "type")]
    order_type: String,
    count: u64,
    /// One of them.
    example: Option<String>,
}

#[derive(ToSchema)]
struct QueueList {
    items: Vec<QueueView>,
}

#[derive(ToSchema)]
struct ClaimList {
    /// Empty if there was nothing within the time.
    items: Vec<ClaimedItem>,
}

#[derive(ToSchema)]
struct ClaimAnswer {
    /// In the order of what was sent.
    items: Vec<ClaimOutcome>,
}

/// A problem (RFC 9457).
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct Problem {
    /// Its page of advice.
    #[schema(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    code: String,
    detail: String,
    /// Where the order may go instead.
    #[schema(required = false)]
    allowed: Option<Vec<String>>,
    /// One entry per fault.
    #[schema(required = false)]
    errors: Option<Vec<Fault>>,
    request_id: String,
}

/// One fault.
#[derive(ToSchema)]
struct Fault {
    /// JSON pointer (RFC 6901) into the data.
    pointer: String,
    code: String,
    detail: String,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Comanda",
        description = "Takes orders over HTTP, never loses one, and sees each through the workflow that its type \
                       declares."
    ),
    components(schemas(
        Order,
        OrderPage,
        Work,
        WorkState,
        SubmitBody,
        TransitionBody,
        CancelBody,
        ApproveBody,
        RejectBody,
        Callback,
        CallbackTaken,
        BatchAnswer,
        BatchItem,
        BatchOrder,
        OrderReference,
        CloudEvent,
        FeedItem,
        NoticeData,
        NoticeEvent,
        EventData,
        EventPage,
        AttemptView,
        AttemptPage,
        OrderTypeList,
        OrderTypeSummary,
        OrderType,
        StatusView,
        StepView,
        DeadLetterPart,
        DeadLetterCause,
        DeadLetterPage,
        CauseList,
        Cause,
        FilterBody,
        RedriveBody,
        ReceiveBody,
        CountBody,
        StockView,
        CustomerBody,
        CustomerView,
        RedriveStart,
        Version,
        DiscardBody,
        SweepView,
        SweepItemView,
        AuditPage,
        AuditView,
        EraseBody,
        ErasableView,
        NotFinalView,
        JobView,
        JobFailureView,
        JobList,
        QueueView,
        QueueList,
        ClaimBody,
        ClaimList,
        ClaimedItem,
        CompleteBody,
        CompleteItem,
        FailBody,
        FailItem,
        FailKind,
        HeartbeatBody,
        HeartbeatItem,
        ClaimOutcome,
        ClaimAnswer,
        LinkBody,
        LinkView,
        TrackedOrder,
        Moment,
        SubscriptionBody,
        SubscriptionView,
        SubscriptionList,
        FilterView,
        OrderingView,
        Include,
        Begin,
        Signature,
        RotateBody,
        ResendBody,
        ResendAnswer,
        DeliveryView,
        DeliveryPage,
        DeadItemsBody,
        DeadItemView,
        DeadItemPage,
        DeadItemsMoved,
        IntakeMessage,
        MessageTaken,
        SourceView,
        SourceList,
        RejectedView,
        RejectedList,
        WhichBody,
        RetriedView,
        StillRejected,
        DiscardedView,
        Problem,
        Fault,
    ))
)]
pub(super) struct Shapes;
