//! scratch
use std::time::{Duration};
use buttress_core::*;
use buttress_retry::Budget;
use storm_tests::{contention::*, herd::*, overload::*, server::Trouble, stack::Strategy};
#[allow(clippy::disallowed_methods)]
fn main() {
    let t = std::time::Instant::now();
    for w in Wait::ALL { let m = mean(100, w, 100); println!("{w}: {m:?} {:?}", t.elapsed()); }
    let b = |j| Backoff::exponential(Duration::from_secs(1), 2.0, Duration::from_secs(32)).unwrap().jitter(j);
    for j in [Jitter::None, Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
      for d in [10, 30] {
        let h = Herd::after(Duration::from_secs(d)).run(&b(j));
        println!("{j:?} {d} in {:.2} after {:.2} 1s {:.2} served {:?}  {:?}", h.peak_during(), h.peak_after(), h.peak_second_after(), h.all_served, t.elapsed());
    }}
    let full = Backoff::exponential(Duration::from_millis(100), 2.0, Duration::from_secs(20)).unwrap();
    let s = [Strategy::no_retry(), Strategy::three_retries("3 full", &full), Strategy::without_budget(), Strategy::default_policy(), Strategy::default_policy().and_breaker(), Strategy::no_retry().and_breaker(),
      Strategy::with_budget("aws", Budget::aws_2_1), Strategy::with_budget("grpc", || Budget::grpc_throttle(10, 0.1).unwrap())];
    for trouble in [Trouble::Reject, Trouble::Stall, Trouble::Brownout] { for s in &s {
        let o = Overload::of(trouble).run(s);
        println!("{trouble:?} {:30} peak {:.2} amp {:.3} rec {:?} lost {:.1} wasted {:.3} {:?}", s.name(), o.peak(), o.amplification(), o.recovery(), o.lost(), o.wasted, t.elapsed());
    }}
    for load in [0.8,0.85,0.9] { for s in [Strategy::no_retry(), Strategy::default_policy(), Strategy::default_policy().and_breaker()] {
        let o = Overload::of(Trouble::Stall).load(load).run(&s);
        println!("load {load} {:30} peak {:.2} amp {:.3} rec {:?} lost {:.1} wasted {:.3} {:?}", s.name(), o.peak(), o.amplification(), o.recovery(), o.lost(), o.wasted, t.elapsed());
    }}
    for n in [10,100,1000] { for s in [Strategy::no_retry(), Strategy::default_policy(), Strategy::default_policy().and_breaker()] {
      for trouble in [Trouble::Reject, Trouble::Stall] {
        let o = Overload::of(trouble).processes(n).run(&s);
        println!("n {n} {trouble:?} {:30} peak {:.2} amp {:.3} rec {:?} lost {:.1} wasted {:.3} {:?}", s.name(), o.peak(), o.amplification(), o.recovery(), o.lost(), o.wasted, t.elapsed());
    }}}
}
