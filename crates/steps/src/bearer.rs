//! Bearer tokens by the OAuth 2.0 client credentials grant (RFC 6749, section 4.4).
//!
//! A token is kept until shortly before it expires. Of many calls that need one at the same time, one fetches it and
//! the others wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comanda_model::expression::EvaluationError;
use comanda_model::order_type::ClientCredentials;
use minijinja::value::Value as Context;
use parking_lot::Mutex;
use reqwest::Client;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use tokio::time::Instant;

use crate::caller::chain;

/// How long a token is believed whose answer does not say.
const LIFE: Duration = Duration::from_secs(300);
/// How long before its end a token is replaced, at most; of a short life the last fifth.
const MARGIN: Duration = Duration::from_secs(60);
/// The largest answer of a token endpoint.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error(transparent)]
    Template(#[from] EvaluationError),
    #[error("the token endpoint did not answer: {0}")]
    Unreachable(String),
    #[error("the token endpoint answered {0}")]
    Status(reqwest::StatusCode),
    #[error("the token endpoint's answer has no `access_token`")]
    Malformed,
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct Grant {
    token_url: String,
    client_id: String,
    scope: Option<String>,
}

#[derive(Clone)]
struct Bearer {
    token: String,
    renew_at: Instant,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: Option<u64>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Bearer>>>;

/// The tokens that are kept.
#[derive(Default)]
pub(crate) struct Bearers {
    slots: Mutex<HashMap<Grant, Slot>>,
    /// Those in use, to take them out of texts.
    known: Mutex<HashMap<Grant, String>>,
}

impl Bearers {
    /// A token, from before or new.
    pub(crate) async fn token(
        &self,
        client: &Client,
        auth: &ClientCredentials,
        settings: &Context,
    ) -> Result<String, TokenError> {
        let grant = grant(auth, settings)?;
        let slot = self.slot(&grant);
        // Whoever fetches holds the slot: the others find the token there.
        let mut slot = slot.lock().await;
        if let Some(bearer) = slot.as_ref().filter(|bearer| bearer.renew_at > Instant::now()) {
            return Ok(bearer.token.clone());
        }
        let secret = auth.client_secret.render(settings)?;
        let bearer = fetch(client, &grant, &secret).await?;
        self.known.lock().insert(grant, bearer.token.clone());
        *slot = Some(bearer.clone());
        Ok(bearer.token)
    }

    /// The token was not taken: the next call fetches another.
    pub(crate) async fn forget(&self, auth: &ClientCredentials, settings: &Context) {
        if let Ok(grant) = grant(auth, settings) {
            *self.slot(&grant).lock().await = None;
        }
    }

    /// Every token in use.
    pub(crate) fn known(&self) -> Vec<String> {
        self.known.lock().values().cloned().collect()
    }

    fn slot(&self, grant: &Grant) -> Slot {
        self.slots.lock().entry(grant.clone()).or_default().clone()
    }
}

fn grant(auth: &ClientCredentials, settings: &Context) -> Result<Grant, EvaluationError> {
    Ok(Grant {
        token_url: auth.token_url.render(settings)?,
        client_id: auth.client_id.render(settings)?,
        scope: auth.scope.as_ref().map(|scope| scope.render(settings)).transpose()?,
    })
}

fn form(grant: &Grant) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    if let Some(scope) = &grant.scope {
        form.append_pair("scope", scope);
    }
    form.finish()
}

async fn fetch(client: &Client, grant: &Grant, secret: &str) -> Result<Bearer, TokenError> {
    // RFC 6749, section 2.3.1: id and secret are form-encoded before they are joined.
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let credentials = STANDARD.encode(format!("{}:{}", encoded(&grant.client_id), encoded(secret)));
    let unreachable = |error: reqwest::Error| TokenError::Unreachable(chain(&error.without_url()));
    let mut response = client
        .post(&grant.token_url)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(AUTHORIZATION, format!("Basic {credentials}"))
        .body(form(grant))
        .send()
        .await
        .map_err(unreachable)?;
    if !response.status().is_success() {
        // The body is not quoted: it may repeat what it was sent.
        return Err(TokenError::Status(response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
    }
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| TokenError::Malformed)?;
    let life = answer
        .expires_in
        .map_or(LIFE, Duration::from_secs)
        .min(Duration::from_secs(24 * 60 * 60));
    Ok(Bearer {
        token: answer.access_token,
        renew_at: Instant::now() + life - MARGIN.min(life / 5),
    })
}
