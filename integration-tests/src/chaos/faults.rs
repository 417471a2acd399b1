//! What befalls a lab.

use std::time::Duration;

use grayfin_types::status::{HostPhase, RolloutStatus};
use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::Signal;

use super::Links;
use crate::relay::Mode;
use crate::suite;
use crate::{Lab, Target};

/// So long somebody is away or cut off; two elections fit.
const LASTS_MS: std::ops::Range<u64> = 200..5_000;
/// So late things come on slow links: within a heartbeat, and far beyond an election.
const LATE_MS: std::ops::Range<u64> = 10..1_500;
/// What [`Fault::FullDisk`] is called if the coordinator had something to write.
const ENDED_BY_FULL_DISK: &str = "coordinator's disk full, it ended and was started again";
/// So far clocks jump.
const JUMP_MAX_MS: i64 = 12 * 60 * 60 * 1_000;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Coordinator(u8),
    /// Whichever coordinator leads.
    Leader,
    Agent(u8),
}

/// A fault, chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// kill -9, and started again.
    Kill(Who),
    /// SIGSTOP, and SIGCONT.
    Stop(Who),
    /// The host that is worked on loses its power, and boots.
    PowerLoss,
    /// A coordinator's machine hears nobody and is heard by nobody.
    CutCoordinator(u8),
    /// A coordinator is heard by nobody.
    CutOneWay(u8),
    /// A host and the coordinators do not hear each other.
    CutHost(u8),
    /// Everything on the way to a coordinator, and back, comes late.
    SlowLinks(u8),
    /// The same, of all coordinators.
    SlowEverywhere,
    /// Connections to a coordinator stay, and nothing comes through.
    HalfOpen(u8),
    /// The volume with a coordinator's state is full.
    FullDisk(u8),
    /// A coordinator's clock jumps by hours.
    CoordinatorClock(u8),
    /// A host's does.
    HostClock(u8),
}

impl Fault {
    /// Chooses one.
    pub(super) fn choose(rng: &mut StdRng, lab: &Lab, links: Links) -> Self {
        let coordinators = u8::try_from(lab.topology().coordinators.len()).unwrap_or(u8::MAX);
        let hosts = u8::try_from(lab.topology().hosts.len()).unwrap_or(u8::MAX);
        let (coordinator, host) = (rng.random_range(1..=coordinators), rng.random_range(1..=hosts));
        let mut all = vec![
            Self::Kill(Who::Coordinator(coordinator)),
            Self::Kill(Who::Leader),
            Self::Kill(Who::Leader),
            Self::Kill(Who::Agent(host)),
            Self::Stop(Who::Coordinator(coordinator)),
            Self::Stop(Who::Leader),
            Self::Stop(Who::Agent(host)),
            Self::PowerLoss,
            Self::CoordinatorClock(coordinator),
            Self::HostClock(host),
        ];
        all.extend(match links {
            Links::Networks => vec![
                Self::CutCoordinator(coordinator),
                Self::CutCoordinator(coordinator),
                Self::CutOneWay(coordinator),
                Self::CutHost(host),
                Self::CutHost(host),
            ],
            Links::Relays => vec![
                Self::SlowLinks(coordinator),
                Self::SlowEverywhere,
                Self::HalfOpen(coordinator),
                Self::FullDisk(coordinator),
                Self::FullDisk(coordinator),
            ],
        });
        let place = rng.random_range(0..all.len());
        all.into_iter().nth(place).unwrap_or(Self::Kill(Who::Leader))
    }

