use std::io;
use std::task::Poll;

use buttress_core::Observer;
use buttress_testkit::clock::poll_once;
use buttress_testkit::contract::{self, Subject};
use tokio_test::{assert_pending, assert_ready};
use tower::Layer;
use tower_test::mock;

use super::support::{BREAK_FIRST, Warm};
use crate::generations::Generations;
use crate::{Build, Factory, Heal, MakeServices, SwapSettings};

/// Supervises the service that it is given; what is built is always that.
struct Supervised;

impl Layer<Subject> for Supervised {
    type Service = Heal<Subject>;

    fn layer(&self, inner: Subject) -> Heal<Subject> {
        let factory = move |_: Build| std::future::ready(Ok::<_, io::Error>(inner.clone()));
        started(factory).1
    }
}

fn started<F: Factory>(factory: F) -> (Generations<F>, Heal<F::Service>) {
    let (mut generations, heal) =
        Generations::new("db".into(), factory, SwapSettings::default(), Observer::default());
    let first = poll_once(&mut Box::pin(generations.first()));
    assert!(matches!(first, Poll::Ready(Ok(1))));
    (generations, heal)
}

#[tokio::test(start_paused = true)]
async fn a_supervised_service_keeps_the_contract_of_towers_services() {
    contract::check(|| Supervised).await;
}

/// One that cannot be shared between threads is none the worse for being supervised, and one that can be still can.
#[tokio::test(start_paused = true)]
async fn a_supervised_service_is_sent_and_shared_as_the_one_inside() {
    fn is_sent<T: Send + Clone + 'static>(_: &T) {}
    fn is_shared<T: Sync>(_: &T) {}
    let echo = || tower::service_fn(async |n: u64| Ok::<_, io::Error>(n));
    let (_, heal) = started(move |_: Build| std::future::ready(Ok::<_, io::Error>(echo())));
    is_shared(&heal);
    let boxed =
        move |_: Build| std::future::ready(Ok::<_, io::Error>(tower::util::BoxCloneService::new(echo())));
    let (_generations, heal) = started(boxed);
    is_sent(&heal);
    assert_eq!(tower::ServiceExt::oneshot(heal, 7).await.unwrap(), 7);
}

/// `tower_test`'s mocks, and a swap between readiness and the call of one.
#[tokio::test(start_paused = true)]
async fn backpressure_of_the_service_inside_passes_through_until_it_is_replaced() {
    let (first, mut first_handle) = mock::pair::<u64, u64>();
    let (second, mut second_handle) = mock::pair::<u64, u64>();
    let both = [first, second];
    let factory = move |build: Build| {
        std::future::ready(Ok::<_, io::Error>(both[(build.generation - 1) as usize].clone()))
    };
    let (mut generations, heal) = started(factory);
    let mut service = mock::Spawn::new(heal);
    first_handle.allow(0);
    assert_pending!(service.poll_ready());
    first_handle.allow(1);
    assert_ready!(service.poll_ready()).unwrap();
    let mut call = tokio_test::task::spawn(service.call(7));
    assert_pending!(call.poll());
    let (request, answer) = assert_ready!(poll_once(&mut Box::pin(first_handle.next_request()))).unwrap();
    assert_eq!(request, 7);
    first_handle.allow(0);
    assert_pending!(service.poll_ready());
    second_handle.allow(1);
    generations.swap(BREAK_FIRST, 0, &Warm).await.unwrap();
    assert!(service.is_woken());
    assert_ready!(service.poll_ready()).unwrap();
    answer.send_response(8);
    assert_eq!(assert_ready!(call.poll()).unwrap(), 8, "on the old one, which drains");
    let mut call = tokio_test::task::spawn(service.call(9));
    assert_pending!(call.poll());
    let (request, answer) = assert_ready!(poll_once(&mut Box::pin(second_handle.next_request()))).unwrap();
    answer.send_error("mocked");
    assert_eq!((request, assert_ready!(call.poll()).unwrap_err().to_string()), (9, "mocked".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_make_service_is_a_factory_with_targets_of_its_own() {
    let make = tower::service_fn(|host: &'static str| async move {
        let client = tower::service_fn(move |_: u64| std::future::ready(Ok::<_, io::Error>(host)));
        Ok::<_, io::Error>(client)
    });
    let factory = MakeServices::new(make, ["eu", "us"]);
    let (mut generations, heal) =
        Generations::new("db".into(), factory, SwapSettings::default(), Observer::default());
    generations.first().await.unwrap();
    assert_eq!(tower::ServiceExt::oneshot(heal.clone(), 0).await.unwrap(), "eu");
    generations.swap(BREAK_FIRST, 1, &Warm).await.unwrap();
    assert_eq!(tower::ServiceExt::oneshot(heal, 0).await.unwrap(), "us");
    let error = generations.candidate(2).await.err().unwrap();
    assert_eq!(error.to_string(), "there is no target 2: `MakeServices` was given 2");
}
