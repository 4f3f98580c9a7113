use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use redis::{Script, ScriptInvocation};

use super::{Redis, Value, codec};
use crate::answer::{AnswerStore, Forgotten, NewAnswer, REMEMBERED, SLACK, StoredAnswer};
use crate::error::StoreError;
use crate::failure::Failure;
use crate::key::ScopedKey;
use crate::stored;
use crate::time;

impl AnswerStore for Redis {
    async fn put(&self, answer: &NewAnswer) -> Result<bool, StoreError> {
        self.inner.limits.answer(answer)?;
        let key = answer.key.key().as_bytes();
        let sum = stored::answer_sum(key, &answer.body).to_le_bytes();
        let mut script = self.of_scope(&self.inner.scripts.put, answer.key.scope());
        script.arg(key).arg(time::micros(answer.age)).arg(time::micros(answer.keep));
        let asked = answer.asked.map_or(i64::MAX, time::from_system);
        script.arg([&sum, &answer.body[..]].concat()).arg(SLACK).arg(asked);
        let put = self.invoke("put", &script).await?;
        Ok(put.first().and_then(Option::as_deref) == Some(b"1"))
    }

    async fn get(&self, key: &ScopedKey) -> Result<Option<StoredAnswer>, StoreError> {
        let mut script = self.of_scope(&self.inner.scripts.get, key.scope());
        script.arg(key.key());
        let answer = self.invoke("get", &script).await?;
        read(key, &answer).map_err(|failure| failure.into_error("redis", "get"))
    }

    async fn clock(&self) -> Result<SystemTime, StoreError> {
        // A get of nothing: it says what time it is.
        let mut script = self.of_scope(&self.inner.scripts.get, "");
        script.arg("");
        let answer = self.invoke("clock", &script).await?;
        let now = codec::number(answer.first().and_then(Option::as_deref));
        now.map(time::to_system).map_err(|failure| failure.into_error("redis", "clock"))
    }

    async fn forget(&self, what: &Forgotten, age: Duration) -> Result<(), StoreError> {
        self.inner.limits.forgotten(what)?;
        let (scope, key, remembered) = match what {
            Forgotten::Key(key) => (key.scope(), key.key(), REMEMBERED),
            Forgotten::Scope(scope) => (&**scope, "", Duration::MAX),
        };
        let mut script = self.of_scope(&self.inner.scripts.forget, scope);
        script.arg(key).arg(time::micros(age)).arg(time::micros(remembered));
        self.invoke("forget", &script).await?;
        Ok(())
    }

    async fn trim(&self, scope: &str, bytes: u64, max: u32) -> Result<u64, StoreError> {
        self.inner.limits.scope("trim", scope)?;
        let mut script = self.of_scope(&self.inner.scripts.trim, scope);
        script.arg(bytes).arg(max);
        let trimmed = self.invoke("trim", &script).await?;
        let trimmed = codec::number(trimmed.first().and_then(Option::as_deref));
        trimmed.map_err(|failure| failure.into_error("redis", "trim"))
    }
}

impl Redis {
    /// The four keys of a scope, with a tag of their own: its digits.
    fn of_scope<'a>(&self, script: &'a Script, scope: &str) -> ScriptInvocation<'a> {
        let mut tag = format!("{}:answers:{{", self.inner.prefix);
        for byte in stored::scope(scope) {
            let _ = write!(tag, "{byte:02x}");
        }
        let mut script = script.key(format!("{tag}}}:rows"));
        for name in ["births", "ends", "bytes"] {
            script.key(format!("{tag}}}:{name}"));
        }
        script
    }
}

fn read(key: &ScopedKey, answer: &[Value]) -> Result<Option<StoredAnswer>, Failure> {
    let field = |index: usize| answer.get(index).and_then(Option::as_deref);
    let now = codec::number(field(0))?;
    let Some(born) = field(1) else { return Ok(None) };
    let damaged = || Failure::damaged("the answer");
    let (sum, body) = field(2).and_then(<[u8]>::split_first_chunk::<8>).ok_or_else(damaged)?;
    if stored::answer_sum(key.key().as_bytes(), body).to_le_bytes() != *sum {
        return Err(damaged());
    }
    let (born, now) = (time::to_system(codec::number(Some(born))?), time::to_system(now));
    Ok(Some(StoredAnswer { body: body.to_vec().into(), born, now }))
}
