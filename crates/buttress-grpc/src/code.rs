use std::fmt;

use http::{HeaderValue, StatusCode};

/// A gRPC status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are gRPC's own, and `Grpc` says what each means here")]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// In the order of their numbers.
const CODES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "CANCELLED"),
    (Code::Unknown, "UNKNOWN"),
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

impl Code {
    /// The code of this number, if there is one.
    pub fn from_number(number: u64) -> Option<Self> {
        CODES.get(usize::try_from(number).ok()?).map(|(code, _)| *code)
    }

    /// The code of this name, as specifications write it: `UNAVAILABLE`.
    pub fn from_name(name: &str) -> Option<Self> {
        CODES.iter().find(|(_, of)| *of == name).map(|(code, _)| *code)
    }

    /// Its name, as specifications write it.
    pub fn as_str(self) -> &'static str {
        CODES[self as usize].1
    }

    /// What a `grpc-status` says; [`Unknown`](Code::Unknown) if it is no code.
    pub fn from_header(value: &HeaderValue) -> Self {
        let code = match *value.as_bytes() {
            [digit @ b'0'..=b'9'] => Self::from_number(u64::from(digit - b'0')),
            [b'1', digit @ b'0'..=b'9'] => Self::from_number(u64::from(digit - b'0') + 10),
            _ => None,
        };
        code.unwrap_or(Self::Unknown)
    }

    /// What an HTTP status without a `grpc-status` means (gRPC, `http-grpc-status-mapping.md`).
    pub fn from_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of codes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Codes(u32);

impl Codes {
    pub(crate) fn contains(self, code: Code) -> bool {
        self.0 & 1 << code as u32 != 0
    }
}

impl FromIterator<Code> for Codes {
    fn from_iter<I: IntoIterator<Item = Code>>(codes: I) -> Self {
        Self(codes.into_iter().fold(0, |set, code| set | 1 << code as u32))
    }
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(CODES.iter().map(|(code, _)| code).filter(|code| self.contains(**code)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_headers_name_the_same_codes() {
        for (number, (code, name)) in CODES.iter().enumerate() {
            assert_eq!(*code as usize, number);
            assert_eq!(Code::from_number(number as u64), Some(*code));
            assert_eq!((Code::from_name(name), code.to_string().as_str()), (Some(*code), *name));
            assert_eq!(Code::from_header(&HeaderValue::from(number as u64)), *code);
        }
        for odd in ["17", "-1", "", "014", "0x0", " 0", "99999999999999999999"] {
            assert_eq!(Code::from_header(&HeaderValue::from_static(odd)), Code::Unknown, "{odd:?}");
        }
        assert_eq!((Code::from_number(17), Code::from_name("unavailable")), (None, None));
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let codes = Codes::from_iter([Code::Unavailable, Code::Ok, Code::Unauthenticated]);
        assert!(
            codes.contains(Code::Ok)
                && codes.contains(Code::Unauthenticated)
                && !codes.contains(Code::Aborted)
        );
        assert_eq!(format!("{codes:?}"), "{Ok, Unavailable, Unauthenticated}");
    }
}
