//! What is in a journal.

use std::time::Duration;

use super::{acquire, append, append_all, control, entry, give_up, held, info, load, peek, renew, wanted};
use crate::conformance::{Harness, LONG};
use crate::journal::{
    Appended, Command, Entry, JournalStore, NewEntry, Next, Peek, Renewed, RunInfo, Status,
};
pub async fn entries_come_back_as_they_were_written<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "a", LONG).await;
    let every_byte: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let last = NewEntry {
        kind: u16::MAX,
        format: u16::MAX,
        name: "ü".into(),
        occurrence: u32::MAX,
        payload: every_byte.into(),
    };
    let written = [entry("", b""), entry("it's; --", b"\0"), last];
    append_all(&store, &hold, &written[..1], 0).await;
    append_all(&store, &hold, &written[1..], 1).await;
    let run = load(&store, "a").await;
    assert_eq!(run.info.entries, 3);
    for (index, (stored, written)) in run.entries.iter().zip(&written).enumerate() {
        assert_eq!((stored.seq, &stored.entry), (index as u64, written));
        assert!(stored.at >= run.info.created && stored.at <= run.info.now, "{stored:?}");
    }
    assert_eq!(run.entries.len(), 3);

    let many: Vec<_> = (0..1000).map(|index| entry(&format!("step {index}"), b"result")).collect();
    append_all(&store, &hold, &many, 3).await;
    let entries = load(&store, "a").await.entries;
    assert!(entries[3..].iter().map(|entry| &entry.entry).eq(&many), "in their order");
    assert!(entries.iter().map(|entry| entry.seq).eq(0..1003));
}

pub async fn a_peek_gives_the_end_of_the_journal_and_nothing_else_of_it<H: Harness<Store: JournalStore>>(
    harness: &H,
) {
    let store = harness.store().await;
    assert_eq!(peek(&store, "a").await, None);
    let hold = held(&store, "a", LONG).await;
    append_all(&store, &hold, &[entry("one", b"1"), entry("two", b"2")], 0).await;
    let Some(Peek { info: peeked, last: None }) = peek(&store, "a").await else { panic!("it is not over") };
    let known = info(&store, "a").await;
    assert_eq!(peeked, RunInfo { now: peeked.now, lease: peeked.lease, ..known });
    assert!(peeked.lease.is_some_and(|lease| lease <= LONG), "{peeked:?}");
    assert_eq!((peeked.epoch, peeked.entries), (1, 2));

    let ends = [(Next::Done, Status::Done), (Next::Fail, Status::Failed), (Next::Cancel, Status::Cancelled)];
    for (next, status) in ends {
        let hold = held(&store, &format!("{next:?}"), LONG).await;
        append_all(&store, &hold, &[entry("first", b"1")], 0).await;
        let last = entry("output", b"result");
        let appended = append(&store, &hold, 1, std::slice::from_ref(&last), next.clone()).await;
        let Appended::Applied { at, .. } = appended else { panic!("{appended:?}") };
        let ended = peek(&store, hold.id.as_str()).await.expect("there is such a run");
        assert_eq!((ended.info.status, ended.info.entries), (status, 2));
        assert_eq!(ended.last, Some(Entry { seq: 1, at, entry: last }));
    }
    let halted = held(&store, "halted", LONG).await;
    append_all(&store, &halted, &[entry("first", b"1")], 0).await;
    give_up(&store, &halted, 1, Next::Pause("no code".into())).await;
    let peeked = peek(&store, "halted").await.expect("there is such a run");
    assert_eq!((peeked.info.status, peeked.last), (Status::Paused("no code".into()), None));
    let empty = held(&store, "empty", LONG).await;
    give_up(&store, &empty, 0, Next::Done).await;
    let peeked = peek(&store, "empty").await.expect("there is such a run");
    assert_eq!((peeked.info.status, peeked.last), (Status::Done, None));
}

