//! The cases for answers; each panics where the store does not do what [`AnswerStore`] says.

#![expect(missing_docs, reason = "the name of a case says what it asserts")]

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Harness, LONG};
use crate::answer::{AnswerStore, Forgotten, NewAnswer, ROW, StoredAnswer};
use crate::key::ScopedKey;

/// Calls that were made at different times, even where little time passes.
const STEP: Duration = Duration::from_secs(60);

fn key(name: &str) -> ScopedKey {
    ScopedKey::try_new("conformance", name).expect("short enough")
}

fn answer(name: &str, body: &str, age: Duration) -> NewAnswer {
    NewAnswer { key: key(name), body: Bytes::copy_from_slice(body.as_bytes()), age, asked: None, keep: LONG }
}

async fn put<S: AnswerStore>(store: &S, name: &str, body: &str, age: Duration) -> bool {
    store.put(&answer(name, body, age)).await.expect("the store works")
}

async fn stored<S: AnswerStore>(store: &S, name: &str) -> Option<StoredAnswer> {
    store.get(&key(name)).await.expect("the store works")
}

async fn got<S: AnswerStore>(store: &S, name: &str) -> Option<String> {
    stored(store, name).await.map(|answer| String::from_utf8_lossy(&answer.body).into_owned())
}

async fn forget<S: AnswerStore>(store: &S, name: &str, age: Duration) {
    store.forget(&Forgotten::Key(key(name)), age).await.expect("the store works");
}

async fn forget_all<S: AnswerStore>(store: &S, age: Duration) {
    store.forget(&Forgotten::Scope("conformance".into()), age).await.expect("the store works");
}

async fn trim<S: AnswerStore>(store: &S, bytes: u64, max: u32) -> u64 {
    store.trim("conformance", bytes, max).await.expect("the store works")
}

pub async fn what_was_put_comes_back_byte_for_byte<H: Harness<Store: AnswerStore>>(harness: &H) {
    let store = harness.store().await;
    assert_eq!(got(&store, "a").await, None);
    let every_byte: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    for (index, body) in [Bytes::new(), Bytes::from_static(b"\0"), every_byte.into()].into_iter().enumerate()
    {
        let name = index.to_string();
        let answer = NewAnswer { body: body.clone(), ..answer(&name, "", Duration::ZERO) };
        assert!(store.put(&answer).await.expect("the store works"));
        assert!(stored(&store, &name).await.is_some_and(|stored| stored.body == body), "{index}");
    }
}

pub async fn an_answer_is_as_old_as_its_call<H: Harness<Store: AnswerStore>>(harness: &H) {
    let store = harness.store().await;
    assert!(put(&store, "a", "one", STEP).await);
    let age = |stored: Option<StoredAnswer>| {
        let StoredAnswer { born, now, .. } = stored.expect("it is kept");
        now.duration_since(born).expect("no clock was set back")
    };
    let first = age(stored(&store, "a").await);
    harness.pass(harness.short()).await;
    let second = age(stored(&store, "a").await);
    assert!(first >= STEP && second >= first + harness.short() && second < LONG, "{first:?}, {second:?}");
}

pub async fn an_answer_is_there_until_its_time_is_over<H: Harness<Store: AnswerStore>>(harness: &H) {
    let store = harness.store().await;
    let short = NewAnswer { keep: harness.short(), ..answer("a", "one", Duration::ZERO) };
    assert!(store.put(&short).await.expect("the store works"));
    assert!(put(&store, "b", "two", Duration::ZERO).await);
    harness.pass(harness.short()).await;
    assert_eq!((got(&store, "a").await, got(&store, "b").await), (None, Some("two".into())));
    assert!(put(&store, "a", "older, and all that there is", STEP).await);
}

