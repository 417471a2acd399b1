//! Nodes under a service manager that brings back what dies and starts what is enabled at each boot:
//! while a host is worked on, it starts nothing, and afterwards everything is as it was.
//!
//! The service manager is a stand-in too: the command line is the one of the host agent's own tests,
//! and a loop on each host does what `Restart=always` and `WantedBy=multi-user.target` would.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use grayfin_types::status::RolloutState;
use integration_tests::suite::{self, CANARY, FROM, NOTICE_LIMIT, TO};
use integration_tests::{Lab, Options, Target, wait};
use standin::config::Role;

/// The units' names and the vendor's scripts that they run.
const UNITS: [(Role, &str, &str); 2] = [
    (Role::Controller, "db-controller.service", "startController.sh"),
    (Role::DdbAgent, "db-agent.service", "startAgent.sh"),
];
/// Rounds of the loop that must pass to show that nothing is started; one takes 0.3 s.
const ROUNDS: usize = 8;
/// For a command on a host that ends at once.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// What a service manager does by itself: at the boot it starts what is enabled, and later again what
/// is active and has been gone for a second; never what is masked. The brackets keep `grep` from
/// finding itself.
const MANAGER: &str = "
begin() {
    if ! grep -q ^LoadState=masked units/$1.service; then
        sh ./systemctl start $1.service && echo started $1 >> started
    fi
}
if [ $1 = boot ]; then
    for unit in db-controller db-agent; do
        grep -q ^UnitFileState=enabled units/$unit.service && begin $unit
    done
