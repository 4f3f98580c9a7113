//! What the server runs, each as a whole.
//!
//! A server that is full refuses the first command that needs room, and none after one that was carried out: so what needs
//! room comes first. Times are microseconds, which a double holds exactly until 2255; Lua would print them with an exponent, hence `int`.

mod answers;
mod claims;
mod runs;

use redis::aio::ConnectionManager;
use redis::{RedisResult, Script};

macro_rules! script {
    ($($part:expr),+) => {
        concat!(
            "local t = redis.call('TIME') ",
            "local now = tonumber(t[1]) * 1000000 + tonumber(t[2]) ",
            "local function int(n) return string.format('%.0f', n) end ",
            $($part),+
        )
    };
}
use script;

/// All scripts, with their hashes.
pub(super) struct Scripts {
    pub(super) claim: Script,
    pub(super) renew: Script,
    pub(super) complete: Script,
    pub(super) release: Script,
    pub(super) look: Script,
    pub(super) create_run: Script,
    pub(super) acquire_runs: Script,
    pub(super) append: Script,
    pub(super) renew_run: Script,
    pub(super) control: Script,
    pub(super) load: Script,
    pub(super) peek: Script,
    pub(super) list: Script,
    pub(super) prune: Script,
    pub(super) put: Script,
    pub(super) get: Script,
    pub(super) forget: Script,
    pub(super) trim: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            claim: Script::new(claims::CLAIM),
            renew: Script::new(claims::RENEW),
            complete: Script::new(claims::COMPLETE),
            release: Script::new(claims::RELEASE),
            look: Script::new(claims::LOOK),
            create_run: Script::new(runs::CREATE),
            acquire_runs: Script::new(runs::ACQUIRE),
            append: Script::new(runs::APPEND),
            renew_run: Script::new(runs::RENEW),
            control: Script::new(runs::CONTROL),
            load: Script::new(runs::LOAD),
            peek: Script::new(runs::PEEK),
            list: Script::new(runs::LIST),
            prune: Script::new(runs::PRUNE),
            put: Script::new(answers::PUT),
            get: Script::new(answers::GET),
            forget: Script::new(answers::FORGET),
            trim: Script::new(answers::TRIM),
        }
    }

    /// Has the server know them all, so that no verb takes a second round trip for it.
    pub(super) async fn load(connection: &mut ConnectionManager) -> RedisResult<()> {
        let mut loading = redis::pipe();
        for script in [
            claims::CLAIM,
            claims::RENEW,
            claims::COMPLETE,
            claims::RELEASE,
            claims::LOOK,
            runs::CREATE,
            runs::ACQUIRE,
            runs::APPEND,
            runs::RENEW,
            runs::CONTROL,
            runs::LOAD,
            runs::PEEK,
            runs::LIST,
            runs::PRUNE,
            answers::PUT,
            answers::GET,
            answers::FORGET,
            answers::TRIM,
        ] {
            loading.cmd("SCRIPT").arg("LOAD").arg(script).ignore();
        }
        loading.query_async(connection).await
    }
}
