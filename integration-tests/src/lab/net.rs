//! Networks of their own for the machines of a lab, and links that can be cut.
//!
//! A further machine, the switch, has a bridge in its network. Every machine has one end of a veth
//! pair, the bridge the other one; a pair of this program's own network leads to the bridge too, so that
//! the command line and the observer reach everything. All of it lives in the machines' networks: it
//! goes with them, whatever happens to the program that made it, and nothing is left behind.
//!
//! A link is cut in one direction by a neighbour entry for an address that nobody has: what is sent is
//! lost without a word, as behind a dead cable or a firewall that drops.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::Lab;
use crate::hostns::Isolation;
use crate::range;

/// The machine with the bridge.
const SWITCH: &str = "switch";
const BRIDGE: &str = "lab0";
/// A machine's own end.
const OWN_END: &str = "eth0";
/// This program's address on the bridge ends with it.
const OUR_LAST: u8 = 254;
/// A hardware address that no machine has.
const NOBODY: &str = "02:ff:ff:ff:ff:ff";

impl Lab {
    /// Switches the machine with the bridge on, if this lab has one.
    pub(super) async fn power_the_switch(&self) -> anyhow::Result<()> {
        if self.spec.isolation != Isolation::Networks {
            return Ok(());
        }
        let claim = range::claim_again(self.spec.topology.range);
        let owner = self.machine(SWITCH).switch_on(claim).await?;
        self.keep(owner);
        let switch = self.network_of(SWITCH)?;
        in_network(switch, &["link", "add", "name", BRIDGE, "type", "bridge"])?;
        in_network(switch, &["link", "set", BRIDGE, "up"])?;
        let range = self.spec.topology.range;
        let ours = format!("gf{}x{}", range.a, range.b);
        let pid = switch.to_string();
        let pair =
            ["link", "add", "name", &ours, "type", "veth", "peer", "name", "ours", "netns", &pid];
        ip(&pair)?;
        in_network(switch, &["link", "set", "ours", "master", BRIDGE, "up"])?;
        ip(&["address", "add", &format!("{}/24", range.net_address(OUR_LAST)), "dev", &ours])?;
        ip(&["link", "set", &ours, "up"])
    }

    /// Joins a machine that was just switched on to the bridge.
    pub(super) fn plug_in(&self, machine: &str) -> anyhow::Result<()> {
        if self.spec.isolation != Isolation::Networks {
            return Ok(());
        }
        let (switch, network) = (self.network_of(SWITCH)?, self.network_of(machine)?);
        let address = self.address_of(machine)?;
        let last: u8 = address.rsplit('.').next().unwrap_or_default().parse()?;
        let (port, pid) = (format!("port{last}"), network.to_string());
        // What is left of the machine's network before goes a moment later by itself.
        in_network(switch, &["link", "delete", &port]).ok();
        // The same hardware address again: nobody has to find out.
        let hardware = format!("02:00:00:00:00:{last:02x}");
        let words =
            ["link", "add", "name", &port, "type", "veth", "peer", "name", OWN_END, "address"];
        in_network(switch, &[&words[..], &[&hardware, "netns", &pid]].concat())?;
        in_network(switch, &["link", "set", &port, "master", BRIDGE, "up"])?;
        in_network(network, &["link", "set", "lo", "up"])?;
        in_network(network, &["address", "add", &format!("{address}/24"), "dev", OWN_END])?;
        in_network(network, &["link", "set", OWN_END, "up"])
    }

    /// Switches the machine with the bridge off; its ends of all pairs go with it.
    pub(super) fn cut_the_switch(&self) -> anyhow::Result<()> {
        if self.spec.isolation == Isolation::Networks {
            self.machine(SWITCH).cut_power()?;
        }
        Ok(())
    }

    /// What one machine sends to another is lost from now on.
    pub fn cut(&self, from: &str, to: &str) -> anyhow::Result<()> {
        let (network, address) = (self.network_of(from)?, self.address_of(to)?);
        let nobody = ["lladdr", NOBODY, "nud", "permanent", "dev", OWN_END];
        in_network(network, &[&["neighbour", "replace", &address], &nobody[..]].concat())
    }

    /// Cuts both directions between two machines.
    pub fn cut_both(&self, one: &str, other: &str) -> anyhow::Result<()> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// Cuts a machine off from all others, or from those of a kind.
    pub fn cut_off(&self, machine: &str, from: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        for other in self.spec.topology.machines().filter(|it| *it != machine && from(it)) {
            self.cut_both(machine, other)?;
        }
        Ok(())
    }

    /// Joins everything again.
    pub fn join_all(&self) -> anyhow::Result<()> {
        for machine in self.spec.topology.machines() {
            // One that is switched off has no cuts when it comes back.
            let Ok(network) = self.network_of(machine) else { continue };
            in_network(network, &["neighbour", "flush", "dev", OWN_END, "nud", "permanent"])?;
        }
        Ok(())
    }

    fn network_of(&self, machine: &str) -> anyhow::Result<i32> {
        if self.spec.isolation != Isolation::Networks {
            bail!("this lab's machines have no networks of their own: `--netns`");
        }
        let init = self.machine(machine).init();
        Ok(init.with_context(|| format!("`{machine}` is off"))?.pid)
    }

    fn address_of(&self, machine: &str) -> anyhow::Result<String> {
        let topology = &self.spec.topology;
        let host = topology.hosts.iter().find(|it| it.name == machine).map(|it| &it.address);
        let coordinator = topology.coordinators.iter().find(|it| it.name == machine);
        let found = host.or_else(|| coordinator.map(|it| &it.address));
        let found = found.with_context(|| format!("there is no machine `{machine}`"))?;
        Ok(found.split(':').next().unwrap_or_default().to_owned())
    }
}

/// Tells whether this user may make networks, with the tools that it takes.
pub(super) fn may_make_networks() -> anyhow::Result<()> {
    let trial =
        "ip link add name lab0 type bridge && ip link add name port1 type veth peer name eth1";
    let mut command = Command::new("unshare");
    command.args(["--net", "--pid", "--mount", "--fork", "--mount-proc", "sh", "-c", trial]);
    run(command).context("networks for the machines of a lab need root and `ip` (iproute2)")
}

fn in_network(of: i32, words: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{of}/ns/net")).arg("ip").args(words);
    run(command)
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(words);
    run(command)
}

fn run(mut command: Command) -> anyhow::Result<()> {
    let done = command.stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("start {command:?}"))?;
    if done.status.success() {
        return Ok(());
    }
    bail!("{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim())
}

/// Why a lab with networks cannot be had here, if so.
pub(crate) fn obstacle() -> Option<String> {
    may_make_networks().err().map(|error| format!("{error:#}"))
}
