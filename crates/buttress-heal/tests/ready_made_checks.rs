//! The checks that are ready-made.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use buttress_core::observe::CircuitState;
use buttress_core::{ErrorsAreFailures, Plain, Verdict, classify_fn, error_verdict};
use buttress_heal::{
    Answer, CallCheck, Check, MemoryCheck, Signals, Subject, Symptom, TcpCheck, circuit_breaker, pool_use,
    queue_depth,
};
use tokio::net::TcpListener;
use tower::service_fn;

async fn answer<S>(check: &impl Check<S>, service: Option<&S>, target: usize) -> Answer {
    let subject = Subject { service, generation: 1, target, traffic: &Signals::default() };
    check.run(subject).await
}

async fn alone(check: &impl Check<()>) -> Answer {
    answer(check, None, 0).await
}

fn said(answer: Answer) -> String {
    match answer {
        Answer::Fail(evidence) => evidence.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_queue_fails_above_its_bound() {
    let depth = Arc::new(AtomicUsize::new(800));
    let seen = Arc::clone(&depth);
    let check = queue_depth(800, move || seen.load(Ordering::Relaxed));
    assert_eq!(alone(&check).await, Answer::Pass);
    depth.store(801, Ordering::Relaxed);
    assert_eq!(said(alone(&check).await), "801 are waiting, more than 800");
    assert_eq!(Check::<()>::symptom(&check), Symptom::Queue);
}

#[tokio::test]
async fn a_pool_fails_from_its_share_on_and_an_empty_one_does_not() {
    let check = pool_use(90, |pool: &(usize, usize)| *pool).unwrap();
    for pool in [(8, 10), (0, 0), (1, 1000)] {
        assert_eq!(answer(&check, Some(&pool), 0).await, Answer::Pass);
    }
    assert_eq!(said(answer(&check, Some(&(9, 10)), 0).await), "9 of 10 connections are in use");
    assert_eq!(answer(&check, None, 0).await, Answer::Skipped, "there is no pool yet");
    let error = pool_use(0, |pool: &(usize, usize)| *pool).unwrap_err().to_string();
    assert_eq!(error, "`percent` is 0, but must be 1 to 100");
}

#[tokio::test]
async fn a_circuit_fails_only_while_it_is_open() {
    for state in [CircuitState::Closed, CircuitState::HalfOpen, CircuitState::Isolated] {
        assert_eq!(alone(&circuit_breaker(move || state)).await, Answer::Pass);
    }
    assert_eq!(said(alone(&circuit_breaker(|| CircuitState::Open)).await), "the circuit is open");
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_fails_and_says_which() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let check = TcpCheck::new(address.clone());
    assert_eq!(alone(&check).await, Answer::Pass);
    drop(listener);
    let evidence = said(alone(&check).await);
    assert!(evidence.starts_with(&format!("cannot connect to {address}: Connection refused")), "{evidence}");
}

#[tokio::test]
async fn each_target_has_its_port_and_one_beyond_the_last_is_not_checked() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap().to_string();
    // Port 1 of loopback is nobody's.
    let check = TcpCheck::of_targets(["127.0.0.1:1", &open]);
    assert!(said(answer::<()>(&check, None, 0).await).contains("127.0.0.1:1"));
    assert_eq!(answer::<()>(&check, None, 1).await, Answer::Pass);
    assert_eq!(answer::<()>(&check, None, 2).await, Answer::Skipped);
    assert_eq!(answer::<()>(&TcpCheck::of_targets([open]), None, 7).await, Answer::Pass);
}

#[tokio::test]
async fn a_call_is_judged_by_its_policy_and_a_rejected_one_fails() {
    let policy = classify_fn(|outcome: Result<&u16, _>| match outcome {
        Ok(200) => Verdict::Success,
        Ok(404) => Verdict::Rejected,
        Ok(0) => Verdict::Ignored,
        Ok(_) => Verdict::failure(buttress_core::Kind::Transient),
        Err(error) => error_verdict(error),
    });
    let service = service_fn(|code: u16| async move {
        if code == 1 { Err(std::io::Error::other("connection reset")) } else { Ok(code) }
    });
    for (code, expected) in [
        (200, Answer::Pass),
        (0, Answer::Skipped),
        (404, Answer::fail("its request was rejected")),
        (503, Answer::fail("the answer is a failure (transient)")),
        (1, Answer::fail("connection reset")),
    ] {
        let check = CallCheck::new("ping", move || code, Plain::new(policy));
        assert_eq!(answer(&check, Some(&service), 0).await, expected, "{code}");
    }
    let check = CallCheck::new("ping", || 200, Plain::<ErrorsAreFailures>::default());
    assert_eq!(
        said(answer(&check, None::<&tower::util::BoxCloneService<u16, u16, std::io::Error>>, 0).await),
        "there is no service"
    );
}

#[cfg(target_os = "linux")]
mod memory {
    use super::*;
    use std::fs;
    use std::io::{self, Seek, Write};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    #[tokio::test]
    async fn this_process_holds_more_than_a_byte_and_less_than_a_terabyte() {
        let evidence = said(alone(&MemoryCheck::process_below(1).unwrap()).await);
        assert!(
            evidence.starts_with("this process holds ") && evidence.ends_with(" MiB, of 0.0 MiB"),
            "{evidence}"
        );
        assert_eq!(alone(&MemoryCheck::process_below(1 << 40).unwrap()).await, Answer::Pass);
        assert!(MemoryCheck::process_below(0).is_err());
    }

    #[tokio::test]
    async fn what_this_process_takes_is_what_it_is_said_to_hold() {
        let held = || async {
            let evidence = said(alone(&MemoryCheck::process_below(1).unwrap()).await);
            evidence.split(' ').nth(3).unwrap().parse::<f64>().unwrap()
        };
        let before = held().await;
        let taken = vec![1_u8; 64 << 20];
        let after = held().await;
        assert!((after - before - 64.0).abs() < 16.0, "{before} then {after}");
        drop(taken);
    }

    #[tokio::test]
    async fn the_surroundings_are_read_on_this_machine() {
        // Whatever they are: one per cent is always used, and not all of it is.
        let evidence = said(alone(&MemoryCheck::below_percent(1).unwrap()).await);
        assert!(
            evidence.contains(" MiB are used, which is 1 % or more") || evidence.contains(" MiB of "),
            "{evidence}"
        );
        assert_eq!(alone(&MemoryCheck::below_percent(100).unwrap()).await, Answer::Pass);
        for percent in [0, 101] {
            assert!(MemoryCheck::below_percent(percent).is_err());
        }
    }

    /// A control group of this machine, if one can be made.
    struct Group(PathBuf);

    impl Group {
        fn with_limit(bytes: u64) -> Option<Self> {
            let name = format!("buttress-heal-{}", std::process::id());
            let (v1, v2) =
                (Path::new("/sys/fs/cgroup/memory").join(&name), Path::new("/sys/fs/cgroup").join(&name));
            for (group, limit) in [(v1, "memory.limit_in_bytes"), (v2, "memory.max")] {
                if fs::create_dir(&group).is_ok() {
                    let group = Self(group);
                    if fs::write(group.0.join(limit), bytes.to_string()).is_ok() {
                        return Some(group);
                    }
                }
            }
            None
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = fs::remove_dir(&self.0);
        }
    }

    /// In a process of its own, since it joins a control group: this test binary once more, for the test below.
    #[test]
    fn the_limit_of_a_real_control_group_is_found_and_pages_of_files_do_not_count() {
        let Some(group) = Group::with_limit(64 << 20) else {
            println!("skipped: this machine does not let us make a control group");
            return;
        };
        let test = "memory::a_process_in_a_control_group_of_64_mib";
        let output = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--ignored", "--nocapture"])
            .env("BUTTRESS_GROUP", &group.0)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", output.status);
    }

    #[tokio::test]
    #[ignore = "run by the test above, in a control group"]
    async fn a_process_in_a_control_group_of_64_mib() {
        let group = PathBuf::from(std::env::var_os("BUTTRESS_GROUP").unwrap());
        fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        let check = MemoryCheck::below_percent(60).unwrap();
        assert_eq!(alone(&check).await, Answer::Pass);
        // 40 MiB of pages of a file, read twice: the kernel counts them as used, and takes them back.
        let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
        for _ in 0..40 {
            file.write_all(&[1; 1 << 20]).unwrap();
        }
        file.sync_all().unwrap();
        for _ in 0..2 {
            file.rewind().unwrap();
            assert_eq!(io::copy(&mut file, &mut io::sink()).unwrap(), 40 << 20);
        }
        let usage =
            ["memory.usage_in_bytes", "memory.current"].map(|name| fs::read_to_string(group.join(name)));
        let usage = usage.into_iter().find_map(Result::ok).unwrap();
        assert!(usage.trim().parse::<u64>().unwrap() > 40 << 20, "{usage}");
        assert_eq!(alone(&check).await, Answer::Pass);
        let taken = vec![1_u8; 40 << 20];
        let evidence = said(alone(&check).await);
        let expected = format!(" MiB of 64.0 MiB in control group {} are used", group.display());
        assert!(evidence.contains(&expected), "{evidence}");
        drop(taken);
        assert_eq!(alone(&check).await, Answer::Pass);
    }
}