pub async fn the_newer_answer_stays_whichever_comes_first<H: Harness<Store: AnswerStore>>(harness: &H) {
    let store = harness.store().await;
    assert!(put(&store, "a", "new", STEP).await);
    assert!(!put(&store, "a", "old", STEP * 2).await);
    assert_eq!(got(&store, "a").await, Some("new".into()));
    assert!(put(&store, "a", "newer", Duration::ZERO).await);
    // It may have been on its way for so long.
    assert!(put(&store, "a", "a second older, and written later", Duration::from_secs(1)).await);
    assert_eq!(got(&store, "a").await, Some("a second older, and written later".into()));
}

pub async fn a_put_can_be_repeated<H: Harness<Store: AnswerStore>>(harness: &H) {
    let store = harness.store().await;
    for _ in 0..3 {
        put(&store, "a", "one", STEP).await;
        // Time has passed meanwhile.
        put(&store, "a", "one", STEP + Duration::from_millis(1)).await;
        assert_eq!(got(&store, "a").await, Some("one".into()));
    }
}

pub async fn what_was_forgotten_is_gone_and_a_late_answer_does_not_bring_it_back<
    H: Harness<Store: AnswerStore>,
>(
    harness: &H,
) {
    let store = harness.store().await;
    assert!(put(&store, "a", "one", STEP).await);
    forget(&store, "a", Duration::ZERO).await;
    forget(&store, "never there", Duration::ZERO).await;
    assert!(!put(&store, "a", "its call was under way", STEP / 2).await);
    assert!(!put(&store, "never there", "its call was under way", STEP / 2).await);
    assert_eq!((got(&store, "a").await, got(&store, "never there").await), (None, None));
}

pub async fn what_was_forgotten_while_an_answer_was_on_its_way_does_not_come_back<
    H: Harness<Store: AnswerStore>,
>(
    harness: &H,
) {
    let store = harness.store().await;
    let clock = || async { Some(store.clock().await.expect("the store works")) };
    // Its age was counted before all of that.
    let late = |name, asked| NewAnswer { asked, ..answer(name, "on its way", Duration::ZERO) };
    for whole in [false, true] {
        let before = clock().await;
        harness.pass(harness.short()).await;
        if whole {
            forget_all(&store, Duration::ZERO).await
        } else {
            forget(&store, "a", Duration::ZERO).await
        }
        harness.pass(harness.short()).await;
        assert!(!store.put(&late("a", before)).await.expect("the store works"));
        assert_eq!(got(&store, "a").await, None);
        let since = clock().await;
        assert!(since > before && store.put(&late("a", since)).await.expect("the store works"));
    }
    // A clock that was read before it was set back makes nothing older, nor younger.
    let future = clock().await.map(|now| now + LONG);
    assert!(store.put(&late("b", future)).await.expect("the store works"));
    let StoredAnswer { born, now, .. } = stored(&store, "b").await.expect("it is kept");
    assert!(born <= now);
}

pub async fn what_was_asked_for_after_it_was_forgotten_is_kept<H: Harness<Store: AnswerStore>>(harness: &H) {
    let store = harness.store().await;
    forget(&store, "a", STEP).await;
    forget_all(&store, STEP).await;
    assert!(put(&store, "a", "one", STEP / 2).await);
    assert_eq!(got(&store, "a").await, Some("one".into()));
}

pub async fn a_newer_answer_is_not_forgotten<H: Harness<Store: AnswerStore>>(harness: &H) {
    let store = harness.store().await;
    assert!(put(&store, "a", "one", Duration::ZERO).await);
    // What was to be forgotten a minute ago, and could not be told before.
    forget(&store, "a", STEP).await;
    forget_all(&store, STEP).await;
    assert_eq!(got(&store, "a").await, Some("one".into()));
}

