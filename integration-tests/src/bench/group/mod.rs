//! `lab bench-group`: what three coordinators cost, beside three members of etcd on the same disk.
//!
//! Failover: the leader is killed with SIGKILL; the time until the next write is acknowledged by a
//! majority, until every host agent has a session with the new leader, and, in rollouts, until the next
//! order is carried out.
//! Hold acquisition: one command that is checked and recorded on a majority, fsynced, asked for over
//! mTLS, one after the other. With etcd it is a transaction that compares and puts.

mod etcd;
mod orders;
mod ours;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use self::etcd::Etcd;
use self::ours::Ours;
use crate::demo::say;
use crate::suite;
use crate::{Lab, Options, wait};

/// A call that is not answered in this time is made to another member.
const CALL_LIMIT: Duration = Duration::from_millis(400);
/// For a failover: twenty times what it should take.
const FAILOVER_LIMIT: Duration = Duration::from_secs(60);
/// Between two tries, so that the tries themselves are no load.
const AGAIN: Duration = Duration::from_millis(5);

/// How much is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Failovers of each.
    #[arg(long, default_value_t = 50)]
    pub failovers: usize,
    /// Failovers in the middle of rollouts, until the next order is carried out.
    #[arg(long, default_value_t = 50)]
    pub orders: usize,
    /// Writes of each, one after the other.
    #[arg(long, default_value_t = 2_000)]
    pub writes: usize,
    /// Folder for the lab and etcd's data; a temporary one if not given.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// A group of three of which one leads.
trait Group {
    /// Who leads now.
    async fn leader(&mut self) -> anyhow::Result<usize>;
    /// One write at a member, which must lead.
    async fn write(&mut self, at: usize) -> Result<(), String>;
    /// kill -9.
    async fn kill(&mut self, at: usize) -> anyhow::Result<()>;
    /// Starts it again and waits until it has everything.
    async fn restart(&mut self, at: usize) -> anyhow::Result<()>;
    /// Waits until whoever takes orders can get them from the new leader; false if nobody does.
    async fn served(&mut self, by: usize) -> anyhow::Result<bool>;
}

/// Times in microseconds, sorted when they are told.
#[derive(Debug, Default)]
struct Times(Vec<u128>);

impl Times {
    fn take(&mut self, since: Instant) {
        self.0.push(since.elapsed().as_micros());
    }

    fn tell(&mut self, name: &str) {
        self.0.sort_unstable();
        let at = |percent: usize| {
            let place = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
            self.0.get(place).copied().unwrap_or(0)
        };
        let ms = |micros: u128| format!("{}.{:02}", micros / 1_000, micros % 1_000 / 10);
        let (median, p99, worst) = (ms(at(50)), ms(at(99)), ms(at(100)));
        let count = self.0.len();
        say(&format!("  {name:<52} {median:>9} {p99:>9} {worst:>9} ms   ({count})"));
    }
}

/// Measures both, prints, and leaves nothing behind.
///
/// # Errors
/// If a lab does not come up or somebody does not come back.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let temporary = tempfile::Builder::new().prefix("grayfin-bench-group-").tempdir()?;
    let folder = arguments.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    say(&format!("build profile: {}; {}", super::profile(), super::machine()));
    let lab = Lab::up(&folder.join("lab"), &options()).await?;
    say("                                                          median       p99     worst");
    say("three coordinators, shipped timers (150 ms, 450 to 750 ms):");
    measure(&mut Ours::prepare(&lab).await?, arguments).await?;
    say("three members of etcd, default timers (100 ms, 1 s):");
    match Etcd::start(&lab, &folder.join("etcd")).await {
        Ok(mut etcd) => measure(&mut etcd, arguments).await?,
        Err(error) => say(&format!("  NOT MEASURED: {error:#}")),
    }
    lab.down()?;
    say("rollouts that stand between two hosts, resumed while the leader dies:");
    let mut orders = orders::measure(&folder, arguments.orders).await?;
    orders.tell("from kill -9 until the next host's agent has begun");
    Ok(())
}

/// Shipped timers of the coordinators; only the stand-in's own are shortened.
fn options() -> Options {
    Options {
        version: suite::FROM.to_owned(),
        coordinators: 3,
        time_scale: 0.05,
        ..Options::default()
    }
}

async fn measure(group: &mut impl Group, arguments: &Arguments) -> anyhow::Result<()> {
    let mut writes = Times::default();
    let mut leader = group.leader().await?;
    for _ in 0..arguments.writes {
        let began = Instant::now();
        match group.write(leader).await {
            Ok(()) => writes.take(began),
            // Somebody else was elected, or one answer was late: it is not what is measured here.
            Err(_) => leader = group.leader().await?,
        }
    }
    writes.tell("a command checked and recorded on a majority");
    let (mut written, mut served) = (Times::default(), Times::default());
    for number in 0..arguments.failovers {
        let dead = group.leader().await?;
        let began = Instant::now();
        group.kill(dead).await?;
        let next = first_write(group, dead).await.with_context(|| format!("failover {number}"))?;
        written.take(began);
        if group.served(next).await? {
            served.take(began);
        }
        group.restart(dead).await?;
    }
    written.tell("from kill -9 of the leader to the next write");
    if !served.0.is_empty() {
        served.tell("from kill -9 until orders reach every host agent");
    }
    Ok(())
}

/// Writes at one and the other of those that live until one does it.
async fn first_write(group: &mut impl Group, dead: usize) -> anyhow::Result<usize> {
    until_taken(dead, async |at| group.write(at).await.ok().map(|()| at)).await
}

/// Asks one and the other of those that live until one takes it.
async fn until_taken<T>(
    dead: usize,
    mut ask: impl AsyncFnMut(usize) -> Option<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + FAILOVER_LIMIT;
    loop {
        for at in (0..3).filter(|at| *at != dead) {
            if let Ok(Some(taken)) = tokio::time::timeout(CALL_LIMIT, ask(at)).await {
                return Ok(taken);
            }
        }
        anyhow::ensure!(Instant::now() < end, "nobody took it within {FAILOVER_LIMIT:?}");
        tokio::time::sleep(AGAIN).await;
    }
}

/// Waits until one of three says that it leads.
async fn until_led<T>(what: &str, ask: impl AsyncFn(usize) -> Option<T>) -> anyhow::Result<T> {
    wait::until(what, FAILOVER_LIMIT, || async {
        for at in 0..3 {
            if let Ok(Some(found)) = tokio::time::timeout(CALL_LIMIT, ask(at)).await {
                return Ok(found);
            }
        }
        Err("nobody does".to_owned())
    })
    .await
}
