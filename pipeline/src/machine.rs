//! What the machine is: processors, memory, disks, limits, NVIDIA's driver and toolkit. Everything is read from the
//! places where Linux tells it; elsewhere most of it is unknown.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The processor's name.
pub(crate) fn processor() -> Option<String> {
    field("/proc/cpuinfo", "model name")
}

/// The vector units of the processor that this program knows to use, with whether it was compiled for each.
pub(crate) fn vector_units() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    {
        let units = [
            ("sse2", true, cfg!(target_feature = "sse2")),
            ("avx2", is_x86_feature_detected!("avx2"), cfg!(target_feature = "avx2")),
            ("fma", is_x86_feature_detected!("fma"), cfg!(target_feature = "fma")),
            ("avx512f", is_x86_feature_detected!("avx512f"), cfg!(target_feature = "avx512f")),
        ];
        units.into_iter().filter(|unit| unit.1).map(|(name, _, compiled)| (name, compiled)).collect()
    }
    #[cfg(target_arch = "aarch64")]
    {
        vec![("neon", true)]
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        Vec::new()
    }
}

/// Memory in all and to be had now, bytes; a container's limit counts as all there is.
pub(crate) fn memory() -> Option<(u64, u64)> {
    let kilobytes = |name| {
        let value = field("/proc/meminfo", name)?;
        Some(value.split(' ').next()?.parse::<u64>().ok()? << 10)
    };
    let (all, free) = (kilobytes("MemTotal")?, kilobytes("MemAvailable")?);
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    let all = limit.map_or(all, |limit: u64| limit.min(all));
    Some((all, free.min(all)))
}

/// Bytes of memory that this process holds.
pub(crate) fn resident() -> Option<u64> {
    let value = field("/proc/self/status", "VmRSS")?;
    Some(value.split(' ').next()?.parse::<u64>().ok()? << 10)
}

/// Processor time that this process has used.
pub(crate) fn processor_time() -> Option<Duration> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may have spaces in it, from the third field on; the 14th and 15th count ticks of 10 ms.
    let mut fields = text.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (ticks()? + ticks()?)))
}

/// Whether a process of this machine is there.
pub(crate) fn is_alive(process: u32) -> Option<bool> {
    Path::new("/proc/self").exists().then(|| Path::new(&format!("/proc/{process}")).exists())
}

/// What the machine is called.
pub(crate) fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| fs::read_to_string("/etc/hostname"));
    name.map_or("this machine".to_owned(), |name| name.trim().to_owned())
}

/// Bytes that can be written to the disk below a folder that may not exist yet.
pub(crate) fn free_disk(folder: &Path) -> Option<u64> {
    let existing = env::current_dir().ok()?.join(folder);
    let existing = existing.ancestors().find(|folder| folder.is_dir())?.to_owned();
    // POSIX: the fourth column of the second line counts blocks of 1 KiB.
    let output = Command::new("df").arg("-Pk").arg(existing).env("LC_ALL", "C").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let columns: Vec<&str> = text.lines().nth(1)?.split_whitespace().collect();
    let at = columns.iter().position(|column| column.ends_with('%'))?;
    Some(columns.get(at.checked_sub(1)?)?.parse::<u64>().ok()? << 10)
}

/// Files that the process may have open at a time; `None` for any number.
pub(crate) fn open_files() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Where NVIDIA's driver library lies.
pub(crate) fn cuda_driver() -> Option<PathBuf> {
    let listed = Command::new("ldconfig").arg("-p").output().ok().and_then(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.trim_start().starts_with("libcuda.so.1 "))?.to_owned();
        Some(PathBuf::from(line.split("=> ").nth(1)?.trim()))
    });
    let paths = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let named = env::split_paths(&paths).map(|folder| folder.join("libcuda.so.1"));
    named.into_iter().find(|path| path.is_file()).or(listed)
}

/// Version of NVIDIA's kernel module, as `580.65.06`.
pub(crate) fn cuda_driver_version() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let words = text.lines().next()?.split_whitespace();
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    words.into_iter().find(is_version).map(str::to_owned)
}

/// The CUDA compiler and its version, as `13.0`.
pub(crate) fn cuda_toolkit() -> Option<(PathBuf, String)> {
    let paths = env::var_os("PATH").unwrap_or_default();
    let homes = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(env::var_os).map(|home| Path::new(&home).join("bin"));
    let usual = [PathBuf::from("/usr/local/cuda/bin")];
    let folders = env::split_paths(&paths).chain(homes).chain(usual);
    let nvcc = folders.map(|folder| folder.join("nvcc")).find(|path| path.is_file())?;
    let output = Command::new(&nvcc).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let release = text.split("release ").nth(1)?.split(',').next()?.trim().to_owned();
    Some((nvcc, release))
}

/// The value of `name : value` in a file of such lines.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|found| found.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_tells_what_is_asked() {
        let (all, free) = memory().expect("/proc/meminfo");
        assert!(all >= free && free > 0);
        assert!(free_disk(Path::new("not/there/yet")).expect("df") > 0);
        assert!(open_files().is_none_or(|files| files > 0));
        assert!(resident().expect("/proc/self/status") > 1 << 20);
        assert!(processor_time().is_some());
        assert_eq!((is_alive(std::process::id()), is_alive(u32::MAX)), (Some(true), Some(false)));
    }
}
