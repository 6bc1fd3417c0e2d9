//! What goes wrong below the store: crashes, full disks, flipped bits, rows that are missing or too many.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use comanda_model::{Outcome, Phase};
use comanda_store::{ClaimMove, CommitError, FeedStart, Store, StoreError};
use comanda_store_sqlite::{Options, SqliteStore, restore, verify};
use support::*;

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let killed = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let now = store.now();
    let one = accepted(now, now, Some("g"));
    let (two, token) = taking(accepted(now, now, None));
    commit(&store, one.clone()).await.unwrap();
    assert!(commit(&store, two.clone()).await.unwrap().claimed);
    commit(&store, attempted(&one.order, now, Outcome::Done)).await.unwrap();
    // Nothing was closed: all of it still stands in the log.
    copy_as_killed(directory.path(), killed.path());
    let reopened = open(killed.path());
    let stored = reopened.order(one.order.id()).await.unwrap().unwrap();
    assert_eq!((stored.order.head.version, stored.order.results.len()), (2, 1));
    assert!(reopened.now() >= now);
    assert_eq!(*reopened.position().borrow(), 2);
    // The dead process's claim is void: its token no longer counts, and the work is due.
    let late = with_token(attempted(&two.order, now, Outcome::Done), token);
    assert!(matches!(commit(&reopened, late).await, Err(CommitError::TokenStale)));
    assert_eq!(
        reopened
            .claim(10, std::time::Duration::from_secs(9))
            .await
            .unwrap()
            .claims
            .len(),
        2
    );
    drop(reopened);
    assert_clean(killed.path());
}

#[tokio::test]
async fn a_copy_at_any_moment_of_writing_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let now = store.now();
    let mut answered = Vec::new();
    for round in 0..5 {
        let commits: Vec<_> = (0..100).map(|_| accepted(now, now, Some("g"))).collect();
        let ids: Vec<_> = commits.iter().map(|one| one.order.id()).collect();
        let tickets = store.commit(commits);
        // Copied while the batch is on its way: it is there wholly or not at all.
        let killed = tempfile::tempdir().unwrap();
        copy_as_killed(directory.path(), killed.path());
        let reopened = open(killed.path());
        for id in &answered {
            assert!(reopened.order(*id).await.unwrap().is_some(), "round {round}");
        }
        drop(reopened);
        assert_clean(killed.path());
        for ticket in tickets {
            ticket.await.unwrap();
        }
        answered.extend(ids);
    }
}

#[tokio::test]
async fn one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let second = SqliteStore::open(options(directory.path()));
    let Err(StoreError::Locked { pid, .. }) = second else {
        panic!("it must be locked")
    };
    assert_eq!(pid, std::process::id().to_string());
    assert!(matches!(
        verify(directory.path(), &|_, _| {}),
        Err(StoreError::Locked { .. })
    ));
    store.close().await.unwrap();
    open(directory.path());
}

