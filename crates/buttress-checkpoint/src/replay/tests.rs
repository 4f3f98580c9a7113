use proptest::prelude::*;

use super::*;

fn stored(seq: u64, kind: Kind, name: &str, occurrence: u32, body: &Body) -> Entry {
    Entry { seq, at: UNIX_EPOCH, entry: entry::write(kind, &name.into(), occurrence, body) }
}

fn step(seq: u64, name: &str, n: u32) -> Entry {
    stored(seq, Kind::Step, name, 0, &Body { n, ..Body::default() })
}

fn replay(entries: &[Entry]) -> Replay {
    Replay::new(entries).unwrap()
}

fn build(replay: &mut Replay, name: &str) -> Result<Built, Mismatch> {
    replay.build(StepKind::Step, &name.into())
}

/// CP-12
#[test]
fn a_renamed_a_moved_and_a_removed_step_are_found_with_both_names() {
    let recorded = [step(0, "a", 0), step(1, "b", 1)];
    let Err(Mismatch::UnexpectedStep { expected: Some(expected), recorded: found }) =
        build(&mut replay(&recorded), "x")
    else {
        panic!("it was renamed")
    };
    assert_eq!((&*expected.name, &*found.name), ("x", "a"));

    assert!(build(&mut replay(&recorded), "b").is_err(), "moved to the front");

    let mut removed = replay(&recorded);
    build(&mut removed, "a").unwrap();
    let Err(Mismatch::UnexpectedStep { expected: None, recorded: found }) = removed.finish() else {
        panic!("it was removed")
    };
    assert_eq!(&*found.name, "b");

    let mut appended = replay(&recorded);
    for name in ["a", "b", "c"] {
        build(&mut appended, name).unwrap();
    }
    appended.finish().unwrap();
}

#[test]
fn a_step_that_was_recorded_further_on_is_not_run_anew() {
    let mut moved = replay(&[step(0, "b", 5)]);
    let Err(Mismatch::UnexpectedStep { recorded, .. }) = build(&mut moved, "b") else {
        panic!("it was operation 6")
    };
    assert_eq!(recorded.ordinal, 5);
}

#[test]
fn another_input_is_found_and_one_that_is_new_is_not_held_against_it() {
    let body = Body { n: 0, input: Some("1".into()), ..Body::default() };
    let recorded = [stored(0, Kind::Step, "a", 0, &body)];
    let mut replay = replay(&recorded);
    let (old, new) = (build(&mut replay, "a").unwrap(), build(&mut replay, "b").unwrap());
    assert!(matches!(replay.check_input(&old.id, "2"), Err(Mismatch::InputChanged { .. })));
    assert!(replay.check_input(&old.id, "1").is_ok());
    assert!(replay.check_input(&new.id, "2").is_ok());
}

#[test]
fn a_patch_is_new_only_where_nothing_is_recorded_beyond_it() {
    let mut old = replay(&[step(0, "a", 0)]);
    assert_eq!(old.patched(&"p".into()), Ok(Patched::Known(false)));
    build(&mut old, "a").unwrap();
    assert_eq!(old.patched(&"p".into()), Ok(Patched::Known(false)), "it never changes its mind");

    let mut new = replay(&[step(0, "a", 0)]);
    build(&mut new, "a").unwrap();
    assert!(matches!(new.patched(&"p".into()), Ok(Patched::New(_))));
    assert_eq!(new.patched(&"p".into()), Ok(Patched::Known(true)));

    let patch = stored(1, Kind::Patch, "p", 0, &Body { n: 1, ..Body::default() });
    let mut recorded = replay(&[step(0, "a", 0), patch, step(2, "b", 2)]);
    build(&mut recorded, "a").unwrap();
    assert!(matches!(recorded.patched(&"p".into()), Ok(Patched::Recorded(_))));
    build(&mut recorded, "b").unwrap();
}

#[test]
fn a_failed_attempt_takes_back_the_mark_that_it_began() {
    let started = stored(0, Kind::Started, "a", 0, &Body::default());
    let failed = stored(1, Kind::Attempt, "a", 0, &Body { attempt: 1, wait: Some(5), ..Body::default() });
    let marks = |entries: &[Entry]| build(&mut replay(entries), "a").unwrap().marks;
    assert!(marks(std::slice::from_ref(&started)).started);
    let until = Some(UNIX_EPOCH + Duration::from_micros(5));
    assert_eq!(marks(&[started.clone(), failed.clone()]), Marks { started: false, attempts: 1, until });
    assert!(marks(&[started.clone(), failed, started]).started);
}

/// What a journal means, naively: the n-th operation is the one that was recorded as the n-th, or it is new if its name and
/// occurrence were never recorded; the code may go on with results in the order of the journal only.
fn naive(journal: &[(u32, String, u32)], code: &[String]) -> Result<Vec<bool>, usize> {
    let mut known = Vec::new();
    for (at, name) in code.iter().enumerate() {
        let nth = code[..at].iter().filter(|earlier| *earlier == name).count() as u32;
        let here = journal.iter().find(|(ordinal, ..)| *ordinal as usize == at);
        let same = journal.iter().find(|(_, recorded, occurrence)| recorded == name && *occurrence == nth);
        match (here, same) {
            (Some(here), Some(same)) if here == same => known.push(true),
            (None, None) => known.push(false),
            _ => return Err(at),
        }
    }
    Ok(known)
}

proptest! {
    #[test]
    fn what_is_built_means_what_a_naive_model_says(
        original in prop::collection::vec("[a-c]", 0..8),
        code in prop::collection::vec("[a-c]", 0..8),
        finished in prop::collection::vec(any::<(bool, u8)>(), 8),
        same in any::<bool>(),
    ) {
        let code = if same { original.clone() } else { code };
        let mut journal: Vec<(u32, String, u32)> = Vec::new();
        for (at, name) in original.iter().enumerate().filter(|(at, _)| finished[*at].0) {
            let nth = original[..at].iter().filter(|earlier| *earlier == name).count() as u32;
            journal.push((at as u32, name.clone(), nth));
        }
        // In the order in which they ended, which is any.
        journal.sort_by_key(|(ordinal, ..)| finished[*ordinal as usize].1);
        let entries: Vec<Entry> = (0..).zip(&journal).map(|(seq, (n, name, nth))| {
            stored(seq, Kind::Step, name, *nth, &Body { n: *n, ..Body::default() })
        }).collect();
        let mut replay = replay(&entries);
        let mut built = Vec::new();
        let mut failed = None;
        for (at, name) in code.iter().enumerate() {
            match build(&mut replay, name) {
                Ok(it) => built.push(replay.recorded.contains_key(&it.id.ordinal)),
                Err(_) => { failed = Some(at); break }
            }
        }
        let outcome = failed.map_or(Ok(built), Err);
        prop_assert_eq!(&outcome, &naive(&journal, &code));
        if outcome.is_ok() {
            let all = journal.iter().all(|(n, ..)| (*n as usize) < code.len());
            prop_assert_eq!(replay.finish().is_ok(), all);
            let order: Vec<u32> = std::iter::from_fn(|| replay.pop()).map(|delivery| delivery.ordinal).collect();
            prop_assert_eq!(order, journal.iter().map(|(n, ..)| *n).collect::<Vec<_>>());
            prop_assert!(replay.is_live());
        }
    }
}