fi
gone_controller=0
gone_agent=0
while :; do
    for unit in controller:[c]ontroller agent:[a]gent; do
        name=${unit%:*}
        if grep -alz -x ${unit#*:} /proc/[0-9]*/cmdline 2> /dev/null | grep -q . ||
            ! grep -q ^ActiveState=active units/db-$name.service; then
            eval gone_$name=0
        else
            eval gone_$name=$((gone_$name + 1))
        fi
        if [ $((gone_$name)) -gt 3 ]; then
            eval gone_$name=0
            begin db-$name
        fi
    done
    echo round >> rounds
    sleep 0.3
done
";

fn options() -> Options {
    Options {
        version: FROM.to_owned(),
        installation_cfg: vec![
            "units = { controller = \"db-controller.service\", ddb_agent = \"db-agent.service\" }"
                .to_owned(),
        ],
        ..Options::default()
    }
}

fn home(lab: &Lab, host: u8) -> anyhow::Result<PathBuf> {
    Ok(lab.paths().machine(&lab.host(host)?.name).join("manager"))
}

/// Installs the service manager on every host.
async fn install(lab: &Lab) -> anyhow::Result<()> {
    let text = include_str!("../../agent/tests/stand_in_systemctl.sh");
    for host in &lab.topology().hosts {
        let home = home(lab, host.number)?;
        fs::create_dir_all(home.join("units"))?;
        fs::write(home.join("systemctl"), text)?;
        fs::write(home.join("manager"), MANAGER)?;
        fs::set_permissions(home.join("systemctl"), fs::Permissions::from_mode(0o755))?;
        let work = lab.paths().work(&host.name, lab.cluster());
        for (_, unit, script) in UNITS {
            let text = format!(
                "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nMainPID=0\n\
                 ExecStart=cd {} && setsid sh {script}\n",
                work.display()
            );
            fs::write(home.join("units").join(unit), text)?;
        }
        let config = lab.paths().agent(&host.name).join("agent.toml");
        let text = fs::read_to_string(&config)?;
        let program = home.join("systemctl").display().to_string();
        let units = "[installation.units]\n";
        ensure!(text.contains(units), "no units in `{}`: {text}", config.display());
        fs::write(&config, text.replace(units, &format!("{units}systemctl = \"{program}\"\n")))?;
        begin(lab, host.number, "later").await?;
        lab.restart_agent(host.number).await?;
    }
    lab.wait_hosts_connected().await
}

/// Starts a host's service manager, as its boot would.
async fn begin(lab: &Lab, host: u8, how: &str) -> anyhow::Result<()> {
    let command = format!("setsid bash manager {how} > manager.log 2>&1 < /dev/null &");
    let argv = ["bash", "-c", &command];
    let done = lab.run_on(lab.host(host)?, home(lab, host)?, &argv, COMMAND_LIMIT).await?;
    ensure!(done.is_success(), "{done:?}");
    Ok(())
}

/// Waits until the service manager of a host has looked at its units so many times more.
async fn rounds(lab: &Lab, host: u8) -> anyhow::Result<()> {
    let file = home(lab, host)?.join("rounds");
    let count = || fs::read_to_string(&file).unwrap_or_default().lines().count();
    let before = count();
    wait::until_true("the service manager to look at its units", NOTICE_LIMIT, || async {
        count() >= before + ROUNDS
    })
    .await
}

/// What the service manager has started by itself on a host.
fn started(lab: &Lab, host: u8) -> anyhow::Result<usize> {
    let text = fs::read_to_string(home(lab, host)?.join("started")).unwrap_or_default();
    Ok(text.lines().count())
}

/// No node of a host runs.
fn ensure_down(lab: &Lab, host: u8) -> anyhow::Result<()> {
    for node in lab.cluster().nodes.iter().filter(|node| node.host == host) {
        let pid = lab.node(node.alias())?.pid();
        ensure!(pid.is_none(), "`{}` runs", node.alias());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_starts_nothing_while_a_host_is_worked_on_not_even_after_a_reboot() {
    suite::in_lab(&options(), async |lab| {
        install(lab).await?;
        // It does bring back what dies: otherwise this test would show nothing.
        let controller = lab.cluster().on_host(1, Role::Controller).map(|it| it.alias().to_owned());
        let controller = anyhow::Context::context(controller, "a controller")?;
        lab.kill(&Target::Node(controller.clone())).await?;
        wait::until_true("the service manager to bring it back", NOTICE_LIMIT, || async {
            lab.node(&controller).is_ok_and(|node| node.pid().is_some())
        })
        .await?;
        lab.wait_healthy().await?;
        let places = [
            "act.execute.stop.after",
            "ledger.finished.backup.after",
            "act.execute.upgrade.before",
        ];
        let hosts = lab.stand_at(&places).await?;
        let before: BTreeMap<u8, usize> = hosts
            .iter()
            .map(|host| Ok((*host, started(lab, *host)?)))
            .collect::<anyhow::Result<_>>()?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;

        lab.wait_agent_stands(hosts[0]).await?;
        rounds(lab, hosts[0]).await?;
        ensure_down(lab, hosts[0])?;
        lab.agent_goes_on(hosts[0]).await?;

        // With its backup taken the machine loses its power; at the boot the units are masked.
        lab.wait_agent_stands(hosts[1]).await?;
        let name = lab.host(hosts[1])?.name.clone();
        lab.kill(&Target::Host(hosts[1])).await?;
        lab.switch_on(&name).await?;
        begin(lab, hosts[1], "boot").await?;
        rounds(lab, hosts[1]).await?;
        ensure_down(lab, hosts[1])?;
        lab.restart_agent(hosts[1]).await?;

        lab.wait_agent_stands(hosts[2]).await?;
        rounds(lab, hosts[2]).await?;
        ensure_down(lab, hosts[2])?;
        lab.agent_goes_on(hosts[2]).await?;
        lab.ensure_good_end(&id, TO, &observer.stop()).await?;
        let status = lab.rollout(&id).await?;
        ensure!(status.state == RolloutState::Succeeded, "{}", suite::summary(&status));
        for host in &hosts {
            ensure!(
                before.get(host) == Some(&started(lab, *host)?),
                "the service manager of host {host} started something by itself"
            );
            for (_, unit, _) in UNITS {
                let text = fs::read_to_string(home(lab, *host)?.join("units").join(unit))?;
                ensure!(
                    text.contains("UnitFileState=enabled") && text.contains("LoadState=loaded"),
                    "`{unit}` is not as it was: {text}"
                );
            }
        }
        Ok(())
    })
    .await;
}
