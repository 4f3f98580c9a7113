//! Control groups: `/proc/self/cgroup`, `/proc/self/mountinfo` and the files of versions 1 and 2.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use buttress_core::BoxError;

use super::usage::{Usage, read};

/// The control groups of this process that account for memory, from its own up to the one that can be seen last.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    version: Version,
    groups: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Hierarchy {
    /// `None` if there is none.
    pub(super) fn of_process(root: &Path) -> Result<Option<Self>, BoxError> {
        let memberships = root.join("proc/self/cgroup");
        if !memberships.exists() {
            // A kernel without control groups.
            return Ok(None);
        }
        let memberships = read(&memberships)?;
        let mounts = read(&root.join("proc/self/mountinfo"))?;
        Ok(Self::find(root, &memberships, &mounts))
    }

    /// A machine may have both versions at once (systemd's hybrid mode): memory is then accounted for by version 1, unless
    /// that is not mounted here.
    fn find(root: &Path, memberships: &str, mounts: &str) -> Option<Self> {
        [Version::V1, Version::V2].into_iter().find_map(|version| {
            let path = memberships.lines().find_map(|line| version.member(line))?;
            let mounts = mounts.lines().filter_map(Mount::parse).filter(|mount| version.is_at(mount));
            // There may be several, such as that of the machine in a container that watches it.
            let mut hierarchies =
                mounts.map(|mount| Self { version, groups: mount.groups(root, Path::new(path)) });
            // The group at the top of version 2 has no figures; if the controller is not there, none has.
            let has_memory = |group: &PathBuf| group_file(root, group, version.usage()).exists();
            hierarchies.find(|hierarchy| hierarchy.groups.iter().any(has_memory))
        })
    }

    pub(super) fn fullest(&self, root: &Path, machine: u64) -> Option<Usage> {
        let with_limits = self.groups.iter().filter_map(|group| self.version.usage_of(root, group, machine));
        with_limits.reduce(|fullest, usage| if usage.is_fuller_than(&fullest) { usage } else { fullest })
    }
}

impl Version {
    /// The path in a line of `/proc/self/cgroup` (`hierarchy:controllers:path`) that is about memory.
    fn member(self, line: &str) -> Option<&str> {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = match self {
            Self::V1 => controllers.split(',').any(|controller| controller == "memory"),
            Self::V2 => hierarchy == "0" && controllers.is_empty(),
        };
        is_it.then_some(path)
    }

    fn is_at(self, mount: &Mount<'_>) -> bool {
        match self {
            Self::V1 => mount.kind == "cgroup" && mount.options.split(',').any(|option| option == "memory"),
            Self::V2 => mount.kind == "cgroup2",
        }
    }

    const fn usage(self) -> &'static str {
        match self {
            Self::V1 => "memory.usage_in_bytes",
            Self::V2 => "memory.current",
        }
    }

    /// Above the first of version 2 processes are killed, and above the second they are held up until they hardly move.
    const fn limits(self) -> &'static [&'static str] {
        match self {
            Self::V1 => &["memory.limit_in_bytes"],
            Self::V2 => &["memory.max", "memory.high"],
        }
    }

    /// What the kernel takes back by itself before it kills anybody: the pages of files.
    const fn reclaimable(self) -> &'static [&'static str] {
        match self {
            // With `total_`, as the usage is: those of the groups below are included.
            Self::V1 => &["total_inactive_file", "total_active_file"],
            Self::V2 => &["inactive_file", "active_file", "slab_reclaimable"],
        }
    }

    /// `None` if it has no limit (`max`; version 1 says so by a number that no machine has), or no figures.
    fn usage_of(self, root: &Path, group: &Path, machine: u64) -> Option<Usage> {
        let file = |name| fs::read_to_string(group_file(root, group, name)).ok();
        let limits = self.limits().iter().filter_map(|name| file(name)?.trim().parse::<u64>().ok());
        let limit = limits.min()?;
        let usage: u64 = file(self.usage())?.trim().parse().ok()?;
        let stat = file("memory.stat").unwrap_or_default();
        let freed = self.reclaimable().iter().filter_map(|name| counter(&stat, name)).sum();
        let used = usage.saturating_sub(freed);
        (limit < machine).then(|| Usage { used, limit, group: Some(group.to_path_buf()) })
    }
}

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
struct Mount<'a> {
    /// What of the file system is mounted there.
    root: PathBuf,
    at: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, at) = (unescaped(mount.next()?), unescaped(mount.next()?));
        let mut file_system = file_system.split(' ');
        let (kind, options) = (file_system.next()?, file_system.nth(1)?);
        Some(Self { root, at, kind, options })
    }

    /// The directories of a group and those above it, as far as they can be seen here.
    fn groups(&self, root: &Path, path: &Path) -> Vec<PathBuf> {
        // In a container the mount may begin at its own group, and the path may be one of the machine's, which says nothing here.
        let below = path.strip_prefix(&self.root).ok();
        let below = below.filter(|below| under(root, &self.at.join(below)).is_dir());
        // Without the slash that joining nothing leaves behind.
        let own: PathBuf = self.at.join(below.unwrap_or(Path::new(""))).components().collect();
        own.ancestors().take_while(|group| group.starts_with(&self.at)).map(Path::to_path_buf).collect()
    }
}

/// Spaces, tabs, line breaks and backslashes are in octal.
fn unescaped(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|octal| u8::from_str_radix(octal, 8).ok());
        match code {
            Some(code) => plain.extend([&*char::from(code).to_string(), &part[3..]]),
            None => plain.extend(["\\", part]),
        }
    }
    OsString::from(plain).into()
}

fn group_file(root: &Path, group: &Path, name: &str) -> PathBuf {
    under(root, group).join(name)
}

/// A path of this machine, below another root.
pub(super) fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The value of a line like `inactive_file 1249280`.
fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_spaces_is_read() {
        let mount = Mount::parse(r"41 31 0:38 /a\040b /c\134d\ rw - cgroup2 none rw").unwrap();
        assert_eq!((mount.root, mount.at), (PathBuf::from("/a b"), PathBuf::from(r"/c\d\")));
        assert!(Mount::parse("41 31 0:38 / /x rw").is_none() && Mount::parse("").is_none());
    }
}
