//! How much memory there is for this server: the machine's, or less if the server is confined to less, by control groups of either
//! version.

use std::fs::read_to_string;
use std::path::Path;

/// In bytes, as Linux tells it; nothing where it does not.
pub(crate) fn memory() -> Option<u64> {
    let machine = read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let confined = confined(&groups, |file| read_to_string(file).ok());
    machine.into_iter().chain(confined).min()
}

/// The memory of a machine.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The least limit of a process's group and those around it. A container sees its own group as the root of all, whatever its path says.
/// Without a limit the first version tells a number that no machine has.
fn confined(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, own) = line.split_once(':')?;
        let (root, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            return None;
        };
        let limit = |group: &Path| {
            let folder = Path::new(root).join(group.strip_prefix("/").ok()?);
            read(&folder.join(file))?.trim().parse().ok()
        };
        Path::new(own).ancestors().filter_map(limit).min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_machines_memory_is_read_as_linux_tells_it() {
        let text = "MemTotal:       16384 kB\nMemFree:  1 kB\n";
        assert_eq!(total(text), Some(16 << 20));
        for bad in [
            "",
            "MemTotal: x kB",
            "MemTotal: 5 MB",
            "MemTotal: 99999999999999999999 kB",
        ] {
            assert_eq!(total(bad), None, "{bad}");
        }
        assert!(memory().unwrap() > 1 << 20, "this machine's");
    }

    #[test]
    fn a_server_has_what_its_group_and_those_around_it_leave_it() {
        let limit = |file: &Path| {
            let limit = match file.to_str().unwrap() {
                "/sys/fs/cgroup/a/memory.max" => "5000\n",
                "/sys/fs/cgroup/a/b/memory.max" => "max\n",
                "/sys/fs/cgroup/a/b/c/memory.max" => "7000\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes" => "9223372036854771712\n",
                "/sys/fs/cgroup/memory/x/memory.limit_in_bytes" => "6000\n",
                _ => return None,
            };
            Some(limit.to_owned())
        };
        for (groups, least) in [
            ("0::/a/b/c\n", Some(5000)),
            ("12:cpu:/x\n0::/a/b\n", Some(5000)),
            ("0::/\n", None),
            ("12:cpu,memory:/x/y\n11:name=systemd:/\n0::/\n", Some(6000)),
            ("12:memory:/x\n0::/a\n", Some(5000)),
            ("12:memory:/\n", Some(9_223_372_036_854_771_712)),
            ("12:memories:/x\n", None),
            ("", None),
        ] {
            assert_eq!(confined(groups, limit), least, "{groups}");
        }
    }
}
