//! The codes of problems, each with a page that says what happened and what to do.

/// One code: its title, and what to do.
pub struct Advice {
    /// The code on the wire.
    pub code: &'static str,
    /// The HTTP status that it usually comes with.
    pub status: u16,
    /// In a few words.
    pub title: &'static str,
    /// What happened, and what to do.
    pub advice: &'static str,
}

/// Every code that an answer can carry. `/docs/problems/CODE` shows its advice.
pub const CODES: &[Advice] = &[
    Advice {
        code: "malformed-json",
        status: 400,
        title: "Malformed JSON",
        advice: "The body is not JSON. The detail names the line and the column. Nothing was stored.",
    },
    Advice {
        code: "invalid-request",
        status: 400,
        title: "Invalid request",
        advice: "A parameter or a header is not what the route takes; the detail names it. Nothing was changed.",
    },
    Advice {
        code: "unauthorized",
        status: 401,
        title: "No valid key",
        advice: "This server asks for an API key. Send it as `Authorization: Bearer KEY`. Make one with `comanda keys create`.",
    },
    Advice {
        code: "forbidden",
        status: 403,
        title: "The key does not allow this",
        advice: "The key lacks the scope that the detail names. Make one that has it with `comanda keys create --scope`.",
    },
    Advice {
        code: "host-not-allowed",
        status: 421,
        title: "Host not allowed",
        advice: "Without keys the server answers only requests to a loopback name, so that no web page can reach it by a trick with DNS. Use http://127.0.0.1 or http://localhost, or set up keys.",
    },
    Advice {
        code: "origin-not-allowed",
        status: 403,
        title: "Origin not allowed",
        advice: "A page in a browser tried to change something here. Without keys only pages of this machine may, and those that a type's `wire.cors` names at its mount. Set up keys, or name the page's origin.",
    },
    Advice {
        code: "not-found",
        status: 404,
        title: "Not found",
        advice: "There is nothing at this path. `/docs` lists the routes.",
    },
    Advice {
        code: "unknown-order",
        status: 404,
        title: "Unknown order",
        advice: "No order has this id. It may belong to another server, or retention has removed it.",
    },
    Advice {
        code: "unknown-job",
        status: 404,
        title: "Unknown job",
        advice: "No job has this id. Jobs that have ended are kept for a while: the newest 200. `GET /v1/jobs` lists them.",
    },
    Advice {
        code: "order-not-final",
        status: 409,
        title: "The order is not final",
        advice: "Only what is final can be erased: an order at work still needs its data. Wait, or cancel it first. For a customer, `cancelFirst` cancels all of them. Nothing was changed.",
    },
    Advice {
        code: "unknown-sku",
        status: 404,
        title: "Unknown SKU",
        advice: "Nothing of this SKU was ever received. Receive stock of it first: `POST /v1/inventory/{sku}/receive`.",
    },
    Advice {
        code: "stock-held",
        status: 409,
        title: "Orders hold more than that",
        advice: "So few cannot be there, because orders hold more. Cancel some of them, or count again.",
    },
    Advice {
        code: "unknown-customer",
        status: 404,
        title: "Unknown customer",
        advice: "Comanda keeps no customer of this id. Register it with `POST /v1/customers`.",
    },
    Advice {
        code: "unknown-type",
        status: 404,
        title: "Unknown order type",
        advice: "The server has no order type of this name. `GET /v1/order-types` lists those that it has.",
    },
    Advice {
        code: "unknown-queue",
        status: 404,
        title: "Unknown queue",
        advice: "No order type of this server has a queue of this name. `GET /v1/queues` lists those that there are.",
    },
    Advice {
        code: "method-not-allowed",
        status: 405,
        title: "Method not allowed",
        advice: "The path exists, but not for this method. The `Allow` header lists those that it takes. Orders are never deleted: cancel them.",
    },
    Advice {
        code: "illegal-transition",
        status: 409,
        title: "Illegal transition",
        advice: "The order's status does not lead to the one that was asked for. `allowed` lists those that it leads to now.",
    },
    Advice {
        code: "order-final",
        status: 409,
        title: "The order is final",
        advice: "Nothing changes a final order any more.",
    },
    Advice {
        code: "undoing",
        status: 409,
        title: "The order is taking back what it did",
        advice: "Wait until it is final, or a dead letter.",
    },
    Advice {
        code: "not-cancellable",
        status: 409,
        title: "Not cancellable",
        advice: "The order's type does not let anyone cancel from this status. `allowed` lists where it may go.",
    },
    Advice {
        code: "no-approval",
        status: 409,
        title: "Nobody is asked",
        advice: "The order does not wait for an approval: it may have been answered already. `work` says what it waits for.",
    },
    Advice {
        code: "unknown-callback",
        status: 404,
        title: "Unknown callback",
        advice: "No attempt has this token. Send the callback to the URL that the call named in `Comanda-Callback`, as it is.",
    },
    Advice {
        code: "callback-over",
        status: 410,
        title: "The attempt is over",
        advice: "The callback came too late, or again: the attempt was answered, ran out of time, or its order was moved or cancelled. Nothing was changed, and sending it again changes nothing. What was done may be taken back by a call with `Comanda-Undoes`.",
    },
    Advice {
        code: "unknown-subscription",
        status: 404,
        title: "Unknown subscription",
        advice: "There is no subscription with this id. `GET /v1/subscriptions` lists those that there are.",
    },
    Advice {
        code: "unknown-link",
        status: 404,
        title: "Unknown link",
        advice: "The link was not made by this server, was changed, or was made void by a new key. Ask for a new one: `POST /v1/orders/{id}/links`.",
    },
    Advice {
        code: "link-expired",
        status: 410,
        title: "The link has expired",
        advice: "A link is good for as long as was asked for when it was made. Ask for a new one: `POST /v1/orders/{id}/links`.",
    },
    Advice {
        code: "subscription-configured",
        status: 409,
        title: "The configuration has made this subscription",
        advice: "It stands under `[[subscriptions]]` in the server's configuration. Change it there and start the server \
            again. Pausing, resuming and sending again work here too.",
    },
    Advice {
        code: "address-refused",
        status: 422,
        title: "Nothing is sent to this address",
        advice: "The URL must be `https` or `http`, without a user or a password, and lead to a public address: not to a \
            private, loopback or link-local one. The operator can allow others with `deliveries.allow_private`, or name \
            the subscription in the configuration.",
    },
    Advice {
        code: "not-supported",
        status: 501,
        title: "This server cannot do that",
        advice: "The store that it runs on has no such feature: the detail says which. The embedded store has all of them.",
    },
    Advice {
        code: "not-a-dead-letter",
        status: 409,
        title: "Not a dead letter",
        advice: "Only dead letters are redriven or discarded.",
    },
    Advice {
        code: "only-from-start",
        status: 409,
        title: "Only from the start",
        advice: "What the order's steps did was taken back. Redrive it with `\"from\": \"start\"`.",
    },
    Advice {
        code: "not-in-this-version",
        status: 409,
        title: "Not in this version",
        advice: "The order's status or step is not in the version of the type that it was to go on with. Redrive it on the version that it was accepted under.",
    },
    Advice {
        code: "fixed",
        status: 409,
        title: "Fixed at acceptance",
        advice: "The key, the customer and the group key never change. Cancel the order and submit another.",
    },
    Advice {
        code: "key-taken",
        status: 409,
        title: "The id is taken",
        advice: "The client's own id belongs to an order with other content. Use another id, or read that order.",
    },
    Advice {
        code: "precondition-failed",
        status: 412,
        title: "The order has changed",
        advice: "Read the order, look at what changed, and send the change again with its new `ETag` in `If-Match`.",
    },
    Advice {
        code: "too-large",
        status: 413,
        title: "Too large",
        advice: "The detail names the bound. An order's data is at most 128 KiB.",
    },
    Advice {
        code: "unsupported-media-type",
        status: 415,
        title: "Unsupported media type",
        advice: "Send `Content-Type: application/json` (for a batch also `application/x-ndjson`, for a PATCH also `application/merge-patch+json`).",
    },
    Advice {
        code: "invalid-data",
        status: 422,
        title: "Invalid data",
        advice: "`errors` has one entry per fault, each with a JSON pointer into the data. Nothing was stored.",
    },
    Advice {
        code: "unknown-status",
        status: 422,
        title: "Unknown status",
        advice: "The order's type has no status of this name. `allowed` lists those that it has.",
    },
    Advice {
        code: "requires",
        status: 422,
        title: "Fields are missing",
        advice: "The status needs fields that the data lacks; `errors` names each. Send them along with the transition.",
    },
    Advice {
        code: "idempotency-key-reused",
        status: 422,
        title: "Idempotency key reused",
        advice: "The key was sent before with another body. Use a new key for a new submission.",
    },
    Advice {
        code: "precondition-required",
        status: 428,
        title: "If-Match is needed",
        advice: "Read the order and send its `ETag` in `If-Match`, so that nobody's change is lost. `If-Match: *` takes whatever is there.",
    },
    Advice {
        code: "rate-limited",
        status: 429,
        title: "Too many requests",
        advice: "The API key may make so many requests and no more; `Retry-After` says when the next may come. `comanda keys limit` gives the key another rate.",
    },
    Advice {
        code: "too-many-streams",
        status: 429,
        title: "Too many streams",
        advice: "The server holds as many live streams as it is set to. Close some, or raise `limits.streams_max`.",
    },
    Advice {
        code: "cursor-reset",
        status: 410,
        title: "The cursor is no longer valid",
        advice: "The store was restored or migrated, or its retention has passed the cursor. Begin again without one.",
    },
    Advice {
        code: "unknown-source",
        status: 404,
        title: "Unknown source",
        advice: "No source of this name stands in the configuration, or it is none that can be posted to. `GET /v1/intake` lists them.",
    },
    Advice {
        code: "webhook-unverified",
        status: 401,
        title: "The webhook is not believed",
        advice: "The signature or its time is not right; the detail says which. Sign with the source's secret by the Standard Webhooks specification, and keep the clocks right. Nothing was kept.",
    },
    Advice {
        code: "intake-full",
        status: 503,
        title: "Rejected messages wait",
        advice: "The source keeps as many rejected messages as it may. Look at them with `comanda intake rejected NAME`, then retry or discard them; meanwhile senders come again.",
    },
    Advice {
        code: "busy",
        status: 503,
        title: "Busy",
        advice: "The server takes no more for now. Send the same request again after the seconds that `Retry-After` names; with an `Idempotency-Key` that is safe.",
    },
    Advice {
        code: "storage-unavailable",
        status: 503,
        title: "The store does not take changes",
        advice: "The disk is full, read-only or failing; the detail says which. Nothing that was acknowledged is lost. `/readyz` says when it is mended.",
    },
    Advice {
        code: "request-timeout",
        status: 503,
        title: "The request took too long",
        advice: "The request was given up. Send it again; with an `Idempotency-Key` that is safe.",
    },
    Advice {
        code: "data-damaged",
        status: 500,
        title: "What is stored is damaged",
        advice: "What the disk holds is not what was written, so it is not shown. Other orders are not touched. \
                 Stop the server, let `comanda verify` list what is damaged, and restore a backup or replace the disk.",
    },
    Advice {
        code: "internal",
        status: 500,
        title: "An error of the server",
        advice: "The server could not do what it should. Its log has the cause under the request id.",
    },
];
