//! How much memory is used, and how much there is: what the kernel of Linux says in text files.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use buttress_core::BoxError;

use super::groups::Hierarchy;

/// What is used of what there is, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) used: u64,
    pub(super) limit: u64,
    /// Whose limit it is: a control group's directory, or nothing for the machine.
    pub(super) group: Option<PathBuf>,
}

/// "471.3 MiB of 512.0 MiB in control group /sys/fs/cgroup".
impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", MiB(self.used), MiB(self.limit))?;
        match &self.group {
            Some(group) => write!(f, " in control group {}", group.display()),
            None => f.write_str(" of the machine"),
        }
    }
}

/// Bytes as people read them.
pub(super) struct MiB(pub(super) u64);

impl fmt::Display for MiB {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB", self.0 as f64 / (1024.0 * 1024.0))
    }
}

impl Usage {
    /// Whether at least so many per cent are used.
    pub(super) fn reaches(&self, percent: u8) -> bool {
        u128::from(self.used) * 100 >= u128::from(self.limit) * u128::from(percent)
    }

    pub(super) fn is_fuller_than(&self, other: &Self) -> bool {
        u128::from(self.used) * u128::from(other.limit) > u128::from(other.used) * u128::from(self.limit)
    }

    /// Of the control group of this process, or of one above it, the one that is nearest to its limit; of the machine if
    /// none has a limit that is lower than what the machine has.
    ///
    /// `root` is `/`, but for tests.
    pub(super) fn of_surroundings(root: &Path) -> Result<Self, BoxError> {
        let machine = Self::of_machine(&read(&root.join("proc/meminfo"))?)?;
        let tightest = Hierarchy::of_process(root)?.and_then(|groups| groups.fullest(root, machine.limit));
        Ok(tightest.unwrap_or(machine))
    }

    /// From `/proc/meminfo`.
    fn of_machine(meminfo: &str) -> Result<Self, BoxError> {
        let limit = kib(meminfo, "MemTotal:").ok_or("/proc/meminfo has no MemTotal")?;
        let available = kib(meminfo, "MemAvailable:").ok_or("/proc/meminfo has no MemAvailable")?;
        Ok(Self { used: limit.saturating_sub(available), limit, group: None })
    }
}

/// What this process holds and could not give back without being swapped out: memory of its own and shared memory, what is
/// swapped out already included; mapped files are not.
pub(super) fn of_process(root: &Path) -> Result<u64, BoxError> {
    held(&read(&root.join("proc/self/status"))?)
        .ok_or_else(|| "/proc/self/status has neither RssAnon nor VmRSS".into())
}

/// From `/proc/self/status`.
fn held(status: &str) -> Option<u64> {
    let Some(anonymous) = kib(status, "RssAnon:") else {
        // Before Linux 4.5.
        return kib(status, "VmRSS:");
    };
    let more = ["RssShmem:", "VmSwap:"].into_iter().filter_map(|name| kib(status, name));
    Some(more.fold(anonymous, u64::saturating_add))
}

/// The value of a line like `VmRSS:    1768 kB`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let value: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(value.saturating_mul(1024))
}

