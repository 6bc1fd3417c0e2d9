//! Customers, kept small, since most shops have theirs: register, look up, block, and the step that checks.

use std::sync::Arc;

use async_trait::async_trait;
use comanda_engine::{Admission, Postponed, StepCall};
use comanda_model::Json;
use comanda_model::bounds::KEY_BYTES_MAX;
use comanda_model::decision::StepOutcome;
use comanda_model::json::scalar_text;
use comanda_model::order_type::HttpCall;
use comanda_steps::Caller;
use comanda_store::{PutError, Record, Store, StoreError};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Unanswered, refused};

/// The kind of the records of customers.
const CUSTOMER: &str = comanda_engine::CUSTOMER_RECORDS;
/// How often a change that others make at the same moment is decided again.
const TRIES_MAX: u32 = 16;
/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 500;

/// A customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Customer {
    /// Who it is, as orders name it.
    pub id: String,
    /// The name.
    pub name: String,
    /// Whether orders are refused.
    pub blocked: bool,
    /// Whether orders are paid for in advance.
    pub prepaid: bool,
}

/// Why nothing was done about a customer.
#[derive(Debug, thiserror::Error)]
pub enum CustomerError {
    /// There is no such customer.
    #[error("there is no customer `{0}`")]
    Unknown(String),
    /// A value cannot be taken.
    #[error("{0}")]
    Invalid(String),
    /// Others change the same customer all the time.
    #[error("the customer is being changed by others")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The customers that a store keeps.
#[derive(Clone)]
pub struct Customers {
    store: Arc<dyn Store>,
}

impl Customers {
    /// The customers of a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// A customer.
    pub async fn find(&self, id: &str) -> Result<Customer, CustomerError> {
        match self.store.record(CUSTOMER, id).await? {
            Some(record) => Ok(customer(&record)?),
            None => Err(CustomerError::Unknown(id.to_owned())),
        }
    }

    /// Customers whose ids stand after `after`, by id, at most `max`.
    pub async fn list(&self, after: Option<&str>, max: usize) -> Result<Vec<Customer>, CustomerError> {
        let records = self.store.records_after(CUSTOMER, after, max).await?;
        Ok(records.iter().map(customer).collect::<Result<_, _>>()?)
    }

    /// Registers a customer, or replaces what is known of one. One that is blocked stays so.
    pub async fn register(&self, new: Customer) -> Result<Customer, CustomerError> {
        check_id(&new.id)?;
        if new.name.len() > NAME_BYTES_MAX {
            return Err(CustomerError::Invalid(format!(
                "a name has at most {NAME_BYTES_MAX} bytes"
            )));
        }
        let id = new.id.clone();
        self.change(&id, |found| {
            Ok(Customer {
                blocked: new.blocked || found.is_some_and(|found| found.blocked),
                ..new.clone()
            })
        })
        .await
    }

    /// Refuses a customer's orders from now on, or takes them again.
    pub async fn set_blocked(&self, id: &str, blocked: bool) -> Result<Customer, CustomerError> {
        self.change(id, |found| match found {
            Some(found) => Ok(Customer {
                blocked,
                ..found.clone()
            }),
            None => Err(CustomerError::Unknown(id.to_owned())),
        })
        .await
    }