    /// Lets it happen and pass. Returns its name if it did happen.
    pub(super) async fn befall(
        self,
        lab: &Lab,
        rng: &mut StdRng,
        status: &RolloutStatus,
        lost_power: &mut bool,
    ) -> anyhow::Result<Option<&'static str>> {
        let lasts = Duration::from_millis(rng.random_range(LASTS_MS));
        let late = Mode::Slow(Duration::from_millis(rng.random_range(LATE_MS)));
        match self {
            Self::Kill(who) => away(lab, &who.target(lab).await?, lasts).await?,
            Self::Stop(who) => still(lab, &who.target(lab).await?, lasts).await?,
            Self::PowerLoss => {
                let Some(host) = at_work(lab, status)?.filter(|_| !*lost_power) else {
                    return Ok(None);
                };
                *lost_power = true;
                lose_power(lab, host, lasts).await?;
            }
            Self::CutCoordinator(number) => {
                lab.cut_off(&lab.coordinator(number)?.name, |_| true)?;
                rejoined(lab, lasts).await?;
            }
            Self::CutOneWay(number) => {
                let one = &lab.coordinator(number)?.name;
                for other in lab.topology().machines().filter(|it| it != one) {
                    lab.cut(one, other)?;
                }
                rejoined(lab, lasts).await?;
            }
            Self::CutHost(number) => {
                let host = &lab.host(number)?.name;
                lab.cut_off(host, |other| other.starts_with("coordinator"))?;
                rejoined(lab, lasts).await?;
            }
            Self::SlowLinks(number) => relayed(lab, &[number], late, lasts).await?,
            Self::SlowEverywhere => {
                let all: Vec<u8> = lab.topology().coordinators.iter().map(|it| it.number).collect();
                relayed(lab, &all, late, lasts).await?;
            }
            Self::HalfOpen(number) => relayed(lab, &[number], Mode::Frozen, lasts).await?,
            Self::FullDisk(number) => {
                let went_on = full_disk(lab, number, lasts).await?;
                return Ok(Some(if went_on { self.word() } else { ENDED_BY_FULL_DISK }));
            }
            Self::CoordinatorClock(number) => jump(lab, &lab.coordinator(number)?.name, rng)?,
            Self::HostClock(number) => jump(lab, &lab.host(number)?.name, rng)?,
        }
        Ok(Some(self.word()))
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Kill(Who::Coordinator(_)) => "coordinator killed (kill -9)",
            Self::Kill(Who::Leader) => "leading coordinator killed (kill -9)",
            Self::Kill(Who::Agent(_)) => "host agent killed (kill -9)",
            Self::Stop(Who::Coordinator(_)) => "coordinator stood still (SIGSTOP)",
            Self::Stop(Who::Leader) => "leading coordinator stood still (SIGSTOP)",
            Self::Stop(Who::Agent(_)) => "host agent stood still (SIGSTOP)",
            Self::PowerLoss => "host lost its power and booted",
            Self::CutCoordinator(_) => "coordinator cut off",
            Self::CutOneWay(_) => "coordinator heard by nobody (one way)",
            Self::CutHost(_) => "host cut off from the coordinators",
            Self::SlowLinks(_) => "links of a coordinator slow",
            Self::SlowEverywhere => "links of all coordinators slow",
            Self::HalfOpen(_) => "links of a coordinator half-open",
            Self::FullDisk(_) => "coordinator's disk full, it went on",
            Self::CoordinatorClock(_) => "a coordinator's clock jumped by hours",
            Self::HostClock(_) => "a host's clock jumped by hours",
        }
    }
}

impl Who {
    async fn target(self, lab: &Lab) -> anyhow::Result<Target> {
        Ok(match self {
            Self::Coordinator(number) => Target::Coordinator(number),
            Self::Leader => Target::Coordinator(lab.leading_coordinator().await?),
            Self::Agent(number) => Target::Agent(number),
        })
    }
}

/// The host that is worked on: another one must not be taken down by anybody meanwhile.
fn at_work(lab: &Lab, status: &RolloutStatus) -> anyhow::Result<Option<u8>> {
    let working = |phase: &HostPhase| matches!(phase, HostPhase::Working { .. });
    let found = status.hosts.iter().find(|host| working(&host.phase));
    found.map(|host| lab.number_of(&host.host)).transpose()
}

/// A fault lasts; nothing is waited for meanwhile.
async fn passes(time: Duration) {
    tokio::time::sleep(time).await;
}

async fn away(lab: &Lab, target: &Target, lasts: Duration) -> anyhow::Result<()> {
    lab.kill(target).await?;
    passes(lasts).await;
    lab.restart(target).await
}

async fn still(lab: &Lab, target: &Target, lasts: Duration) -> anyhow::Result<()> {
    lab.signal(target, Signal::STOP).await?;
    passes(lasts).await;
    lab.signal(target, Signal::CONT).await
}

async fn lose_power(lab: &Lab, host: u8, lasts: Duration) -> anyhow::Result<()> {
    lab.kill(&Target::Host(host)).await?;
    passes(lasts).await;
    // With the interlock on nothing of the database can be started: that is its use.
    if let Err(error) = lab.restart(&Target::Host(host)).await {
        suite::say(&format!("the boot of host {host}: {error:#}"));
    }
    Ok(())
}

async fn rejoined(lab: &Lab, lasts: Duration) -> anyhow::Result<()> {
    passes(lasts).await;
    lab.join_all()
}

/// Slows or freezes relays for a while.
async fn relayed(lab: &Lab, which: &[u8], mode: Mode, lasts: Duration) -> anyhow::Result<()> {
    for number in which {
        lab.relay(*number)?.set(mode);
    }
    passes(lasts).await;
    for number in which {
        lab.relay(*number)?.set(Mode::Open);
    }
    Ok(())
}

/// Fills the volume with a coordinator's state. A coordinator that cannot write ends, as it should; a
/// service manager starts it again, here as soon as there is room. True if it never ended.
async fn full_disk(lab: &Lab, number: u8, lasts: Duration) -> anyhow::Result<bool> {
    lab.fill_state(number).await?;
    passes(lasts).await;
    lab.empty_state(number).await?;
    let target = Target::Coordinator(number);
    let went_on = !lab.processes_of(&target).await?.is_empty();
    if !went_on {
        lab.restart(&target).await?;
    }
    Ok(went_on)
}

/// Sets a machine's clock some hours wrong, into the past or the future. It stays so.
fn jump(lab: &Lab, machine: &str, rng: &mut StdRng) -> anyhow::Result<()> {
    let by = rng.random_range(-JUMP_MAX_MS..=JUMP_MAX_MS);
    Ok(std::fs::write(lab.paths().clock(machine), by.to_string())?)
}
