use super::*;
use crate::recall::ByKey;

type Rules = ByKey<fn(&String) -> Option<std::borrow::Cow<'_, str>>, u32>;

/// A store's clock that jumps: what was read of it once is the least that is believed.
#[tokio::test(start_paused = true)]
async fn age_does_not_run_backwards_whatever_the_stores_clock_does() {
    let key: fn(&String) -> Option<std::borrow::Cow<'_, str>> = |key| Some(key.as_str().into());
    let rules: Rules = ByKey::new(key);
    let behind = Behind::new(Backing::new(buttress_store::Memory::new(), "").unwrap(), rules);
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let age = |born, now| behind.age(at(born), at(now)).map(|age| age.as_secs());
    assert_eq!(age(1000, 1010), Some(10));
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(age(1000, 1003), Some(15), "set back by twelve seconds");
    assert_eq!(age(1000, 999), None, "and by more: nobody knows");
    assert_eq!(age(1000, 5000), Some(4000), "set forward");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(age(1000, 1021), Some(4001), "and back again");
}

#[test]
fn what_has_no_known_age_is_not_fresh_and_no_age_overflows() {
    let lifetime = |age, fresh, while_revalidate| Lifetime {
        age,
        fresh,
        while_revalidate,
        if_error: Duration::from_secs(100),
    };
    let (one, two) = (Duration::from_secs(1), Duration::from_secs(2));
    assert_eq!(aged(lifetime(one, two, one), None).age, Duration::from_secs(3));
    assert_eq!(aged(lifetime(one, Duration::MAX, one), None).age, Duration::MAX);
    assert_eq!(aged(lifetime(one, two, one), Some(Duration::MAX)).age, Duration::MAX);
    assert_eq!(aged(lifetime(one, two, one), Some(two)).age, Duration::from_secs(3));
}