pub async fn a_scope_is_forgotten_as_a_whole_and_others_are_not<H: Harness<Store: AnswerStore>>(harness: &H) {
    let store = harness.store().await;
    let elsewhere = ScopedKey::try_new("conformanc", "ea").expect("short enough");
    let other = NewAnswer { key: elsewhere.clone(), ..answer("x", "two", STEP) };
    assert!(put(&store, "a", "one", STEP).await && store.put(&other).await.expect("the store works"));
    forget_all(&store, Duration::ZERO).await;
    // The larger age says nothing new.
    forget_all(&store, STEP * 2).await;
    assert!(!put(&store, "b", "its call was under way", STEP / 2).await);
    assert_eq!((got(&store, "a").await, got(&store, "b").await), (None, None));
    assert!(store.get(&elsewhere).await.expect("the store works").is_some());
}

pub async fn scopes_and_keys_of_answers_are_never_mixed_up<H: Harness<Store: AnswerStore>>(harness: &H) {
    let store = harness.store().await;
    let pairs = [("", "ab"), ("a", "b"), ("ab", "\0"), ("a", "B"), ("a\0", "b"), ("", "a\0b")];
    for (index, (scope, key)) in pairs.into_iter().enumerate() {
        let key = ScopedKey::try_new(scope, key).expect("short enough");
        let answer = NewAnswer { key, ..answer("x", &index.to_string(), STEP) };
        assert!(store.put(&answer).await.expect("the store works"));
    }
    for (index, (scope, key)) in pairs.into_iter().enumerate() {
        let key = ScopedKey::try_new(scope, key).expect("short enough");
        let stored = store.get(&key).await.expect("the store works").expect("it is kept");
        assert_eq!(stored.body, index.to_string());
    }
}

pub async fn trimming_keeps_the_newest_within_the_bound<H: Harness<Store: AnswerStore>>(harness: &H) {
    let store = harness.store().await;
    let body = "b".repeat(10_000);
    for age in [3, 1, 4, 2, 5] {
        assert!(put(&store, &age.to_string(), &body, STEP * age).await);
    }
    assert_eq!(trim(&store, 10 * (10_000 + ROW), 100).await, 0);
    assert_eq!(trim(&store, 31_000, 100).await, 2);
    for age in 1..=5_u32 {
        assert_eq!(got(&store, &age.to_string()).await.is_some(), age <= 3, "{age}");
    }
    // What was replaced counts once.
    for _ in 0..5 {
        assert!(put(&store, "1", &body, Duration::ZERO).await);
    }
    assert_eq!(trim(&store, 31_000, 100).await, 0);
    assert_eq!(trim(&store, 0, 100).await, 3);
}

pub async fn trimming_is_bounded_and_takes_what_is_of_no_use<H: Harness<Store: AnswerStore>>(harness: &H) {
    let store = harness.store().await;
    for index in 0..5 {
        let name = format!("short {index}");
        let short = NewAnswer { keep: harness.short(), ..answer(&name, "", Duration::ZERO) };
        assert!(store.put(&short).await.expect("the store works"));
    }
    assert!(put(&store, "a", "one", Duration::ZERO).await);
    harness.pass(harness.short()).await;
    assert_eq!([trim(&store, u64::MAX, 3).await, trim(&store, u64::MAX, 3).await], [3, 2]);
    assert_eq!(got(&store, "a").await, Some("one".into()));
    forget_all(&store, Duration::ZERO).await;
    assert!(put(&store, "b", "late", STEP).await || trim(&store, u64::MAX, 3).await == 1);
    assert_eq!(trim(&store, u64::MAX, 3).await, 0);
    // The scope is still forgotten.
    assert!(!put(&store, "c", "late", STEP).await);
}

pub async fn of_many_puts_at_once_the_newest_stays<H: Harness<Store: AnswerStore>>(harness: &H) {
    let store = harness.store().await;
    let mut puts = JoinSet::new();
    for index in [3, 0, 7, 5, 1, 6, 2, 4] {
        let store = store.clone();
        puts.spawn(async move { put(&store, "a", &index.to_string(), STEP * index).await });
    }
    let kept = puts.join_all().await.into_iter().filter(|kept| *kept).count();
    assert!(kept >= 1);
    assert_eq!(got(&store, "a").await, Some("0".into()));
}