pub async fn entries_have_no_gaps_and_none_is_there_twice<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "a", LONG).await;
    append_all(&store, &hold, &[entry("one", b"1"), entry("two", b"2")], 0).await;
    let conflict = Appended::Conflict { next: 2 };
    for seq in [0, 1, 3] {
        let appended = append(&store, &hold, seq, &[entry("other", b"")], Next::Go).await;
        assert_eq!(appended, conflict, "entry {seq}");
        assert_eq!(append(&store, &hold, seq, &[], Next::Go).await, conflict, "entry {seq}");
        let appended = append(&store, &hold, seq, &[entry("other", b"")], Next::Done).await;
        assert_eq!(appended, conflict, "entry {seq}");
    }
    append_all(&store, &hold, &[], 2).await;
    assert_eq!(load(&store, "a").await.entries.len(), 2);
}

pub async fn an_append_can_be_repeated<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "a", LONG).await;
    append_all(&store, &hold, &[entry("zero", b"0")], 0).await;
    let entries = [entry("one", b"1"), entry("two", b"2")];
    let first = append(&store, &hold, 1, &entries, Next::Go).await;
    harness.pass(Duration::from_millis(2)).await;
    assert_eq!(append(&store, &hold, 1, &entries, Next::Go).await, first, "with the time of the first time");
    assert_eq!(load(&store, "a").await.entries.len(), 3);
    let other = [entry("one", b"1"), entry("two", b"3")];
    assert_eq!(append(&store, &hold, 1, &other, Next::Go).await, Appended::Conflict { next: 3 });
}

pub async fn an_ending_can_be_repeated<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let ends = [
        Next::Done,
        Next::Fail,
        Next::Cancel,
        Next::Pause("code changed".into()),
        Next::Park("it crashes".into()),
        Next::Sleep(LONG),
    ];
    let cancelled = ends.clone().map(|next| (next, true));
    for (index, (next, cancelled)) in ends.map(|next| (next, false)).into_iter().chain(cancelled).enumerate()
    {
        let hold = held(&store, &index.to_string(), LONG).await;
        if cancelled {
            control(&store, &index.to_string(), Command::Cancel).await;
        }
        let last = [entry("last", b"output")];
        let first = append(&store, &hold, 0, &last, next.clone()).await;
        assert!(matches!(first, Appended::Applied { next: 1, .. }), "{next:?}: {first:?}");
        assert_eq!(append(&store, &hold, 0, &last, next.clone()).await, first, "{next:?}");
        let other = append(&store, &hold, 0, &[entry("last", b"other")], next.clone()).await;
        assert_eq!(other, Appended::Fenced, "{next:?}");
        assert_eq!(append(&store, &hold, 1, &[], Next::Go).await, Appended::Fenced, "{next:?}");
    }
}

pub async fn the_last_entry_and_the_end_are_one_write<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let ends = [(Next::Done, Status::Done), (Next::Fail, Status::Failed), (Next::Cancel, Status::Cancelled)];
    for (index, (next, status)) in ends.into_iter().enumerate() {
        let name = index.to_string();
        let hold = held(&store, &name, LONG).await;
        let appended = append(&store, &hold, 0, &[entry("output", b"result")], next).await;
        let Appended::Applied { at, .. } = appended else { panic!("{appended:?}") };
        let run = load(&store, &name).await;
        assert_eq!((run.info.status, run.entries.len(), run.info.lease), (status, 1, None));
        assert_eq!((run.entries[0].at, run.info.changed), (at, at));
        assert_eq!(renew(&store, &hold).await, Renewed::Fenced);
    }
    assert!(acquire(&store, &wanted(LONG)).await.is_empty());
}

pub async fn an_acquired_run_is_never_half_written<H: Harness<Store: JournalStore>>(harness: &H) {
    let store = harness.store().await;
    let hold = held(&store, "a", LONG).await;
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for pair in 0..20 {
            append_all(&writer, &hold, &[entry("left", b""), entry("right", b"")], pair * 2).await;
        }
    });
    while !writing.is_finished() {
        let run = load(&store, "a").await;
        assert_eq!(run.entries.len() % 2, 0, "both or neither");
        assert_eq!(run.entries.len() as u64, run.info.entries, "of one moment");
        tokio::task::yield_now().await;
    }
    writing.await.expect("no panic");
    assert_eq!(load(&store, "a").await.entries.len(), 40);
}
