//! A run that continues another begins with what that one has recorded.

use buttress_store::{Entry, Fault, JournalStore, NewEntry, Next, RunId, StoreError};

use crate::drive::{Driver, Refused};
use crate::entry;

impl<S: JournalStore> Driver<S> {
    /// Brings over the entries with which a forked run begins, those that are not there yet.
    pub(crate) async fn copy(
        &mut self,
        entries: &mut Vec<Entry>,
        fork: &entry::Fork,
    ) -> Result<Result<(), StoreError>, Refused> {
        const CHUNK: usize = 100;
        const CHUNK_BYTES: usize = 1 << 20;
        let wanted = usize::try_from(fork.entries).unwrap_or(usize::MAX);
        if entries.len() >= wanted {
            return Ok(Ok(()));
        }
        let lacks =
            || StoreError::new("journal", "load", Fault::Internal).detail("it lacks what is to be continued");
        let Ok(from) = RunId::try_new(fork.from.as_str()) else { return Ok(Err(lacks())) };
        let source = match self.load(&from).await {
            Ok((source, _)) => source.entries.into_iter(),
            Err(error) => return Ok(Err(error)),
        };
        let kept: Vec<NewEntry> = source.filter(|entry| fork.keeps(entry)).map(|entry| entry.entry).collect();
        while entries.len() < wanted {
            let rest = kept.get(entries.len()..).unwrap_or_default();
            let mut bytes = 0;
            let fits = rest.iter().take(CHUNK).take_while(|entry| {
                bytes += entry.payload.len();
                bytes <= CHUNK_BYTES
            });
            let chunk = rest.iter().take(fits.count().max(1)).cloned().collect::<Vec<_>>();
            if chunk.is_empty() {
                return Ok(Err(lacks()));
            }
            let at = self.append(chunk.clone(), Next::Go).await?.at;
            let first = entries.len() as u64;
            entries.extend((first..).zip(chunk).map(|(seq, entry)| Entry { seq, at, entry }));
        }
        Ok(Ok(()))
    }
}
