//! What a process costs while it has nothing to do.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::processes::ProcessId;

/// What `/proc` counts processor time in: fixed by the kernel's interface, whatever its own clock is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Memory of a process, KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// Everything that is in memory.
    pub(super) resident: u64,
    /// Of that, what is the process's alone: heap, stacks.
    pub(super) anonymous: u64,
    /// Of that, pages of the program and its libraries, which the kernel can drop.
    pub(super) file: u64,
}

/// A process over some seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Idle {
    /// At the end.
    pub(super) memory: Memory,
    /// Part of one processor, in percent.
    pub(super) cpu_percent: f64,
}

/// Watches processes for a while, all at once.
pub(super) async fn watch(processes: &[ProcessId], time: Duration) -> anyhow::Result<Vec<Idle>> {
    let before = ticks_of(processes)?;
    let begun = Instant::now();
    tokio::time::sleep(time).await;
    let after = ticks_of(processes)?;
    let passed = begun.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "ticks of some seconds")]
    let used =
        |from: u64, to: u64| to.saturating_sub(from) as f64 / TICKS_PER_SECOND / passed * 100.0;
    let mut found = Vec::new();
    for ((process, from), to) in processes.iter().zip(before).zip(after) {
        found.push(Idle { memory: memory(process.pid)?, cpu_percent: used(from, to) });
    }
    Ok(found)
}

/// Processor time that a process has used so far, milliseconds.
pub(super) fn used_ms(process: ProcessId) -> anyhow::Result<u64> {
    let ticks = ticks_of(&[process])?.into_iter().sum::<u64>();
    // A tick is 10 ms.
    Ok(ticks * 10)
}

fn ticks_of(processes: &[ProcessId]) -> anyhow::Result<Vec<u64>> {
    let one = |process: &ProcessId| {
        anyhow::ensure!(process.is_alive(), "process {} ended while it was watched", process.pid);
        let path = format!("/proc/{}/stat", process.pid);
        let text = fs::read_to_string(&path).with_context(|| format!("read `{path}`"))?;
        parse_ticks(&text).with_context(|| format!("`{path}` has no times"))
    };
    processes.iter().map(one).collect()
}

/// `utime` and `stime` are fields 14 and 15; the name before them may hold anything.
fn parse_ticks(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn memory(pid: i32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read `{path}`"))?;
    parse_memory(&text).with_context(|| format!("`{path}` does not say how much memory it has"))
}

fn parse_memory(text: &str) -> Option<Memory> {
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some(Memory {
        resident: field("VmRSS:")?,
        anonymous: field("RssAnon:")?,
        file: field("RssFile:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let stat = "42 (a) b) (c) S 7 42 42 0 -1 4194560 1 0 0 0 31 11 0 0 20 0 1 0 12345 0 0";
        assert_eq!(parse_ticks(stat), Some(42));
        assert_eq!(parse_ticks("42 (a"), None);
        let status =
            "Name:\tx\nVmRSS:\t   20480 kB\nRssAnon:\t    4096 kB\nRssFile:\t   16384 kB\n";
        let expected = Memory { resident: 20_480, anonymous: 4_096, file: 16_384 };
        assert_eq!(parse_memory(status), Some(expected));
        assert_eq!(parse_memory("Name:\tx\n"), None);
    }

    #[tokio::test]
    async fn this_process_can_be_watched() {
        let own = ProcessId::of(std::process::id().try_into().unwrap()).unwrap();
        let found = watch(&[own], Duration::from_millis(1)).await.unwrap();
        assert!(found[0].memory.resident >= found[0].memory.anonymous);
        assert!(found[0].memory.anonymous > 0);
    }
}
