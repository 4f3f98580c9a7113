//! Asks an origin for what it reads, and keeps the answers: `asker PLACE ORIGIN SECONDS`.

use std::time::Duration;

use buttress_core::BoxError;
use degrade_tests::{Asker, backing};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [place, origin, ttl] = &arguments[..] else { return Err("asker PLACE ORIGIN SECONDS".into()) };
    let asker = Asker::new(origin, backing(place).await?, Duration::from_secs(ttl.parse()?));
    println!("ready");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("ask", key) => match asker.ask(key).await {
                Ok(answer) => {
                    let age = answer.age().map_or("-".to_owned(), |age| age.as_secs().to_string());
                    println!("{} {age} {}", answer.level().as_u8(), answer.get_ref());
                }
                Err(error) => println!("4 - {error}"),
            },
            ("invalidate", key) => println!("{}", asker.memory.invalidate(key)),
            ("clear", _) => {
                asker.memory.clear();
                println!("cleared");
            }
            ("written", _) => {
                asker.written().await;
                println!("written");
            }
            // Until it is killed.
            ("work", from) => {
                let from: usize = from.parse()?;
                for key in from.. {
                    asker.ask(&format!("key {key}")).await?;
                    println!("asked {key}");
                }
            }
            _ => return Err(format!("nobody knows `{line}`").into()),
        }
    }
    Ok(())
}