#[tokio::test]
async fn a_newer_format_and_a_foreign_file_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    tamper(directory.path(), "PRAGMA user_version = 99");
    let newer = SqliteStore::open(options(directory.path()));
    assert!(matches!(newer, Err(StoreError::Newer { found: 99, .. })));
    tamper(directory.path(), "PRAGMA user_version = 1; PRAGMA application_id = 7");
    assert!(matches!(
        SqliteStore::open(options(directory.path())),
        Err(StoreError::Corrupt { .. })
    ));
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(
        foreign.path().join("comanda.db"),
        "not a database, but long enough to look at it".repeat(99),
    )
    .unwrap();
    assert!(matches!(
        SqliteStore::open(options(foreign.path())),
        Err(StoreError::Corrupt { .. })
    ));
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options {
        size_bytes_max: Some(400 * 1024),
        ..options(directory.path())
    })
    .unwrap();
    let now = store.now();
    let mut kept = Vec::new();
    let mut refused = Vec::new();
    let mut full = false;
    for _ in 0..200 {
        let commits: Vec<_> = (0..20).map(|_| accepted(now, now, Some("g"))).collect();
        let ids: Vec<_> = commits.iter().map(|one| one.order.id()).collect();
        for (ticket, id) in store.commit(commits).into_iter().zip(ids) {
            match ticket.await {
                Ok(_) => kept.push(id),
                Err(CommitError::Store(StoreError::Full(_))) => {
                    full = true;
                    refused.push(id);
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        if full {
            break;
        }
    }
    assert!(full && !kept.is_empty());
    assert!(matches!(store.health().await, Err(StoreError::Full(_)) | Ok(())));
    assert!(store.order(kept[0]).await.unwrap().is_some(), "reads go on");
    for id in refused {
        assert!(
            store.order(id).await.unwrap().is_none(),
            "nothing of a refused commit is there"
        );
    }
    let counted: u64 = store
        .counters()
        .await
        .unwrap()
        .counts
        .iter()
        .map(|count| count.count)
        .sum();
    assert_eq!(counted, kept.len() as u64);
    store.set_size_bytes_max(None).await.unwrap();
    store.health().await.unwrap();
    let receipt = commit(&store, accepted(now, now, Some("g"))).await.unwrap();
    assert_eq!(
        receipt.position,
        kept.len() as u64 + 1,
        "refused events took no positions"
    );
    store.close().await.unwrap();
    assert_clean(directory.path());
}

#[tokio::test]
async fn damage_is_told_on_reading_and_names_the_order() {
    let directory = tempfile::tempdir().unwrap();
    let ids = sample(directory.path()).await;
    tamper(
        directory.path(),
        "UPDATE orders SET data = replace(data, '12.50', '12.51') WHERE seq = 1;
         UPDATE heads SET version = version + 1 WHERE seq = 2;
         UPDATE events SET at = at + 1 WHERE seq = 4;
         UPDATE attempts SET result = '{}' WHERE seq = 5;",
    );
    let store = open(directory.path());
    let names = |error: StoreError, id: usize| match error {
        StoreError::Corrupt { what, detail } => {
            assert!(what.contains(&ids[id].to_string()), "{what}: {detail}");
        }
        other => panic!("{other:?}"),
    };
    for id in [0, 1, 4] {
        names(store.order(ids[id]).await.unwrap_err(), id);
    }
    names(store.history(ids[3], 0, 10).await.unwrap_err(), 3);
    names(store.attempts(ids[4], 0, 10).await.unwrap_err(), 4);
    assert!(matches!(
        store.feed(FeedStart::Oldest, 100).await,
        Err(StoreError::Corrupt { .. })
    ));
    // A due order that cannot be read is told, and then does not stand in the way.
    let lease = std::time::Duration::from_secs(60);
    assert!(matches!(store.claim(10, lease).await, Err(StoreError::Corrupt { .. })));
    let now = store.now();
    let fresh = accepted(now, now, None);
    // Nor does a commit to it take its neighbours along.
    let broken = next(&accepted_like(ids[1], now), now);
    let mut tickets = store.commit(vec![broken, fresh.clone()]).into_iter();
    assert!(matches!(
        tickets.next().unwrap().await,
        Err(CommitError::Store(StoreError::Corrupt { .. }))
    ));
    tickets.next().unwrap().await.unwrap();
    let claims = store.claim(10, lease).await.unwrap().claims;
    assert_eq!(
        claims.iter().map(|claim| claim.order.id()).collect::<Vec<_>>(),
        [fresh.order.id()]
    );
}

fn accepted_like(id: comanda_model::OrderId, now: jiff::Timestamp) -> comanda_model::Order {
    let mut order = Arc::unwrap_or_clone(accepted(now, now, None).order);
    let mut acceptance = (*order.accepted).clone();
    acceptance.id = id;
    order.accepted = Arc::new(acceptance);
    order
}

#[tokio::test]
async fn an_id_that_leads_astray_is_damage_and_reaches_no_other_order() {
    let directory = tempfile::tempdir().unwrap();
    let ids = sample(directory.path()).await;
    let store = open(directory.path());
    let now = store.now();
    let (one, other) = (accepted(now, now, None), accepted(now, now, None));
    for new in [&one, &other] {
        commit(&store, new.clone()).await.unwrap();
    }
    let unknown = accepted(now, now, None).order.id();
    assert!(store.order(unknown).await.unwrap().is_none());
    assert!(store.key("type:sale", "b").await.unwrap().is_none());
    store.close().await.unwrap();
    tamper(
        directory.path(),
        "UPDATE ids SET seq = 7 WHERE seq = 6;
         DELETE FROM ids WHERE seq = 3;
         UPDATE keys SET fingerprint = zeroblob(32) WHERE key = 'a';",
    );
    let store = open(directory.path());
    let damaged = |error: StoreError| assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    for id in [one.order.id(), ids[2]] {
        damaged(store.order(id).await.unwrap_err());
        damaged(store.history(id, 0, 10).await.unwrap_err());
    }
    // Beside a damaged entry it cannot be told that there is none.
    damaged(store.key("type:sale", "b").await.unwrap_err());
    assert!(matches!(
        commit(&store, finished(&one.order, now)).await,
        Err(CommitError::Store(StoreError::Corrupt { .. }))
    ));
    let untouched = store.order(other.order.id()).await.unwrap().unwrap().order;
    assert_eq!((untouched.head.version, untouched.head.phase), (1, Phase::Active));
    let elsewhere = comanda_model::OrderId(uuid::Uuid::nil());
    assert!(store.order(elsewhere).await.unwrap().is_none());
}

#[tokio::test]
async fn a_damaged_neighbour_fails_only_those_who_need_it() {
    let directory = tempfile::tempdir().unwrap();
    let ids = sample(directory.path()).await;
    // Whoever leaves the lane has to promote order 3, whose head is damaged.
    tamper(directory.path(), "UPDATE heads SET version = 9 WHERE seq = 3");
    let store = open(directory.path());
    let now = store.now();
    let head = store.order(ids[1]).await.unwrap().unwrap().order;
    let fresh = accepted(now, now, None);
    let (fresh, _) = taking(fresh);
    let tickets = store.commit(vec![fresh.clone(), finished(&head, now), accepted(now, now, None)]);
    let mut answers = Vec::new();
    for ticket in tickets {
        answers.push(ticket.await);
    }
    assert!(answers[0].as_ref().unwrap().claimed);
    assert!(matches!(
        answers[1],
        Err(CommitError::Store(StoreError::Corrupt { .. }))
    ));
    assert!(answers[2].is_ok());
    assert_eq!(
        store.order(ids[1]).await.unwrap().unwrap().order.head.phase,
        Phase::Active
    );
    assert!(store.order(fresh.order.id()).await.unwrap().unwrap().claim.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_under_writes_is_whole_and_restores_with_another_epoch() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(directory.path()));
    let now = store.now();
    let tickets = store.commit((0..3000).map(|_| accepted(now, now, Some("g"))).collect());
    let mut ids = Vec::new();
    for ticket in tickets {
        ids.push(ticket.await.unwrap());
    }
    let stop = Arc::new(AtomicU64::new(0));
    let writing = {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move {
            let mut written = 0;
            while stop.load(Ordering::Relaxed) == 0 {
                let (one, _) = taking(accepted(now, now, None));
                commit(&store, one.clone()).await.unwrap();
                commit(&store, finished(&one.order, now)).await.unwrap();
                written += 1;
            }
            written
        })
    };
    let backups = tempfile::tempdir().unwrap();
    let file = backups.path().join("copy.db");
    let told = AtomicU64::new(0);
    store
        .backup(&file, &|done, all| {
            assert!(done <= all);
            told.store(all, Ordering::Relaxed);
        })
        .await
        .unwrap();
    stop.store(1, Ordering::Relaxed);
    assert!(writing.await.unwrap() > 0);
    assert!(told.load(Ordering::Relaxed) > 100);
    assert!(
        store.backup(&file, &|_, _| {}).await.is_err(),
        "an existing file is not overwritten"
    );
    assert_eq!(
        std::fs::read_dir(backups.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
    let report = verified(&file);
    assert!(report.is_clean(), "{:#?}", report.faults);
    assert!(report.orders >= 3000);

    let cursor = store.feed(FeedStart::Oldest, 1).await.unwrap().next;
    let restored = tempfile::tempdir().unwrap();
    restore(&file, &restored.path().join("new")).unwrap();
    assert!(
        restore(&file, &restored.path().join("new")).is_err(),
        "a store is not overwritten"
    );
    let again = open(&restored.path().join("new"));
    assert!(matches!(
        again.feed(FeedStart::After(cursor), 1).await,
        Err(StoreError::CursorReset)
    ));
    assert_eq!(again.feed(FeedStart::Oldest, 10).await.unwrap().events.len(), 10);
    commit(&again, accepted(now, now, Some("g"))).await.unwrap();
    again.close().await.unwrap();
    assert_clean(&restored.path().join("new"));
    tamper_file(&file);
    assert!(matches!(
        restore(&file, &restored.path().join("bad")),
        Err(StoreError::Corrupt { .. })
    ));
}

fn tamper_file(file: &Path) {
    let connection = rusqlite::Connection::open(file).unwrap();
    connection
        .execute_batch("UPDATE orders SET customer = 'x' WHERE seq = 5")
        .unwrap();
}

#[tokio::test]
async fn a_store_opened_for_reading_reads_and_refuses_commits() {
    let directory = tempfile::tempdir().unwrap();
    let ids = sample(directory.path()).await;
    let store = SqliteStore::open_read_only(options(directory.path())).unwrap();
    assert!(store.order(ids[0]).await.unwrap().is_some());
    assert_eq!(
        store
            .counters()
            .await
            .unwrap()
            .counts
            .iter()
            .map(|count| count.count)
            .sum::<u64>(),
        5
    );
    let now = store.now();
    let mut one = accepted(now, now, None);
    one.claim = ClaimMove::End;
    assert!(matches!(
        commit(&store, one).await,
        Err(CommitError::Store(StoreError::ReadOnly(_)))
    ));
    assert!(store.retain(now, 1).await.is_err());
    store
        .backup(&directory.path().join("backup.db"), &|_, _| {})
        .await
        .unwrap();
    drop(store);
    // What a killed process left can be read too, with all that stands in its log.
    let live = open(directory.path());
    let one = accepted(live.now(), live.now(), None);
    commit(&live, one.clone()).await.unwrap();
    let killed = tempfile::tempdir().unwrap();
    copy_as_killed(directory.path(), killed.path());
    let store = SqliteStore::open_read_only(options(killed.path())).unwrap();
    assert!(store.order(one.order.id()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_begun_anew_while_commits_keep_coming() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let now = store.now();
    let log = directory.path().join("comanda.db-wal");
    let data = format!("{{\"text\":\"{}\"}}", "x".repeat(100_000));
    let mut written = 0_u64;
    let mut largest = 0;
    while written < 600 * 1024 * 1024 {
        let commits: Vec<_> = (0..50)
            .map(|_| {
                let mut one = accepted(now, now, None);
                Arc::make_mut(&mut one.order).data = comanda_model::Json::from_valid(data.as_str());
                one
            })
            .collect();
        for ticket in store.commit(commits) {
            ticket.await.unwrap();
        }
        written += 50 * data.len() as u64;
        largest = largest.max(std::fs::metadata(&log).unwrap().len());
    }
    // The thread that copies it usually keeps it far smaller; at 256 MiB the writer sees to it itself, before its next
    // batch. More than that and a few batches would mean that nobody does.
    assert!(largest < 320 * 1024 * 1024, "the log grew to {largest} bytes");
    store.close().await.unwrap();
}

/// Where each frame of a log begins, and whether a transaction ends with it.
fn frames(log: &[u8]) -> Vec<(usize, bool)> {
    let word = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let frame_bytes = 24 + word(8) as usize;
    let whole = (32..log.len()).step_by(frame_bytes);
    whole
        .filter(|at| at + frame_bytes <= log.len() && word(at + 8) == word(16))
        .map(|at| (at, word(at + 4) != 0))
        .collect()
}

#[tokio::test]
async fn a_bit_that_flips_in_the_log_is_said_and_what_stands_behind_it_is_not_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let now = store.now();
    let mut ids = Vec::new();
    for _ in 0..12 {
        let one = accepted(now, now, None);
        ids.push(one.order.id());
        commit(&store, one).await.unwrap();
    }
    let killed = tempfile::tempdir().unwrap();
    copy_as_killed(directory.path(), killed.path());
    let log = std::fs::read(killed.path().join("comanda.db-wal")).unwrap();
    let frames = frames(&log);
    let ends: Vec<usize> = (0..frames.len()).filter(|&index| frames[index].1).collect();
    assert!(ends.len() >= 12, "each commit is a transaction of its own");
    // Up to here whole transactions stand behind, and the beginning of one more.
    let sure = ends[ends.len() - 3];
    let damaged = tempfile::tempdir().unwrap();
    let attempt = |at: usize| {
        copy_as_killed(killed.path(), damaged.path());
        let mut log = log.clone();
        log[at] ^= 4;
        std::fs::write(damaged.path().join("comanda.db-wal"), log).unwrap();
        SqliteStore::open_read_only(options(damaged.path()))
    };
    // The header, but for the number of the checkpoint and the salts, which only its checksum holds.
    for at in [0, 5, 9, 16, 27] {
        assert!(matches!(attempt(at), Err(StoreError::Corrupt { .. })), "byte {at}");
    }
    for (index, (frame, _)) in frames
        .iter()
        .enumerate()
        .filter(|(index, _)| *index == sure || (*index < sure && index.is_multiple_of(3)))
    {
        // The page's number, its size, a salt, both halves of the sum, and three places of the page.
        for at in [0, 5, 9, 17, 21, 24, 2000, 4100] {
            match attempt(frame + at) {
                Err(StoreError::Corrupt { what, detail }) => {
                    assert!(
                        what.contains("comanda.db-wal") && detail.contains("backup"),
                        "{what}: {detail}"
                    );
                }
                other => panic!("frame {index}, byte {at}: {other:?}"),
            }
            if index == sure && at == 24 {
                assert!(SqliteStore::open(options(damaged.path())).is_err());
                let report = verify(damaged.path(), &|_, _| {}).unwrap();
                assert!(
                    report.faults.iter().any(|fault| fault.what.contains("the log")),
                    "{report:?}"
                );
            }
        }
    }
    // The last two transactions cannot be told from what a power cut takes: all before them is there.
    for end in &ends[ends.len() - 2..] {
        let store = attempt(frames[*end].0 + 30).unwrap();
        for id in &ids[..ids.len() - 2] {
            assert!(store.order(*id).await.unwrap().is_some(), "{id} is gone");
        }
    }
    // A log whose end was never written is no damage.
    let short = tempfile::tempdir().unwrap();
    for bytes in [0, 20, 32, 40, frames[sure].0 + 100, log.len() - 1] {
        copy_as_killed(killed.path(), short.path());
        std::fs::write(short.path().join("comanda.db-wal"), &log[..bytes]).unwrap();
        let opened = SqliteStore::open_read_only(options(short.path()));
        // Without its first part there is no table yet.
        assert!(
            !matches!(opened, Err(StoreError::Corrupt { .. })),
            "{bytes} bytes: {opened:?}"
        );
        assert!(opened.is_ok() || bytes < 100, "{bytes} bytes: {opened:?}");
    }
}
