//! Processes: what the kernel says about one, and what the child processes of a harness need. Linux only.

use std::{fs, io, process, thread, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Memory of a process that is in RAM, in bytes; `None` once it has ended.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmRSS:")
}

/// The most of its memory that was in RAM at any time, in bytes; `None` once it has ended.
pub fn peak_resident_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmHWM:")
}

fn status_bytes(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // A process that has ended and was not waited for has no such line.
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kibibytes * 1024)
}

/// How much processor time a process has taken, by its kernel's ticks of 10 ms; `None` once it has ended.
pub fn processor_time(pid: u32) -> Option<Duration> {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything. After it: state, then numbers; the 12th and 13th are user and system time.
    let (_, fields) = status.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(ticks * 10))
}

/// How many descriptors a process has open; `None` once it has ended.
pub fn descriptors(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// Raises this process's own limit of open descriptors as far as it goes: each connection takes one.
pub fn provide_descriptors() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

/// Exits once stdin is closed, so that a child process never outlives the one that started it, however that one ends.
pub fn exit_with_parent() {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        process::exit(0);
    });
}