    async fn change(
        &self,
        id: &str,
        change: impl Fn(Option<&Customer>) -> Result<Customer, CustomerError>,
    ) -> Result<Customer, CustomerError> {
        for _ in 0..TRIES_MAX {
            let found = self.store.record(CUSTOMER, id).await?;
            let before = found.as_ref().map(customer).transpose()?;
            let after = change(before.as_ref())?;
            if before.as_ref() == Some(&after) {
                return Ok(after);
            }
            let record = Record {
                kind: CUSTOMER.to_owned(),
                key: id.to_owned(),
                version: found.map_or(0, |found| found.version) + 1,
                value: Json::from(&json!(after)),
            };
            match self.store.put_record(&record).await {
                Ok(()) => return Ok(after),
                Err(PutError::VersionMoved { .. }) => {}
                Err(PutError::TooLarge { what, bytes_max }) => {
                    return Err(CustomerError::Invalid(format!(
                        "{what} is larger than {bytes_max} bytes"
                    )));
                }
                Err(PutError::Store(error)) => return Err(error.into()),
            }
        }
        Err(CustomerError::Busy)
    }
}

fn check_id(id: &str) -> Result<(), CustomerError> {
    if id.is_empty() || id.len() > KEY_BYTES_MAX || id.chars().any(char::is_control) {
        let reason = format!("a customer's id has 1 to {KEY_BYTES_MAX} bytes and no control characters");
        return Err(CustomerError::Invalid(reason));
    }
    Ok(())
}

fn customer(record: &Record) -> Result<Customer, StoreError> {
    serde_json::from_str(record.value.as_str()).map_err(|error| StoreError::Corrupt {
        what: format!("the customer `{}`", record.key),
        detail: error.to_string(),
    })
}

/// What is known of a customer.
pub enum Lookup {
    /// What there is to know, as JSON; `blocked` is true for one whose orders are refused.
    Known(Value),
    /// There is no such customer.
    Unknown,
}

/// Who knows the customers.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// Looks a customer up.
    async fn look_up(&self, call: &StepCall<'_>, id: &str) -> Result<Lookup, Unanswered>;

    /// Waits, a while at most, until there is room for one more question.
    async fn admit(&self) -> Result<Admission, Postponed> {
        Ok(Admission::default())
    }
}

#[async_trait]
impl Directory for Customers {
    async fn look_up(&self, _: &StepCall<'_>, id: &str) -> Result<Lookup, Unanswered> {
        match self.find(id).await {
            Ok(customer) => Ok(Lookup::Known(json!(customer))),
            Err(CustomerError::Unknown(_)) => Ok(Lookup::Unknown),
            Err(error) => Err(Unanswered::not_done(error.to_string())),
        }
    }
}

/// Customers that a service over HTTP knows: 2xx with JSON is one, 404 and 410 are none.
pub struct HttpCustomers {
    caller: Arc<Caller>,
    http: HttpCall,
}

impl HttpCustomers {
    /// The service that a call asks; its templates see the customer as `with.customer`.
    pub fn new(caller: Arc<Caller>, http: HttpCall) -> Self {
        Self { caller, http }
    }
}

#[async_trait]
impl Directory for HttpCustomers {
    async fn look_up(&self, call: &StepCall<'_>, id: &str) -> Result<Lookup, Unanswered> {
        let with = json!({"customer": id});
        let answer = self.caller.send(call, &self.http, Some(&with)).await?;
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::GONE) {
            return Ok(Lookup::Unknown);
        }
        let customer = serde_json::from_slice(&answer.body).ok().filter(Value::is_object);
        match customer.filter(|_| answer.status.is_success() && !answer.is_too_large()) {
            Some(customer) => Ok(Lookup::Known(customer)),
            None => Err(Unanswered::by(answer)),
        }
    }

    async fn admit(&self) -> Result<Admission, Postponed> {
        self.caller.admit(&self.http).await
    }
}

/// `customers.check`: refuses a customer that is unknown or blocked; leaves what is known of it.
pub(crate) async fn check(directory: &dyn Directory, call: &StepCall<'_>, told: &Value) -> StepOutcome {
    let Some(id) = scalar_text(&told["customer"]) else {
        return refused("the order does not say whom it is for");
    };
    match directory.look_up(call, &id).await {
        Ok(Lookup::Known(customer)) if customer["blocked"] == Value::Bool(true) => {
            refused(format!("the customer `{id}` is blocked"))
        }
        Ok(Lookup::Known(customer)) => StepOutcome::Done {
            result: Some(Json::from(&customer)),
        },
        Ok(Lookup::Unknown) => refused(format!("there is no customer `{id}`")),
        Err(unanswered) => unanswered.failed(),
    }
}
