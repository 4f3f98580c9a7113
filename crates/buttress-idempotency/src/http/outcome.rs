use http::StatusCode;

use crate::outcome::Outcome;

/// Which responses are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preset {
    HttpDefault,
    StripeV1,
    SuccessOnly,
}

impl Preset {
    pub(super) fn of(self, status: StatusCode) -> Outcome {
        let success = status.is_success() || status.is_redirection();
        match (self, status.as_u16()) {
            (Self::StripeV1, _) => Outcome::Definitive,
            (Self::SuccessOnly, _) if success => Outcome::Definitive,
            (Self::SuccessOnly, _) | (Self::HttpDefault, 408 | 409 | 425 | 429) => Outcome::NotExecuted,
            (Self::HttpDefault, 502..=504) => Outcome::Unknown,
            (Self::HttpDefault, _) => Outcome::Definitive,
        }
    }

    pub(super) fn of_error(self) -> Outcome {
        match self {
            Self::SuccessOnly => Outcome::NotExecuted,
            Self::HttpDefault | Self::StripeV1 => Outcome::Unknown,
        }
    }
}
