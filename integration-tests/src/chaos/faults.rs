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
/// So far clocks jump.
const JUMP_MAX_MS: i64 = 12 * 60 * 60 * 1_000;

/// A fault, chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// kill -9, and started again.
    KillCoordinator(u8),
    /// The same, whoever leads.
    KillLeader,
    /// SIGSTOP, and SIGCONT.
    StopCoordinator(u8),
    /// The same, whoever leads.
    StopLeader,
    /// kill -9, and started again.
    KillAgent(u8),
    /// SIGSTOP, and SIGCONT.
    StopAgent(u8),
    /// A coordinator's machine hears nobody and is heard by nobody.
    CutCoordinator(u8),
    /// A coordinator is heard by nobody.
    CutOneWay(u8),
    /// A host and the coordinators do not hear each other.
    CutHost(u8),
    /// The host that is worked on loses its power, and boots.
    PowerLoss,
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
            Self::KillCoordinator(coordinator),
            Self::KillLeader,
            Self::KillLeader,
            Self::StopCoordinator(coordinator),
            Self::StopLeader,
            Self::KillAgent(host),
            Self::StopAgent(host),
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
        all.into_iter().nth(place).unwrap_or(Self::KillLeader)
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
        let word = match self {
            Self::KillCoordinator(number) => {
                away(lab, &Target::Coordinator(number), lasts).await?;
                "coordinator killed (kill -9)"
            }
            Self::KillLeader => {
                let leader = lab.leading_coordinator().await?;
                away(lab, &Target::Coordinator(leader), lasts).await?;
                "leading coordinator killed (kill -9)"
            }
            Self::StopCoordinator(number) => {
                still(lab, &Target::Coordinator(number), lasts).await?;
                "coordinator stood still (SIGSTOP)"
            }
            Self::StopLeader => {
                let leader = lab.leading_coordinator().await?;
                still(lab, &Target::Coordinator(leader), lasts).await?;
                "leading coordinator stood still (SIGSTOP)"
            }
            Self::KillAgent(number) => {
                away(lab, &Target::Agent(number), lasts).await?;
                "host agent killed (kill -9)"
            }
            Self::StopAgent(number) => {
                still(lab, &Target::Agent(number), lasts).await?;
                "host agent stood still (SIGSTOP)"
            }
            Self::CutCoordinator(_) | Self::CutOneWay(_) | Self::CutHost(_) => {
                self.cut(lab, lasts).await?
            }
            Self::PowerLoss => {
                let Some(host) = at_work(lab, status)?.filter(|_| !*lost_power) else {
                    return Ok(None);
                };
                *lost_power = true;
                lab.kill(&Target::Host(host)).await?;
                tokio::time::sleep(lasts).await;
                // With the interlock on nothing of the database can be started: that is its use.
                if let Err(error) = lab.restart(&Target::Host(host)).await {
                    suite::say(&format!("the boot of host {host}: {error:#}"));
                }
                "host lost its power and booted"
            }
            Self::SlowLinks(_) | Self::SlowEverywhere | Self::HalfOpen(_) => {
                self.relayed(lab, rng, lasts).await?
            }
            Self::FullDisk(number) => full_disk(lab, number, lasts).await?,
            Self::CoordinatorClock(number) => {
                jump(lab, &lab.coordinator(number)?.name, rng)?;
                "a coordinator's clock jumped by hours"
            }
            Self::HostClock(number) => {
                jump(lab, &lab.host(number)?.name, rng)?;
                "a host's clock jumped by hours"
            }
        };
        Ok(Some(word))
    }

    /// Cuts links of a lab with networks for a while.
    async fn cut(self, lab: &Lab, lasts: Duration) -> anyhow::Result<&'static str> {
        let name = |number: u8| format!("coordinator{number}");
        let word = match self {
            Self::CutCoordinator(number) => {
                lab.cut_off(&name(number), |_| true)?;
                "coordinator cut off"
            }
            Self::CutOneWay(number) => {
                let one = name(number);
                for other in lab.topology().machines().filter(|it| *it != one) {
                    lab.cut(&one, other)?;
                }
                "coordinator heard by nobody (one way)"
            }
            Self::CutHost(number) => {
                let host = &lab.host(number)?.name;
                lab.cut_off(host, |other| other.starts_with("coordinator"))?;
                "host cut off from the coordinators"
            }
            other => anyhow::bail!("{other:?} cuts nothing"),
        };
        tokio::time::sleep(lasts).await;
        lab.join_all()?;
        Ok(word)
    }

    /// Slows or freezes relays of a lab that has them for a while.
    async fn relayed(
        self,
        lab: &Lab,
        rng: &mut StdRng,
        lasts: Duration,
    ) -> anyhow::Result<&'static str> {
        let late = Mode::Slow(Duration::from_millis(rng.random_range(LATE_MS)));
        let (which, mode, word) = match self {
            Self::SlowLinks(number) => (vec![number], late, "links of a coordinator slow"),
            Self::SlowEverywhere => {
                let all = lab.topology().coordinators.iter().map(|it| it.number).collect();
                (all, late, "links of all coordinators slow")
            }
            Self::HalfOpen(number) => {
                (vec![number], Mode::Frozen, "links of a coordinator half-open")
            }
            other => anyhow::bail!("{other:?} is no matter of relays"),
        };
        for number in &which {
            lab.relay(*number)?.set(mode);
        }
        tokio::time::sleep(lasts).await;
        for number in which {
            lab.relay(number)?.set(Mode::Open);
        }
        Ok(word)
    }
}

/// Fills the volume with a coordinator's state. A coordinator that cannot write ends, as it should; a
/// service manager starts it again, here as soon as there is room.
async fn full_disk(lab: &Lab, number: u8, lasts: Duration) -> anyhow::Result<&'static str> {
    lab.fill_state(number).await?;
    tokio::time::sleep(lasts).await;
    lab.empty_state(number).await?;
    let target = Target::Coordinator(number);
    if lab.processes_of(&target).await?.is_empty() {
        lab.restart(&target).await?;
        return Ok("coordinator's disk full (it ended, was started again)");
    }
    Ok("coordinator's disk full (it went on)")
}

/// Sets a machine's clock some hours wrong, into the past or the future. It stays so.
fn jump(lab: &Lab, machine: &str, rng: &mut StdRng) -> anyhow::Result<()> {
    let by = rng.random_range(-JUMP_MAX_MS..=JUMP_MAX_MS);
    Ok(std::fs::write(lab.paths().clock(machine), by.to_string())?)
}

/// The host that is worked on: another one must not be taken down by anybody meanwhile.
fn at_work(lab: &Lab, status: &RolloutStatus) -> anyhow::Result<Option<u8>> {
    let working = |phase: &HostPhase| matches!(phase, HostPhase::Working { .. });
    let found = status.hosts.iter().find(|host| working(&host.phase));
    found.map(|host| lab.number_of(&host.host)).transpose()
}

async fn away(lab: &Lab, target: &Target, lasts: Duration) -> anyhow::Result<()> {
    lab.kill(target).await?;
    tokio::time::sleep(lasts).await;
    lab.restart(target).await
}

async fn still(lab: &Lab, target: &Target, lasts: Duration) -> anyhow::Result<()> {
    lab.signal(target, Signal::STOP).await?;
    tokio::time::sleep(lasts).await;
    lab.signal(target, Signal::CONT).await
}
