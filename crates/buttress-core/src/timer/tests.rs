use super::*;

fn kept() -> usize {
    POOL.with(|pool| pool.borrow().free.len())
}

async fn fires(deadline: Instant) -> Instant {
    Timer::at(deadline).unwrap().await;
    Instant::now()
}

const SHORT: Duration = Duration::from_millis(2);
const LONG: Duration = Duration::from_millis(30);

async fn arm(deadline: Instant) -> Timer {
    let mut timer = Timer::at(deadline).unwrap();
    assert!(std::future::poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
    timer
}

/// In real time, since nothing is kept in any other.
#[tokio::test]
async fn a_timer_that_was_used_before_fires_at_its_new_deadline_and_not_at_its_old_one() {
    for (first, second) in [(SHORT, LONG), (LONG, SHORT), (LONG, LONG)] {
        let start = Instant::now();
        drop(arm(start + first).await);
        assert_eq!(kept(), 1);
        assert!(fires(start + second).await >= start + second, "{first:?} then {second:?}");
    }
    let start = Instant::now();
    fires(start).await;
    assert!(start.elapsed() < Duration::from_secs(10), "a deadline in the past fires at once");
    assert_eq!(kept(), 1, "one timer served them all");
}

#[tokio::test]
async fn a_thread_keeps_a_bounded_number() {
    let timers: Vec<_> = (0..1000).map(|_| Timer::at(Instant::now() + LONG).unwrap()).collect();
    drop(timers);
    assert_eq!(kept(), KEPT);
}

/// A call with two deadlines, after another one.
#[tokio::test]
async fn a_timer_that_is_registered_for_an_earlier_moment_is_taken_first() {
    let start = Instant::now();
    let [soon, between, late] = [2, 3, 4].map(|minutes| start + 60 * Duration::from_secs(minutes));
    let left =
        || POOL.with(|pool| pool.borrow().free.iter().map(|kept| kept.sleep.deadline()).collect::<Vec<_>>());
    drop([arm(soon).await, arm(late).await]);
    let first = arm(between).await;
    assert_eq!(left(), [late]);
    let second = arm(late).await;
    assert_eq!(left(), []);
    drop((first, second));
    let earlier = arm(start + LONG).await;
    assert_eq!(left(), [soon], "if there is none, any will do");
    earlier.await;
    assert!(start.elapsed() >= LONG && Instant::now() < soon);
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_polled_last_is_woken_however_often_it_was_polled_before() {
    let woken = [0; 2].map(|_| std::sync::Arc::<Woken>::default());
    let wakers = woken.clone().map(Waker::from);
    let times = || woken.each_ref().map(|woken| woken.0.load(std::sync::atomic::Ordering::SeqCst));
    let second = Duration::from_secs(1);
    for (index, order) in [&[0, 0][..], &[0, 1], &[0, 1, 1], &[1, 0, 1, 0]].into_iter().enumerate() {
        let before = times();
        let mut timer = Timer::at(Instant::now() + second).unwrap();
        for who in order {
            assert!(timer.poll(&mut Context::from_waker(&wakers[*who])).is_pending());
        }
        tokio::time::advance(second).await;
        let mut after = before;
        after[order[order.len() - 1]] += 1;
        assert_eq!(times(), after, "{index}");
        assert!(timer.poll(&mut Context::from_waker(&wakers[0])).is_ready());
    }
}

/// A task whose budget is spent is polled again at once, and may then be polled with the same waker.
#[tokio::test(start_paused = true)]
async fn a_timer_that_is_polled_without_a_budget_is_set_all_the_same() {
    let start = Instant::now();
    let mut timer = Timer::at(start + LONG).unwrap();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    (0..1000).for_each(|_| sender.send(()).unwrap());
    std::future::poll_fn(|cx| {
        while receiver.poll_recv(cx).is_ready() {}
        timer.poll(cx)
    })
    .await;
    assert_eq!(start.elapsed(), LONG);
}

/// As where a task's waker owns the task, and that a future with a timer.
#[test]
fn a_timer_may_go_with_the_waker_of_another() {
    struct Owner(#[expect(dead_code, reason = "it is dropped")] std::sync::Mutex<Timer>);
    impl std::task::Wake for Owner {
        fn wake(self: std::sync::Arc<Self>) {}
    }
    let owned = || {
        let mut timer = Timer::at(Instant::now() + LONG).unwrap();
        let owner = std::sync::Arc::new(Owner(Timer::at(Instant::now() + LONG).unwrap().into()));
        assert!(timer.poll(&mut Context::from_waker(&owner.into())).is_pending());
        timer
    };
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // More than are kept; and those that are kept go when the next runtime's are.
        runtime.block_on(async { drop((0..2 * KEPT).map(|_| owned()).collect::<Vec<_>>()) });
    }
}

#[test]
fn the_timers_of_one_runtime_are_not_used_in_another() {
    for _ in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let start = Instant::now();
            assert!(fires(start + SHORT).await >= start + SHORT);
            assert_eq!(kept(), 1);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_was_dropped_does_not_move_a_paused_clock() {
    for advance in [Duration::ZERO, Duration::from_secs(86_400)] {
        tokio::time::advance(advance).await;
        let start = Instant::now();
        drop(arm(start + Duration::from_secs(10)).await);
        assert_eq!(kept(), 0);
        // Waiting for another thread, with no timer left, the clock stands still.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || sender.send(()));
        receiver.await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

#[test]
fn without_a_runtime_or_its_timer_it_is_a_typed_error() {
    assert!(Timer::at(Instant::now()).is_err());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let message = runtime.block_on(async { Timer::at(Instant::now()).unwrap_err().to_string() });
    assert!(message.contains("enable_time"), "{message}");
}
