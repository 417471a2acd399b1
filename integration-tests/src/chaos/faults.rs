//! What befalls a lab.

use std::time::Duration;

use grayfin_types::status::{HostPhase, RolloutStatus};
use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::Signal;

use crate::suite;
use crate::{Lab, Target};

/// So long somebody is away or cut off; two elections fit.
const LASTS_MS: std::ops::Range<u64> = 200..5_000;

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
}

impl Fault {
    /// Chooses one.
    pub(super) fn choose(rng: &mut StdRng, lab: &Lab, networks: bool) -> Self {
        let coordinators = u8::try_from(lab.topology().coordinators.len()).unwrap_or(u8::MAX);
        let hosts = u8::try_from(lab.topology().hosts.len()).unwrap_or(u8::MAX);
        let (coordinator, host) = (rng.random_range(1..=coordinators), rng.random_range(1..=hosts));
        match rng.random_range(0..if networks { 14 } else { 10 }) {
            0 => Self::KillCoordinator(coordinator),
            1 | 2 => Self::KillLeader,
            3 => Self::StopCoordinator(coordinator),
            4 | 5 => Self::StopLeader,
            6 | 7 => Self::KillAgent(host),
            8 => Self::StopAgent(host),
            9 => Self::PowerLoss,
            10 | 11 => Self::CutCoordinator(coordinator),
            12 => Self::CutOneWay(coordinator),
            _ => Self::CutHost(host),
        }
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
        let name = |number: u8| format!("coordinator{number}");
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
            Self::CutCoordinator(number) => {
                lab.cut_off(&name(number), |_| true)?;
                rejoined(lab, lasts).await?;
                "coordinator cut off"
            }
            Self::CutOneWay(number) => {
                let one = name(number);
                for other in lab.topology().machines().filter(|it| *it != one) {
                    lab.cut(&one, other)?;
                }
                rejoined(lab, lasts).await?;
                "coordinator heard by nobody (one way)"
            }
            Self::CutHost(number) => {
                let host = &lab.host(number)?.name;
                lab.cut_off(host, |other| other.starts_with("coordinator"))?;
                rejoined(lab, lasts).await?;
                "host cut off from the coordinators"
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
        };
        Ok(Some(word))
    }
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

async fn rejoined(lab: &Lab, lasts: Duration) -> anyhow::Result<()> {
    tokio::time::sleep(lasts).await;
    lab.join_all()
}