/// Somebody else's mount point need not be UTF-8.
pub(super) fn read(path: &Path) -> Result<String, BoxError> {
    let text = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::memory::groups::under;

    const MIB: u64 = 1024 * 1024;

    const MEMINFO: &str = "MemTotal:        8388608 kB\nMemFree:          524288 kB\nMemAvailable:    2097152 kB\nBuffers: 1 kB\n";

    /// The files of a machine of 8 GiB, of which 6 are used.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap()).file("/proc/meminfo", MEMINFO)
        }

        fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
            let path = under(self.0.path(), Path::new(path));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn v2(self, group: &str, max: &str, current: u64, stat: &str) -> Self {
            self.file(&format!("{group}/memory.max"), format!("{max}\n"))
                .file(&format!("{group}/memory.current"), format!("{current}\n"))
                .file(&format!("{group}/memory.stat"), stat)
        }

        fn v1(self, group: &str, limit: u64, usage: u64, stat: &str) -> Self {
            self.file(&format!("{group}/memory.limit_in_bytes"), format!("{limit}\n"))
                .file(&format!("{group}/memory.usage_in_bytes"), format!("{usage}\n"))
                .file(&format!("{group}/memory.stat"), stat)
        }

        fn member(self, cgroup: &str, mountinfo: impl AsRef<[u8]>) -> Self {
            self.file("/proc/self/cgroup", cgroup).file("/proc/self/mountinfo", mountinfo)
        }

        fn usage(&self) -> (u64, u64, Option<String>) {
            let usage = Usage::of_surroundings(self.0.path()).unwrap();
            let group = usage.group.map(|group| group.to_str().unwrap().to_owned());
            (usage.used / MIB, usage.limit / MIB, group)
        }
    }

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    /// What version 1 has where there is no limit.
    const UNLIMITED: u64 = 9_223_372_036_854_771_712;

    #[test]
    fn without_control_groups_it_is_the_machine() {
        assert_eq!(Machine::new().usage(), (6144, 8192, None));
        let without_memory = Machine::new().member("0::/\n", V2).file("/sys/fs/cgroup/cgroup.procs", "1\n");
        assert_eq!(without_memory.usage(), (6144, 8192, None));
    }

    #[test]
    fn in_version_2_pages_of_files_do_not_count_and_the_group_that_is_nearest_to_its_limit_does() {
        let stat = format!(
            "anon 1\nfile 2\ninactive_file {}\nactive_file {}\nslab_reclaimable {}\nslab 9\n",
            100 * MIB,
            50 * MIB,
            50 * MIB
        );
        let machine = Machine::new()
            .member("0::/kubepods/pod7/app\n", V2)
            .v2("/sys/fs/cgroup/kubepods/pod7/app", &(1024 * MIB).to_string(), 600 * MIB, &stat)
            .v2("/sys/fs/cgroup/kubepods/pod7", "max", 900 * MIB, "")
            .v2("/sys/fs/cgroup/kubepods", &(2048 * MIB).to_string(), 1000 * MIB, "");
        assert_eq!(machine.usage(), (1000, 2048, Some("/sys/fs/cgroup/kubepods".into())));
        let machine =
            machine.v2("/sys/fs/cgroup/kubepods/pod7/app", &(1024 * MIB).to_string(), 900 * MIB, &stat);
        assert_eq!(machine.usage(), (700, 1024, Some("/sys/fs/cgroup/kubepods/pod7/app".into())));
    }

    #[test]
    fn in_a_container_with_a_namespace_of_its_own_the_group_is_the_top() {
        let machine = Machine::new().member("0::/\n", V2).v2(
            "/sys/fs/cgroup",
            &(512 * MIB).to_string(),
            300 * MIB,
            "inactive_file 0\n",
        );
        assert_eq!(machine.usage(), (300, 512, Some("/sys/fs/cgroup".into())));
    }

    #[test]
    fn in_a_container_that_sees_the_path_of_the_machine_it_is_found_all_the_same() {
        // Docker with version 1: the mount begins at the container's group.
        let mount =
            "740 733 0:29 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:15 - cgroup cgroup rw,memory\n";
        let machine = Machine::new().member("9:memory:/docker/abc\n1:cpu:/docker/abc\n", mount).v1(
            "/sys/fs/cgroup/memory",
            256 * MIB,
            200 * MIB,
            "",
        );
        assert_eq!(machine.usage(), (200, 256, Some("/sys/fs/cgroup/memory".into())));
        // A mount whose beginning cannot be seen from here.
        let machine = machine.member(
            "9:memory:/docker/abc\n",
            "740 733 0:29 /../.. /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
        );
        assert_eq!(machine.usage(), (200, 256, Some("/sys/fs/cgroup/memory".into())));
        // A path that is not there.
        let machine = machine.member(
            "9:memory:/docker/abc\n",
            "740 733 0:29 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
        );
        assert_eq!(machine.usage(), (200, 256, Some("/sys/fs/cgroup/memory".into())));
    }

    /// As systemd's hybrid mode has it, and this kernel with all its controllers in version 1.
    #[test]
    fn where_both_versions_are_mounted_it_is_the_one_that_accounts_for_memory() {
        let cgroup = "4:memory:/app/a b\n3:cpuset:/\n0::/\n";
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let stat = format!("inactive_file 1\ntotal_inactive_file {}\ntotal_active_file {MIB}\n", 40 * MIB);
        let machine = Machine::new()
            .member(cgroup, mounts)
            .v1("/sys/fs/cgroup/memory", UNLIMITED, 7000 * MIB, "")
            .v1("/sys/fs/cgroup/memory/app", UNLIMITED, 500 * MIB, "")
            .v1("/sys/fs/cgroup/memory/app/a b", 64 * MIB, 63 * MIB, &stat);
        assert_eq!(machine.usage(), (22, 64, Some("/sys/fs/cgroup/memory/app/a b".into())));
        let machine = machine.v1("/sys/fs/cgroup/memory/app/a b", UNLIMITED, 63 * MIB, &stat);
        assert_eq!(machine.usage(), (6144, 8192, None), "no limit at all");
        // Version 1 is named, and not mounted here.
        let machine = machine
            .member("4:memory:/x\n0::/\n", "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
            .v2("/sys/fs/cgroup", &(128 * MIB).to_string(), MIB, "");
        assert_eq!(machine.usage(), (1, 128, Some("/sys/fs/cgroup".into())));
    }

    #[test]
    fn a_group_that_is_held_up_above_a_bound_is_near_its_limit_there() {
        let machine = Machine::new()
            .member("0::/\n", V2)
            .v2("/sys/fs/cgroup", &(512 * MIB).to_string(), 300 * MIB, "")
            .file("/sys/fs/cgroup/memory.high", format!("{}\n", 400 * MIB));
        assert_eq!(machine.usage().1, 400);
        assert_eq!(machine.file("/sys/fs/cgroup/memory.high", "max\n").usage().1, 512);
    }

    #[test]
    fn of_several_mounts_it_is_the_one_that_shows_the_group() {
        let machine = "90 23 0:26 /../.. /host/cgroup rw - cgroup2 cgroup2 rw\n";
        let machine = Machine::new()
            .member("0::/\n", format!("{machine}{V2}"))
            .file("/host/cgroup/cgroup.procs", "1\n")
            .v2("/sys/fs/cgroup", &(512 * MIB).to_string(), 300 * MIB, "");
        assert_eq!(machine.usage(), (300, 512, Some("/sys/fs/cgroup".into())));
    }

    #[test]
    fn a_mount_of_somebody_else_that_is_no_text_is_no_hindrance() {
        let mut mounts = b"40 23 0:25 / /mnt/\xff rw - ext4 /dev/\xfe rw\n".to_vec();
        mounts.extend(V2.bytes());
        let machine = Machine::new().member("0::/\n", mounts);
        let machine = machine.v2("/sys/fs/cgroup", &(512 * MIB).to_string(), 300 * MIB, "");
        assert_eq!(machine.usage(), (300, 512, Some("/sys/fs/cgroup".into())));
    }

    #[test]
    fn a_limit_above_what_the_machine_has_is_none() {
        let machine =
            Machine::new().member("0::/\n", V2).v2("/sys/fs/cgroup", &(9000 * MIB).to_string(), MIB, "");
        assert_eq!(machine.usage(), (6144, 8192, None));
    }

    #[test]
    fn the_share_is_exact_and_a_limit_of_zero_is_reached() {
        let usage = |used, limit| Usage { used, limit, group: None };
        assert!(usage(90, 100).reaches(90) && !usage(89, 100).reaches(90));
        assert!(usage(u64::MAX, u64::MAX).reaches(100) && usage(0, 0).reaches(90));
    }

    #[test]
    fn what_a_process_holds_is_its_own_memory_and_not_its_mapped_files() {
        let status = "Name:\tx\nVmRSS:\t  900 kB\nRssAnon:\t  100 kB\nRssFile:\t  790 kB\nRssShmem:\t   10 kB\nVmSwap:\t    5 kB\n";
        assert_eq!(held(status), Some(115 * 1024));
        assert_eq!(held("VmRSS:\t  900 kB\n"), Some(900 * 1024), "an old kernel");
        assert_eq!(held("Name:\tx\n"), None);
    }

    #[test]
    fn an_error_says_which_file_cannot_be_read() {
        let nowhere = tempfile::tempdir().unwrap();
        let error = Usage::of_surroundings(nowhere.path()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read ") && error.contains("proc/meminfo: "), "{error}");
    }
}
