//! The operations: what each route is for, what it takes, and what it answers.

mod audit;
mod erasure;

/// One operation.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    /// The scope that a key needs; none: everyone may.
    pub(super) scope: Option<&'static str>,
    /// The schema of the body, and whether there must be one.
    pub(super) body: Body,
    pub(super) success: &'static str,
    pub(super) answer: Answer,
    /// Another success: its status, when that is, and the schema of its answer.
    pub(super) or_else: Option<(&'static str, &'static str, &'static str)>,
    /// The statuses of problems, besides those that any guarded route has.
    pub(super) refusals: &'static [&'static str],
    /// Query parameters: name, type, what for.
    pub(super) query: &'static [&'static [(&'static str, &'static str, &'static str)]],
    /// Headers: name, what for.
    pub(super) headers: &'static [(&'static str, &'static str)],
}

/// What an operation takes.
#[derive(Clone, Copy)]
pub(super) enum Body {
    None,
    Needed(&'static str),
    Optional(&'static str),
    MergePatch,
    Batch,
}

/// What an operation answers with.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    Json(&'static str),
    /// A page, or a live stream.
    Events,
    Text,
    /// NDJSON.
    Lines,
    Html,
    /// A JSON document of no schema of ours.
    Document,
    /// No body.
    Nothing,
}

const PAGE: &[(&str, &str, &str)] = &[
    ("limit", "integer", "How many, from 1 to 500; 50 unless said."),
    ("cursor", "string", "Where to begin: `nextCursor` of the page before."),
];

const FILTERS: &[(&str, &str, &str)] = &[
    ("type", "string", "Of this type."),
    ("status", "string", "In this status."),
    ("customer", "string", "For this customer."),
    ("group", "string", "With this group key."),
    ("acceptedAfter", "string", "Accepted at or after this time (RFC 3339)."),
    ("acceptedBefore", "string", "Accepted before this time (RFC 3339)."),
];

const CHANGE: &[&str] = &["400", "404", "409", "412", "413", "415", "422", "503"];

const CLAIM: &[&str] = &["400", "413", "415", "503"];

const IF_MATCH: (&str, &str) = ("If-Match", "The order's ETag, or `*` for whatever is there.");
const LAST_EVENT: (&str, &str) = ("Last-Event-ID", "Take a stream up after this event.");

const BASE: Operation = Operation {
    method: "get",
    path: "",
    summary: "",
    scope: Some("read"),
    body: Body::None,
    success: "200",
    answer: Answer::Document,
    or_else: None,
    refusals: &[],
    query: &[],
    headers: &[],
};

const OPEN: Operation = Operation { scope: None, ..BASE };

const SUBSCRIPTION: Operation = Operation {
    scope: Some("operate"),
    answer: Answer::Json("Subscription"),
    refusals: &["404", "501", "503"],
    ..BASE
};

/// All operations, in the order of the description.
pub(super) fn operations() -> impl Iterator<Item = &'static Operation> {
    OPERATIONS.iter().chain(erasure::OPERATIONS).chain(audit::OPERATIONS)
}

const OPERATIONS: &[Operation] = &[
    Operation {
        method: "post",
        path: "/v1/orders",
        summary: "Submit an order. 202 once it is durable; with `Prefer: wait=N`, 200 if it is final within N seconds.",
        scope: Some("submit"),
        body: Body::Needed("SubmitBody"),
        success: "202",
        answer: Answer::Json("Order"),
        refusals: &["400", "409", "413", "415", "422", "503"],
        headers: &[
            (
                "Idempotency-Key",
                "The same key with the same body answers the same; with another body it is refused.",
            ),
            (
                "Prefer",
                "`wait=N`: wait up to N seconds, at most 60, until nothing more happens by itself. `return=minimal`: answer \
                 without a body (RFC 7240).",
            ),
            ("traceparent", "W3C trace context, carried to every outbound call."),
        ],
        ..BASE
    },
    Operation {
        path: "/v1/orders",
        summary: "List orders, newest first. A page can be short, even empty, and still name a next one.",
        answer: Answer::Json("OrderPage"),
        refusals: &["400", "503"],
        query: &[FILTERS, PAGE],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/orders/batch",
        summary: "Submit up to 1,000 orders, as an array or as lines; each is accepted or refused alone.",
        scope: Some("submit"),
        body: Body::Batch,
        answer: Answer::Json("BatchAnswer"),
        refusals: &["400", "413", "415", "503"],
        headers: &[
            ("Idempotency-Key", "Taken together with each item's index."),
            (
                "Prefer",
                "`return=minimal`: of each order, answer only its `id` and `status` (RFC 7240).",
            ),
        ],
        ..BASE
    },
    Operation {
        path: "/v1/orders/{id}",
        summary: "Read an order. With `wait`, when it has changed.",
        answer: Answer::Json("Order"),
        refusals: &["304", "400", "404", "503"],
        query: &[&[
            (
                "wait",
                "integer",
                "Wait up to so many seconds, at most 60, until nothing more happens by itself…",
            ),
            (
                "version",
                "integer",
                "…or until the order is past this version, or final.",
            ),
        ]],
        headers: &[("If-None-Match", "An ETag: 304 if it is still the order's.")],
        ..BASE
    },
    Operation {
        method: "patch",
        path: "/v1/orders/{id}",
        summary: "Change an order's data by a merge patch (RFC 7396).",
        scope: Some("submit"),
        body: Body::MergePatch,
        answer: Answer::Json("Order"),
        refusals: &["400", "404", "409", "412", "413", "415", "422", "428", "503"],
        headers: &[IF_MATCH],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/orders/{id}/transition",
        summary: "Move an order to another status, perhaps with a merge patch of its data.",
        scope: Some("submit"),
        body: Body::Needed("TransitionBody"),
        answer: Answer::Json("Order"),
        refusals: CHANGE,
        headers: &[IF_MATCH],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/orders/{id}/cancel",
        summary: "Cancel an order: at once, or when the attempt in flight has ended.",
        scope: Some("submit"),
        body: Body::Optional("CancelBody"),
        success: "202",
        answer: Answer::Json("Order"),
        refusals: CHANGE,
        headers: &[IF_MATCH],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/orders/{id}/approve",
        summary: "Say yes to the step that waits for a person.",
        scope: Some("operate"),
        body: Body::Optional("ApproveBody"),
        answer: Answer::Json("Order"),
        refusals: CHANGE,
        headers: &[IF_MATCH],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/orders/{id}/reject",
        summary: "Say no to the step that waits for a person: the order goes where a refusal leads.",
        scope: Some("operate"),
        body: Body::Needed("RejectBody"),
        answer: Answer::Json("Order"),
        refusals: CHANGE,
        headers: &[IF_MATCH],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/callbacks/{token}",
        summary: "The result of a call that was answered with 202. The token is the right to answer; no key is needed.",
        scope: None,
        body: Body::Optional("Callback"),
        answer: Answer::Json("CallbackTaken"),
        refusals: &["400", "404", "410", "413", "415", "503"],
        ..BASE
    },
    Operation {
        path: "/v1/orders/{id}/events",
        summary: "An order's history; with `Accept: text/event-stream` live, until it is final.",
        answer: Answer::Events,
        refusals: &["400", "404", "429", "503"],
        query: &[PAGE],
        headers: &[LAST_EVENT],
        ..BASE
    },
    Operation {
        path: "/v1/orders/{id}/attempts",
        summary: "Each try of each step: when, how long, how it ended, why.",
        answer: Answer::Json("AttemptPage"),
        refusals: &["400", "404", "503"],
        query: &[PAGE],
        ..BASE
    },
    Operation {
        path: "/v1/events",
        summary: "All events, in the order in which they were committed; with `Accept: text/event-stream` live.",
        answer: Answer::Events,
        refusals: &["400", "410", "429", "503"],
        query: &[
            &[
                (
                    "type",
                    "string",
                    "Of orders of this type. This and the next three may be given several times: one is enough.",
                ),
                ("status", "string", "That lead into this status."),
                ("event", "string", "Of this kind: `comanda.order.accepted` and so on."),
                ("customer", "string", "Of orders for this customer."),
                (
                    "from",
                    "string",
                    "Without a cursor: from the `oldest` event that is kept, or after the `newest`.",
                ),
            ],
            PAGE,
        ],
        headers: &[LAST_EVENT],
        ..BASE
    },
    Operation {
        path: "/v1/order-types",
        summary: "The order types.",
        answer: Answer::Json("OrderTypeList"),
        ..BASE
    },
    Operation {
        path: "/v1/order-types/{name}",
        summary: "One order type: schema, statuses, steps, and a map.",
        answer: Answer::Json("OrderType"),
        refusals: &["404"],
        ..BASE
    },
    Operation {
        path: "/v1/dead-letters",
        summary: "The dead letters, newest order first.",
        answer: Answer::Json("DeadLetterPage"),
        refusals: &["400", "503"],
        query: &[
            &[(
                "cause",
                "string",
                "Of this cause, as `/v1/dead-letter-causes` names it.",
            )],
            FILTERS,
            PAGE,
        ],
        ..BASE
    },
    Operation {
        path: "/v1/dead-letters/{id}",
        summary: "One dead letter, with every attempt.",
        answer: Answer::Json("DeadLetter"),
        refusals: &["404", "409", "503"],
        ..BASE
    },
    Operation {
        path: "/v1/dead-letter-causes",
        summary: "What dead letters died of, and how many of each.",
        answer: Answer::Json("CauseList"),
        refusals: &["503"],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/dead-letters/redrive",
        summary: "Put dead letters back to work, oldest first, at most 1,000 per call.",
        scope: Some("operate"),
        body: Body::Needed("RedriveBody"),
        answer: Answer::Json("SweepView"),
        or_else: Some(("202", "With `ratePerSecond`: it goes on in the background.", "JobView")),
        refusals: &["400", "413", "415", "503"],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/dead-letters/discard",
        summary: "Give dead letters up: what their steps did is taken back, and they end. At most 1,000 per call.",
        scope: Some("operate"),
        body: Body::Needed("DiscardBody"),
        answer: Answer::Json("SweepView"),
        refusals: &["400", "413", "415", "503"],
        ..BASE
    },
    Operation {
        path: "/v1/queues",
        summary: "The queues: how much waits in each, how much is leased, and how long the oldest has waited.",
        answer: Answer::Json("QueueList"),
        refusals: &["503"],
        ..BASE
    },
    Operation {
        path: "/v1/queues/{name}",
        summary: "One queue.",
        answer: Answer::Json("QueueView"),
        refusals: &["404", "503"],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/queues/{name}/claims",
        summary: "Claim work from a queue, under a lease. With `waitSeconds`, when there is some.",
        scope: Some("work"),
        body: Body::Optional("ClaimBody"),
        answer: Answer::Json("ClaimList"),
        refusals: &["400", "404", "413", "415", "503"],
        ..BASE
    },
    Operation {
        path: "/v1/queues/{name}/dead-letters",
        summary: "The dead letters of a status's queue, oldest first.",
        answer: Answer::Json("DeadItemPage"),
        refusals: &["400", "404", "503"],
        query: &[PAGE],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/queues/{name}/dead-letters/redrive",
        summary: "Hand dead letters of a queue out again, at their old places, with all their attempts.",
        scope: Some("operate"),
        body: Body::Needed("DeadItemsBody"),
        answer: Answer::Json("DeadItemsMoved"),
        refusals: &["400", "404", "413", "415", "503"],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/queues/{name}/dead-letters/discard",
        summary: "Take dead letters out of a queue for good.",
        scope: Some("operate"),
        body: Body::Needed("DeadItemsBody"),
        answer: Answer::Json("DeadItemsMoved"),
        refusals: &["400", "404", "413", "415", "503"],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/claims/complete",
        summary: "Say that claimed work is done. Each item is answered alone.",
        scope: Some("work"),
        body: Body::Needed("CompleteBody"),
        answer: Answer::Json("ClaimAnswer"),
        refusals: CLAIM,
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/claims/fail",
        summary: "Say that claimed work could not be done: try again, or never. Each item is answered alone.",
        scope: Some("work"),
        body: Body::Needed("FailBody"),
        answer: Answer::Json("ClaimAnswer"),
        refusals: CLAIM,
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/claims/heartbeat",
        summary: "Extend the leases of claimed work. Each item is answered alone.",
        scope: Some("work"),
        body: Body::Needed("HeartbeatBody"),
        answer: Answer::Json("ClaimAnswer"),
        refusals: CLAIM,
        ..BASE
    },
    Operation {
        path: "/v1/subscriptions",
        summary: "The subscriptions.",
        answer: Answer::Json("SubscriptionList"),
        refusals: &["501"],
        ..SUBSCRIPTION
    },
    Operation {
        method: "post",
        path: "/v1/subscriptions",
        summary: "Have events sent to a URL. The answer carries the secret to verify signatures with, this once.",
        body: Body::Needed("SubscriptionBody"),
        success: "201",
        refusals: &["400", "413", "415", "422", "501", "503"],
        ..SUBSCRIPTION
    },
    Operation {
        path: "/v1/subscriptions/{id}",
        summary: "One subscription, and how far it has come.",
        ..SUBSCRIPTION
    },
    Operation {
        method: "delete",
        path: "/v1/subscriptions/{id}",
        summary: "Remove a subscription, with its log.",
        success: "204",
        answer: Answer::Nothing,
        refusals: &["404", "409", "501", "503"],
        ..SUBSCRIPTION
    },
    Operation {
        method: "post",
        path: "/v1/subscriptions/{id}/pause",
        summary: "Send nothing more until it is resumed. Nothing is lost that is kept.",
        ..SUBSCRIPTION
    },
    Operation {
        method: "post",
        path: "/v1/subscriptions/{id}/resume",
        summary: "Go on where it was paused; what failed is tried again at once.",
        ..SUBSCRIPTION
    },
    Operation {
        method: "post",
        path: "/v1/subscriptions/{id}/rotate-secret",
        summary: "Make a new secret. The old one signs beside it for a while.",
        body: Body::Optional("RotateBody"),
        refusals: &["400", "404", "409", "415", "501", "503"],
        ..SUBSCRIPTION
    },
    Operation {
        path: "/v1/subscriptions/{id}/deliveries",
        summary: "What was tried, newest first; the last 1,000 are kept.",
        answer: Answer::Json("DeliveryPage"),
        refusals: &["400", "404", "501", "503"],
        query: &[PAGE],
        ..SUBSCRIPTION
    },
    Operation {
        method: "post",
        path: "/v1/subscriptions/{id}/resend",
        summary: "Send again: one event, or what the subscription wants of a time. At most 500 orders' per call.",
        body: Body::Needed("ResendBody"),
        success: "202",
        answer: Answer::Json("ResendAnswer"),
        refusals: &["400", "404", "413", "415", "501", "503"],
        ..SUBSCRIPTION
    },
    Operation {
        method: "post",
        path: "/v1/orders/{id}/links",
        summary: "Make a link that shows one order to its customer, without a key, until it expires.",
        body: Body::Optional("LinkBody"),
        success: "201",
        answer: Answer::Json("LinkView"),
        refusals: &["400", "404", "413", "415", "501", "503"],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/links/rotate-key",
        summary: "Make a new key: all links from before are void.",
        scope: Some("operate"),
        success: "204",
        answer: Answer::Nothing,
        refusals: &["501", "503"],
        ..BASE
    },
    Operation {
        path: "/v1/links/{token}",
        summary: "An order as its customer sees it: a page, JSON, or server-sent events, by `Accept`. The token is the right to look; no key is needed.",
        scope: None,
        answer: Answer::Json("TrackedOrder"),
        refusals: &["404", "410", "429", "501", "503"],
        ..BASE
    },
    Operation {
        path: "/v1/orders/{id}/holds",
        summary: "What an order holds of the stock, and until when.",
        refusals: &["400", "404", "503"],
        ..BASE
    },
    Operation {
        path: "/v1/inventory",
        summary: "The stock, by SKU.",
        refusals: &["400", "503"],
        query: &[PAGE],
        ..BASE
    },
    Operation {
        path: "/v1/inventory/{sku}",
        summary: "A SKU's stock: on hand, held by orders, shipped, received.",
        answer: Answer::Json("Stock"),
        refusals: &["400", "404", "503"],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/inventory/{sku}/receive",
        summary: "Stock comes in; with a price, that is what one costs from now on.",
        scope: Some("operate"),
        body: Body::Needed("ReceiveBody"),
        answer: Answer::Json("Stock"),
        refusals: &["400", "413", "415", "422", "503"],
        headers: &[("Idempotency-Key", "The same key receives once.")],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/inventory/{sku}/count",
        summary: "So many were found by counting, those that orders hold included.",
        scope: Some("operate"),
        body: Body::Needed("CountBody"),
        answer: Answer::Json("Stock"),
        refusals: &["400", "404", "409", "413", "415", "422", "503"],
        headers: &[("Idempotency-Key", "The same key counts once.")],
        ..BASE
    },
    Operation {
        path: "/v1/customers",
        summary: "The customers that Comanda keeps, by id.",
        refusals: &["400", "503"],
        query: &[PAGE],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/customers",
        summary: "Register a customer, or replace what is known of one. One that is blocked stays so.",
        scope: Some("operate"),
        body: Body::Needed("CustomerBody"),
        answer: Answer::Json("Customer"),
        refusals: &["400", "413", "415", "503"],
        ..BASE
    },
    Operation {
        path: "/v1/customers/{id}",
        summary: "A customer.",
        answer: Answer::Json("Customer"),
        refusals: &["404", "503"],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/customers/{id}/block",
        summary: "Refuse a customer's orders from now on.",
        scope: Some("operate"),
        answer: Answer::Json("Customer"),
        refusals: &["404", "503"],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/customers/{id}/unblock",
        summary: "Take a customer's orders again.",
        scope: Some("operate"),
        answer: Answer::Json("Customer"),
        refusals: &["404", "503"],
        ..BASE
    },
    Operation {
        path: "/v1/intake",
        summary: "Where orders come from besides this API, by name.",
        answer: Answer::Json("SourceList"),
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/intake/{name}",
        summary: "A message, signed by the Standard Webhooks specification: JSON or a CloudEvent. The signature is the right to post; no key is needed.",
        scope: None,
        body: Body::Needed("IntakeMessage"),
        success: "202",
        answer: Answer::Json("MessageTaken"),
        refusals: &["401", "404", "413", "503"],
        headers: &[
            ("webhook-id", "The message's id: the same id makes no second order."),
            ("webhook-timestamp", "When it was sent, in seconds since 1970."),
            (
                "webhook-signature",
                "`v1,…` or `v1a,…`, several with a blank between them.",
            ),
        ],
        ..BASE
    },
    Operation {
        path: "/v1/intake/{name}/rejected",
        summary: "The messages of a source that no order could be made of, longest tried first.",
        answer: Answer::Json("RejectedList"),
        refusals: &["404"],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/intake/{name}/retry",
        summary: "Make orders of rejected messages, with the settings and types as they are now.",
        scope: Some("operate"),
        body: Body::Needed("WhichBody"),
        answer: Answer::Json("RetriedView"),
        refusals: &["400", "404", "413", "415", "503"],
        ..BASE
    },
    Operation {
        method: "post",
        path: "/v1/intake/{name}/discard",
        summary: "Keep rejected messages no longer.",
        scope: Some("operate"),
        body: Body::Needed("WhichBody"),
        answer: Answer::Json("DiscardedView"),
        refusals: &["400", "404", "413", "415", "503"],
        ..BASE
    },
    Operation {
        path: "/v1/sandbox/payments",
        summary: "The book of the payment sandbox, by order.",
        refusals: &["400", "503"],
        query: &[&[("order", "string", "Only those of this order.")], PAGE],
        ..BASE
    },
    Operation {
        path: "/v1/sandbox/shipments",
        summary: "The book of the carrier sandbox, by order.",
        refusals: &["400", "503"],
        query: &[&[("order", "string", "Only those of this order.")], PAGE],
        ..BASE
    },
    Operation {
        path: "/metrics",
        summary: "Metrics in the text form of Prometheus.",
        answer: Answer::Text,
        refusals: &["404"],
        ..BASE
    },
    Operation {
        path: "/",
        summary: "A page for people: how many orders stand where.",
        answer: Answer::Html,
        refusals: &["503"],
        ..BASE
    },
    Operation {
        path: "/healthz",
        summary: "Whether the process lives.",
        answer: Answer::Text,
        ..OPEN
    },
    Operation {
        path: "/readyz",
        summary: "Whether it can take orders.",
        answer: Answer::Text,
        refusals: &["503"],
        ..OPEN
    },
    Operation {
        path: "/docs",
        summary: "This description, for people.",
        answer: Answer::Html,
        ..OPEN
    },
    Operation {
        path: "/docs/problems/{code}",
        summary: "What to do about a problem.",
        answer: Answer::Html,
        refusals: &["404"],
        ..OPEN
    },
    Operation {
        path: "/openapi.json",
        summary: "This description, with the mounts of the types that the server has at the moment.",
        ..OPEN
    },
];
