use super::*;
use buttress_core::Effect;

const ALL: [Code; 17] = [
    Code::Ok,
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

fn verdict(status: u16, headers: &[(&'static str, &'static str)]) -> Verdict {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    Grpc::new().classify(Ok(&response.body(()).unwrap()))
}

#[test]
fn every_code_has_its_verdict() {
    let of = |wanted: fn(&Verdict) -> bool| {
        let codes = ALL.into_iter().filter(|code| wanted(&Grpc::new().verdict(*code)));
        codes.map(|code| code as u8).collect::<Vec<_>>()
    };
    let kind = |verdict: &Verdict| match verdict {
        Verdict::Failure { kind, effect: Effect::Unknown, hint: Hint::None } => Some(*kind),
        _ => None,
    };
    assert_eq!(of(|verdict| *verdict == Verdict::Success), [0]);
    assert_eq!(of(|verdict| *verdict == Verdict::Ignored), [1]);
    assert_eq!(of(|verdict| *verdict == Verdict::Rejected), [3, 5, 6, 7, 9, 10, 11, 12, 16]);
    for (expected, codes) in [
        (Kind::Transient, &[14][..]),
        (Kind::Throttled, &[8]),
        (Kind::Timeout, &[4]),
        (Kind::Permanent, &[2, 13, 15]),
    ] {
        let found = ALL.into_iter().filter(|code| kind(&Grpc::new().verdict(*code)) == Some(expected));
        assert_eq!(found.map(|code| code as u8).collect::<Vec<_>>(), codes, "{expected:?}");
    }
}

#[test]
fn a_code_of_ones_own_counts_and_still_gets_the_hint() {
    let transient = Verdict::failure(Kind::Transient);
    let grpc = Grpc::new().code(Code::Aborted, Verdict::Success).code(Code::Aborted, transient);
    let aborted = Response::builder().header("grpc-status", "10").header("grpc-retry-pushback-ms", "7");
    let hint = Hint::RetryAfter(Duration::from_millis(7));
    assert_eq!(grpc.classify(Ok(&aborted.body(()).unwrap())), transient.with_hint(hint));
}

/// Bridges: an HTTP 503 of a load balancer was OK to a classifier of gRPC.
#[test]
fn an_http_error_without_a_status_is_what_grpc_maps_it_to() {
    let transient = Verdict::failure(Kind::Transient);
    let permanent = Verdict::failure(Kind::Permanent);
    for (status, expected) in [
        (400, permanent),
        (401, Verdict::Rejected),
        (403, Verdict::Rejected),
        (404, Verdict::Rejected),
        (429, Verdict::failure(Kind::Throttled).not_sent()),
        (500, permanent),
        (502, transient),
        (503, transient),
        (504, transient),
        (301, permanent),
        (204, permanent),
        (200, Verdict::Success),
    ] {
        assert_eq!(verdict(status, &[]), expected, "{status}");
    }
    assert_eq!(verdict(503, &[("grpc-status", "5")]), Verdict::Rejected, "a status counts first");
    let hint = |headers: &[_]| verdict(503, headers).hint();
    assert_eq!(hint(&[("retry-after", "3")]), Hint::RetryAfter(Duration::from_secs(3)));
    assert_eq!(hint(&[("retry-after", "3"), ("grpc-retry-pushback-ms", "-1")]), Hint::DoNotRetry);
}

///
#[test]
fn pushback_is_exact_and_anything_odd_means_stop() {
    let hint = |values: &[&'static str]| {
        let pushback = values.iter().map(|value| ("grpc-retry-pushback-ms", *value));
        verdict(200, &[("grpc-status", "14")].into_iter().chain(pushback).collect::<Vec<_>>()).hint()
    };
    let millis = |millis| Hint::RetryAfter(Duration::from_millis(millis));
    assert_eq!(hint(&[]), Hint::None);
    assert_eq!((hint(&["5000"]), hint(&["0"])), (millis(5000), millis(0)));
    assert_eq!(hint(&["2147483647"]), Hint::RetryAfter(LONGEST_HINT), "no more than a day");
    for odd in ["-1", "", "soon", "1.5", "2147483648", "-2147483649", "99999999999999999999"] {
        assert_eq!(hint(&[odd]), Hint::DoNotRetry, "{odd:?}");
    }
    assert_eq!(hint(&["5", "5"]), Hint::DoNotRetry, "several");
    assert_eq!(verdict(200, &[("grpc-status", "0"), ("grpc-retry-pushback-ms", "5")]), Verdict::Success);
}

#[test]
fn what_was_noted_of_the_body_counts_before_the_head() {
    let noted = |end| {
        let mut response = Response::new(());
        response.extensions_mut().insert(Noted { end: Some(end), ..Noted::default() });
        Grpc::new().classify(Ok(&response))
    };
    assert_eq!(noted(End::Status { code: Code::NotFound, hint: Hint::None }), Verdict::Rejected);
    assert_eq!(noted(End::Truncated), Verdict::failure(Kind::Transient));
    let failed = Verdict::failure(Kind::Timeout);
    assert_eq!(noted(End::Failed(failed)), failed);
}

#[test]
fn a_request_is_keyed_by_its_authority() {
    let request = Request::post("http://greeter:50051/helloworld.Greeter/SayHello").body(()).unwrap();
    assert_eq!(Grpc::new().key(&request).unwrap(), "greeter:50051");
}
