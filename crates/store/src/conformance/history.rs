//! What is written down of an order: its events, its attempts, and the results that its steps left.

use std::sync::Arc;

use comanda_model::decision::{Command, RedriveFrom};
use comanda_model::{Json, Outcome, Phase};

use super::sample::{Shop, done, failed, json, plain};
use crate::Store;

/// Events and attempts come oldest first, in pages that begin after a number, and read back to the letter.
pub async fn events_and_attempts_come_in_pages(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let other = shop.accept("{}").await;
    let (mut events, mut attempts) = (store.history(id, 0, 10).await.unwrap(), Vec::new());
    for round in 0..5 {
        let edit = shop.editing(&shop.order(id).await, &format!(r#"{{"note":{round}}}"#));
        events.extend(edit.events.clone());
        shop.put(edit).await.expect("the edit is applied");
        let order = shop.order(id).await;
        if order.head.phase == Phase::Dead {
            shop.command(
                id,
                Command::Redrive {
                    from: RedriveFrom::FailedStep,
                    edit: None,
                },
            )
            .await;
            events.extend(store.history(id, events.len() as u64, 10).await.unwrap());
        }
        let work = shop.working(&shop.order(id).await, None, failed("no answer from „pay“"));
        events.extend(work.events.clone());
        attempts.extend(work.attempts.clone());
        shop.put(work).await.expect("the failure is recorded");
    }
    let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
    assert_eq!(
        numbers,
        (1..=events.len() as u64).collect::<Vec<_>>(),
        "events are numbered without gaps"
    );
    assert!(attempts.len() == 5 && attempts.iter().all(|attempt| attempt.outcome == Outcome::Failed));
    for size in [1, 2, 3, 100] {
        let (mut read_events, mut read_attempts) = (Vec::new(), Vec::new());
        loop {
            let page = store.history(id, read_events.len() as u64, size).await.unwrap();
            assert!(page.len() <= size, "no more than was asked for");
            if page.is_empty() {
                break;
            }
            read_events.extend(page);
            tokio::task::yield_now().await;
        }
        loop {
            let page = store.attempts(id, read_attempts.len() as u64, size).await.unwrap();
            assert!(page.len() <= size, "no more than was asked for");
            if page.is_empty() {
                break;
            }
            read_attempts.extend(page);
            tokio::task::yield_now().await;
        }
        assert_eq!(read_events, events, "the events read back in pages of {size}");
        assert_eq!(read_attempts, attempts, "the attempts read back in pages of {size}");
    }
    assert_eq!(
        store.history(other, 0, 10).await.unwrap().len(),
        1,
        "another order's history is its own"
    );
    let nobody = comanda_model::OrderId(uuid::Uuid::now_v7());
    assert!(
        store.history(nobody, 0, 10).await.unwrap().is_empty(),
        "an order that is not there has none"
    );
    assert!(store.attempts(nobody, 0, 10).await.unwrap().is_empty(), "nor attempts");
}

/// An order has the latest result of each step that left one, in the order in which the steps were done, to the letter;
/// a result whose step was taken back is gone.
pub async fn results_are_those_that_stand(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let results = async |id| {
        let results: Vec<(String, Json)> = shop
            .order(id)
            .await
            .results
            .into_iter()
            .map(|(step, result)| (step.to_string(), result))
            .collect();
        results
    };
    let expected = |expected: &[(&str, &str)]| -> Vec<(String, Json)> {
        expected
            .iter()
            .map(|(step, text)| ((*step).to_owned(), json(text)))
            .collect()
    };
    let work = async |id, outcome| {
        let order = shop.order(id).await;
        let commit = shop.working(&order, None, outcome);
        let decided = commit.order.results.clone();
        shop.put(commit).await.expect("nobody else works the order");
        assert_eq!(
            shop.order(id).await.results,
            decided,
            "the store folds results as the decision does"
        );
    };
    let id = shop.accept("{}").await;
    work(id, failed("down")).await;
    assert!(results(id).await.is_empty(), "a failure leaves no result");
    work(id, done(Some(r#"{"total":14.90,"z":1,"a":2}"#))).await;
    let held = r#"{"total":14.90,"z":1,"a":2}"#;
    assert_eq!(
        results(id).await,
        expected(&[("reserve", held)]),
        "the result reads back to the letter"
    );
    work(id, failed("down")).await;
    assert_eq!(shop.order(id).await.head.phase, Phase::Dead, "charging is exhausted");
    assert_eq!(
        results(id).await,
        expected(&[("reserve", held)]),
        "a dead letter keeps the results"
    );

    shop.command(
        id,
        Command::Redrive {
            from: RedriveFrom::Start,
            edit: None,
        },
    )
    .await;
    assert_eq!(
        shop.order(id).await.head.phase,
        Phase::Undoing,
        "the steps are taken back"
    );
    while shop.order(id).await.head.phase == Phase::Undoing {
        work(id, done(None)).await;
    }
    assert!(results(id).await.is_empty(), "what was taken back has left no result");
    work(id, done(Some("1"))).await;
    let claim = shop.claim_one().await;
    assert_eq!(claim.order.results.len(), 1, "a claim carries the results");
    shop.work(&claim, done(Some("2"))).await.expect("the charge is done");
    assert_eq!(
        results(id).await,
        expected(&[("reserve", "1"), ("charge", "2")]),
        "in the order of completion"
    );

    let plain_one = shop.accept("{}").await;
    work(plain_one, done(Some("7"))).await;
    work(plain_one, done(None)).await;
    assert_eq!(
        results(plain_one).await,
        expected(&[("reserve", "7")]),
        "a step that leaves none has none"
    );
}
