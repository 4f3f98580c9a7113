use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use buttress_core::{ConfigError, KeyBy, KeyOf, Plain};

use crate::fault::{Answer, Fault};
use crate::rule::{Field, Numbering, Rule};

/// What the rules of a protocol may ask for and do.
pub trait Protocol {
    /// Whether this rule can be followed; asked when a layer is built.
    ///
    /// # Errors
    ///
    /// If not: which of its fields is the reason.
    fn check(rule: &Rule) -> Result<(), ConfigError>;
}

/// How faults act on the requests and responses of a protocol: [`Plain`] for any, [`Http`](crate::Http) for HTTP and gRPC.
pub trait Inject<Req, Res>: Protocol {
    /// What the caller gets; differs from `Res` where bodies can be spoilt.
    type Response;

    /// A part of a request.
    fn field<'a>(&self, request: &'a Req, field: &Field) -> Option<Cow<'a, str>>;

    /// The response as it is.
    fn pass(&self, response: Res) -> Self::Response;

    /// A response that no server gave; `None` where [`Protocol::check`] lets no rule ask for it.
    fn respond(&self, answer: &Answer) -> Option<Self::Response>;

    /// The response, with what this fault does to its body; other faults do nothing to it. `name` is the layer's, for
    /// errors.
    fn spoil(&self, response: Res, fault: &Fault, name: &Arc<str>) -> Self::Response;
}

fn looks_at_fields(rule: &Rule) -> Result<(), ConfigError> {
    if let Some(condition) = rule.conditions.first() {
        let rule = "these requests have no such field; use `Http`, or `key_by` for a key of your own";
        return Err(ConfigError::new("condition", &condition.field, rule));
    }
    if rule.numbering != Numbering::Calls {
        let why = "these requests have no key; use `Http`, or `key_by` for a key of your own";
        return Err(ConfigError::new("numbering", rule.numbering, why));
    }
    Ok(())
}

fn spoils_bodies(rule: &Rule) -> Result<(), ConfigError> {
    match rule.fault {
        Fault::Truncate { .. } | Fault::SlowBody { .. } => {
            Err(ConfigError::new("fault", &rule.fault, "these responses have no body; use `Http`"))
        }
        _ => Ok(()),
    }
}

impl<C> Protocol for Plain<C> {
    fn check(rule: &Rule) -> Result<(), ConfigError> {
        if let Fault::Respond(answer) = &rule.fault {
            let why =
                "nobody can make such a response; use `Http`, or `respond_with` for responses of your own";
            return Err(ConfigError::new("fault", answer.code(), why));
        }
        looks_at_fields(rule).and_then(|()| spoils_bodies(rule))
    }
}

impl<C, Req, Res> Inject<Req, Res> for Plain<C> {
    type Response = Res;

    fn field<'a>(&self, _: &'a Req, _: &Field) -> Option<Cow<'a, str>> {
        None
    }

    fn pass(&self, response: Res) -> Res {
        response
    }

    fn respond(&self, _: &Answer) -> Option<Res> {
        None
    }

    fn spoil(&self, response: Res, _: &Fault, _: &Arc<str>) -> Res {
        response
    }
}

/// [`Field::Key`] is what the closure takes; everything else is the policy's.
impl<P: Protocol, F> Protocol for KeyBy<P, F> {
    fn check(rule: &Rule) -> Result<(), ConfigError> {
        let mut rest = rule.clone().numbered(Numbering::Calls);
        rest.conditions.retain(|condition| condition.field != Field::Key);
        P::check(&rest)
    }
}

impl<P, F, Req, Res> Inject<Req, Res> for KeyBy<P, F>
where
    P: Inject<Req, Res>,
    F: for<'a> Fn(&'a Req) -> Option<Cow<'a, str>>,
{
    type Response = P::Response;

    fn field<'a>(&self, request: &'a Req, field: &Field) -> Option<Cow<'a, str>> {
        match field {
            Field::Key => self.key(request),
            field => self.get_ref().field(request, field),
        }
    }

    fn pass(&self, response: Res) -> P::Response {
        self.get_ref().pass(response)
    }

    fn respond(&self, answer: &Answer) -> Option<P::Response> {
        self.get_ref().respond(answer)
    }

    fn spoil(&self, response: Res, fault: &Fault, name: &Arc<str>) -> P::Response {
        self.get_ref().spoil(response, fault, name)
    }
}

/// The same policy, with a closure that makes responses of one's own of an [`Answer`].
///
/// ```
/// use buttress_chaos::{Answer, ChaosLayer, Code, Config, Rule, respond_with};
/// use buttress_core::Plain;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let policy = respond_with(Plain::<()>::default(), |answer: &Answer| match answer.code() {
///     Code::Status(code) => *code,
///     _ => 0,
/// });
/// let layer = ChaosLayer::with_policy("db", Config::seeded(7).rule(Rule::status(53300).first(1)), policy)?;
/// let service = layer.layer(service_fn(|()| async { Ok::<_, std::io::Error>(0) }));
/// assert_eq!(service.clone().oneshot(()).await?, 53300);
/// assert_eq!(service.oneshot(()).await?, 0);
/// # Ok(())
/// # }
/// ```
pub fn respond_with<Res, P, F: Fn(&Answer) -> Res>(policy: P, respond: F) -> RespondWith<P, F> {
    RespondWith { policy, respond }
}

/// A policy whose answers come from a closure; see [`respond_with`].
#[derive(Clone, Copy)]
pub struct RespondWith<P, F> {
    policy: P,
    respond: F,
}

impl<P: fmt::Debug, F> fmt::Debug for RespondWith<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RespondWith").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl<P: Protocol, F> Protocol for RespondWith<P, F> {
    fn check(rule: &Rule) -> Result<(), ConfigError> {
        match &rule.fault {
            Fault::Respond(_) => P::check(&Rule { fault: Fault::Pass, ..rule.clone() }),
            _ => P::check(rule),
        }
    }
}

impl<P, F, Req, Res> Inject<Req, Res> for RespondWith<P, F>
where
    P: Inject<Req, Res>,
    F: Fn(&Answer) -> P::Response,
{
    type Response = P::Response;

    fn field<'a>(&self, request: &'a Req, field: &Field) -> Option<Cow<'a, str>> {
        self.policy.field(request, field)
    }

    fn pass(&self, response: Res) -> P::Response {
        self.policy.pass(response)
    }

    fn respond(&self, answer: &Answer) -> Option<P::Response> {
        Some((self.respond)(answer))
    }

    fn spoil(&self, response: Res, fault: &Fault, name: &Arc<str>) -> P::Response {
        self.policy.spoil(response, fault, name)
    }
}
