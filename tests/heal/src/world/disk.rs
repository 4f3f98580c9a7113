use std::fs;
use std::io::{self, ErrorKind, Write};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::time::{Duration, sleep};
use tower::service_fn;

use super::World;
use crate::{BoxError, Client};

/// The size of the disk, of which records take a small part.
const SIZE: &str = "size=1m";
const RECORD: usize = 4096;
/// So many are kept.
const RECORDS: u64 = 8;
/// So often the disk is filled up, at a distance in which a client writes once or more.
const FILLINGS: usize = 3;
const BETWEEN_FILLINGS: Duration = Duration::from_millis(15);

/// A small disk that a client writes records to, beside the cache of another program.
#[derive(Debug)]
pub struct Disk(Arc<Mounted>);

#[derive(Debug)]
struct Mounted {
    folder: TempDir,
    written: AtomicU64,
}

impl Disk {
    /// Mounts it.
    ///
    /// # Panics
    ///
    /// If this may not be done here.
    pub fn mount() -> Self {
        let folder = TempDir::new().expect("there is a place for temporary files");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(folder.path()).status();
        assert!(mounted.is_ok_and(|status| status.success()), "a tmpfs can be mounted");
        for name in ["records", "cache"] {
            fs::create_dir(folder.path().join(name)).expect("there is room");
        }
        Self(Arc::new(Mounted { folder, written: AtomicU64::new(0) }))
    }

    /// Empties the cache, and nothing else.
    fn clear_cache(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.0.folder.path().join("cache"))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }
}

#[async_trait]
impl World for Disk {
    async fn client(&self, _: usize) -> Result<Client, BoxError> {
        let disk = Arc::clone(&self.0);
        Ok(Client::new(service_fn(move |()| std::future::ready(disk.write().map_err(BoxError::from)))))
    }

    async fn inject(&self) {
        let ballast = self.0.folder.path().join("cache").join("ballast");
        let mut ballast = fs::File::create(ballast).expect("the cache is there");
        // A record may be there for a moment beside the one that it takes the place of: what that leaves is filled, too.
        for _ in 0..FILLINGS {
            fill(&mut ballast);
            sleep(BETWEEN_FILLINGS).await;
        }
    }

    async fn mend(&self) {
        self.clear_cache().expect("the cache is there");
    }

    async fn restart(&self) {}

    async fn cure(&self) -> Result<(), BoxError> {
        Ok(self.clear_cache()?)
    }
}

impl Mounted {
    /// Writes a record and removes an old one, in this order: what cannot be written makes no room either. It is memory, and
    /// blocks nobody.
    fn write(&self) -> io::Result<usize> {
        let number = self.written.fetch_add(1, Relaxed);
        let file = |number: u64| self.folder.path().join("records").join(number.to_string());
        fs::write(file(number), [0; RECORD]).inspect_err(|_| drop(fs::remove_file(file(number))))?;
        if let Some(old) = number.checked_sub(RECORDS) {
            // There is none if it could not be written.
            let _ = fs::remove_file(file(old));
        }
        Ok(0)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}

/// Writes until there is no more room.
fn fill(ballast: &mut fs::File) {
    loop {
        match ballast.write(&[0; RECORD]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return,
            Err(error) => panic!("the disk cannot be filled: {error}"),
        }
    }
}
