//! Callbacks: a target takes a call on (202) and tells its result later: late, twice, never, or under a token made up.

use std::sync::Arc;
use std::time::Duration;

use comanda_engine::{Callback, CallbackError};
use comanda_model::Token;
use comanda_model::decision::StepOutcome;
use uuid::Uuid;

use crate::clients::asked;
use crate::plan::Fault;
use crate::target::Name;
use crate::world::World;

/// How often a callback that nobody took is sent again.
const SENDS_MAX: u32 = 200;

/// What a target answers at once to a call that it may take on: what it came to, or that the result comes later.
pub fn taken_on(world: &Arc<World>, token: Token, outcome: StepOutcome, name: Name) -> StepOutcome {
    let mut rolls = world.rolls(("callback", name));
    let definite = matches!(
        outcome,
        StepOutcome::Done { .. } | StepOutcome::Failed { .. } | StepOutcome::Refused { .. }
    );
    if !definite || !rolls.permille(700) {
        return outcome;
    }
    let secret = token.secret;
    let later = |token: Token, millis: u64| {
        let (world, outcome) = (world.clone(), outcome.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            send(&world, token, outcome, (name, millis)).await;
        });
    };
    let millis = rolls.one(&[0, 5, 300, 4000]);
    if world.goes_wrong(Fault::CallbackMadeUp, name) {
        let made_up = Uuid::from_u128(!secret.as_u128());
        later(
            Token {
                secret: made_up,
                ..token
            },
            millis / 2,
        );
    }
    if world.goes_wrong(Fault::CallbackLate, name) {
        later(token, millis + 45_000);
    } else if !world.goes_wrong(Fault::CallbackLost, name) {
        later(token, millis);
        if world.goes_wrong(Fault::CallbackTwice, name) {
            later(token, millis + rolls.one(&[0, 1, 2000, 60_000]));
        }
    }
    StepOutcome::Waiting { secret }
}

/// Sends a callback until it is answered.
async fn send(world: &Arc<World>, token: Token, outcome: StepOutcome, name: (Name, u64)) {
    world.judge.lock().calls_back(&token);
    for round in 0..SENDS_MAX {
        let process = world.process(("callback", name, round)).await;
        let callback = Callback {
            token,
            outcome: outcome.clone(),
        };
        let verdict = match asked(&process, process.service.callback(callback)).await {
            Some(Ok(found)) => {
                world.trace(|| format!("callback to #{} counts", world.name(token.order)));
                world.judge.lock().callback_counted(&token, &found.stored.order)
            }
            Some(Err(CallbackError::Over { .. } | CallbackError::Unknown)) => {
                world.trace(|| format!("callback to #{} does not count", world.name(token.order)));
                world.judge.lock().callback_turned_away(&token)
            }
            Some(Err(CallbackError::Command(_))) | None => {
                tokio::time::sleep(Duration::from_millis(400)).await;
                continue;
            }
        };
        world.check(verdict);
        return;
    }
}
