//! How much memory there is for this server: the machine's, or less if the server is confined to less (cgroup v2).

use std::fs::read_to_string;
use std::path::Path;

/// In bytes, as Linux tells it; nothing where it does not.
pub(crate) fn memory() -> Option<u64> {
    let machine = read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = |group: &Path| {
        let group = group.strip_prefix("/").ok()?;
        read_to_string(Path::new("/sys/fs/cgroup").join(group).join("memory.max")).ok()
    };
    machine.into_iter().chain(confined(&groups, limit)).min()
}

/// The memory of a machine.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The least limit of a process's group and those around it. A container sees its own group as the root of all, whatever its path says.
fn confined(groups: &str, limit: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let limits = Path::new(own)
        .ancestors()
        .filter_map(|group| limit(group)?.trim().parse().ok());
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
        let limit = |group: &Path| {
            let limit = match group.to_str().unwrap() {
                "/" => return None,
                "/a" => "5000\n",
                "/a/b" => "max\n",
                "/a/b/c" => "7000\n",
                other => panic!("{other}"),
            };
            Some(limit.to_owned())
        };
        for (groups, least) in [
            ("0::/a/b/c\n", Some(5000)),
            ("12:cpu:/x\n0::/a/b\n", Some(5000)),
            ("0::/\n", None),
            ("12:memory:/x\n", None),
            ("", None),
        ] {
            assert_eq!(confined(groups, limit), least, "{groups}");
        }
    }
}
