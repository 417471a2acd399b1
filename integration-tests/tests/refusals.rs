//! What must be refused is refused before anything is stopped: with exit code 1, its own error code,
//! the file, host or line in question, and a page about it. An observer sees that no process of the
//! database changed. One lab serves all cases: each breaks one thing, looks, and mends it.
//!
//! Needs the stand-in for the damaged packages and the licence; the rest could run on a real cluster.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use grayfin_types::Code;
use grayfin_types::plan::PlanAnswer;
use grayfin_types::status::RolloutState;
use integration_tests::binaries::Binaries;
use integration_tests::packages::Packages;
use integration_tests::suite::{self, Changed, FROM, NOTICE_LIMIT, Refusal, TO};
use integration_tests::{Lab, Options, Target, wait};
use standin::config::Role;
use standin::package::{Content, License, PackageFile, Release};

/// What most cases ask for.
fn refusal(code: Code, names: &'static [&'static str]) -> Refusal<'static> {
    Refusal { to: TO, more: &[], code, also: &[], names }
}

/// The zip of the target on a host.
fn zip(lab: &Lab, host: u8) -> anyhow::Result<PathBuf> {
    let release = Release::of(TO).context("the target is modelled")?;
    Ok(lab.paths().packages(&lab.host(host)?.name).join(release.zip_name()))
}

/// A file in `clusterDemo/config` on a host.
fn config(lab: &Lab, host: u8, name: &str) -> anyhow::Result<PathBuf> {
    let work = lab.paths().work(&lab.host(host)?.name, lab.cluster());
    Ok(work.join("config").join(name))
}

fn credentials(lab: &Lab, host: u8) -> anyhow::Result<PathBuf> {
    Ok(lab.paths().agent(&lab.host(host)?.name).join("credentials.toml"))
}

async fn damaged_zip(lab: &Lab) -> anyhow::Result<()> {
    let path = zip(lab, 2)?;
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).context("a zip has bytes")? ^= 0x10;
    let _changed = Changed::to(&path, Some(&bytes))?;
    lab.ensure_refused(&refusal(Code::PackageCorrupt, &["host44", "V2.00.8.12.zip"])).await
}

async fn cut_zip(lab: &Lab) -> anyhow::Result<()> {
    let path = zip(lab, 3)?;
    let bytes = std::fs::read(&path)?;
    let half = bytes.get(..bytes.len() / 2).context("a zip has bytes")?;
    let _changed = Changed::to(&path, Some(half))?;
    lab.ensure_refused(&refusal(Code::PackageCorrupt, &["host45", "V2.00.8.12.zip"])).await
}

async fn missing_zip(lab: &Lab) -> anyhow::Result<()> {
    let _changed = Changed::to(&zip(lab, 3)?, None)?;
    lab.ensure_refused(&refusal(Code::PackageMissing, &["host45"])).await
}

async fn other_version_inside(lab: &Lab) -> anyhow::Result<()> {
    let other = Release::of("2.00.9.4").context("it is modelled")?;
    let other = lab.paths().packages("host44").join(other.zip_name());
    let _changed = Changed::to(&zip(lab, 2)?, Some(&std::fs::read(other)?))?;
    let names = &["host44", "V2.00.8.12.zip", "2.00.9"];
    lab.ensure_refused(&refusal(Code::PackageWrongVersion, names)).await
}

async fn zips_that_differ(lab: &Lab) -> anyhow::Result<()> {
    let release = Release::of(TO).context("the target is modelled")?;
    let mut files = standin::package::files(&release);
    let content = Content::Bytes(b"not in the vendor's package\n".to_vec());
    files.push(PackageFile { path: "server/extra.txt".to_owned(), mode: 0o644, content });
    let folder = tempfile::tempdir()?;
    let other = folder.path().join("other.zip");
    let packages = tokio::task::spawn_blocking(|| Packages::ensure(&Binaries::ensure()?)).await??;
    packages.builder().write_zip_of(&release, &files, &other)?;
    let _changed = Changed::to(&zip(lab, 3)?, Some(&std::fs::read(other)?))?;
    lab.ensure_refused(&refusal(Code::PackageDiffers, &["host45"])).await
}

async fn too_little_room(lab: &Lab) -> anyhow::Result<()> {
    let path = lab.paths().machine(&lab.coordinator(1)?.name).join("coordinator.toml");
    let huge = |text: &str| {
        text.lines()
            .map(|line| match line.starts_with("free_floor_bytes") {
                // An exbibyte: no volume has that.
                true => format!("free_floor_bytes = {}\n", 1_u64 << 60),
                false => format!("{line}\n"),
            })
            .collect()
    };
    let changed = Changed::text(&path, huge)?;
    lab.restart(&Target::Coordinator(1)).await?;
    lab.wait_hosts_connected().await?;
    let refused = lab.ensure_refused(&refusal(Code::DiskTooSmall, &["host43", "host45"])).await;
    drop(changed);
    lab.restart(&Target::Coordinator(1)).await?;
    lab.wait_hosts_connected().await?;
    refused
}

/// Failed logins of a user that the nodes wrote into their logs.
fn failed_logins(lab: &Lab, user: &str) -> anyhow::Result<usize> {
    let mut count = 0;
    for host in &lab.topology().hosts {
        let work = lab.paths().work(&host.name, lab.cluster());
        for entry in std::fs::read_dir(work.join("log"))? {
            let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
            let failed = format!("standin: failed login of {user}");
            count += text.lines().filter(|line| line.contains(&failed)).count();
        }
    }
    Ok(count)
}

async fn wrong_password(lab: &Lab) -> anyhow::Result<()> {
    let user = "watchman";
    let client = lab.ddb("node43")?;
    client.run(&format!("createUser(\"{user}\", \"right horse\", , true)")).await?;
    let changed = Changed::text(&credentials(lab, 2)?, |_| {
        format!(
            "[probe]\nuser = \"{user}\"\npassword = \"wrong horse\"\n\
             [operate]\nuser = \"admin\"\npassword = \"123456\"\n"
        )
    })?;
    let expected = refusal(Code::CredentialsRefused, &["host44", "credentials.toml", "watchman"]);
    // Unknown facts are what comes of it. Each of these is a preflight and a start, with deep looks.
    for _ in 0..3 {
        lab.ensure_refused(&Refusal { also: &[Code::FactUnknown], ..expected }).await?;
    }
    let failed = failed_logins(lab, user)?;
    ensure!(failed == 1, "the wrong password was tried {failed} times");
    drop(changed);
    lab.wait_ready(TO, &[]).await?;
    client.run(&format!("deleteUser(\"{user}\")")).await?;
    Ok(())
}

async fn missing_right(lab: &Lab) -> anyhow::Result<()> {
    let client = lab.ddb("node43")?;
    client.run("createUser(\"porter\", \"a long word\")").await?;
    // Every node has to hear of a new user, and a refused login is not tried again.
    for node in lab.cluster().nodes.iter().filter(|node| node.role != Role::DdbAgent) {
        let client = lab.ddb(node.alias())?;
        wait::until(&format!("`{}` to know the user", node.alias()), NOTICE_LIMIT, || async {
            let users =
                client.texts("getUserList()").await.map_err(|error| format!("{error:#}"))?;
            if users.iter().any(|user| user == "porter") { Ok(()) } else { Err(users.join(" ")) }
        })
        .await?;
    }
    let entry = |name: &str, user: &str, password: &str| {
        format!("[{name}]\nuser = \"{user}\"\npassword = \"{password}\"\n")
    };
    let (probe, operate) =
        (entry("probe", "admin", "123456"), entry("operate", "porter", "a long word"));
    let changed = Changed::text(&credentials(lab, 3)?, |_| format!("{probe}{operate}"))?;
    let expected = refusal(Code::RightMissing, &["host45", "porter", "startDataNode"]);
    lab.ensure_refused(&expected).await?;
    drop(changed);
    lab.wait_ready(TO, &[]).await?;
    client.run("deleteUser(\"porter\")").await?;
    Ok(())
}

async fn unreadable_credentials(lab: &Lab) -> anyhow::Result<()> {
    let changed = Changed::text(&credentials(lab, 1)?, |text| format!("this is no toml\n{text}"))?;
    let expected = refusal(Code::ConfigUnreadable, &["host43", "credentials.toml", "line 1"]);
    let refused = lab.ensure_refused(&Refusal { also: &[Code::FactUnknown], ..expected }).await;
    drop(changed);
    refused
}

async fn unreadable_line(lab: &Lab) -> anyhow::Result<()> {
    let path = config(lab, 2, "cluster.cfg")?;
    let lines = std::fs::read_to_string(&path)?.lines().count();
    let _changed = Changed::text(&path, |text| format!("{text}what is this\n"))?;
    let place = format!("cluster.cfg:{}", lines + 1);
    let names = ["host44", place.as_str(), "what is this"];
    let expected = Refusal { names: &names, ..refusal(Code::ConfigUnreadable, &[]) };
    lab.ensure_refused(&expected).await
}

async fn nodes_that_differ(lab: &Lab) -> anyhow::Result<()> {
    let _changed = Changed::text(&config(lab, 3, "cluster.nodes")?, |text| {
        text.replace(":8923:node44b,", ":8999:node44b,")
    })?;
    lab.ensure_refused(&refusal(Code::NodesDiffer, &["host45", "cluster.nodes"])).await
}

async fn unknown_version(lab: &Lab) -> anyhow::Result<()> {
    for to in ["2.00.8.x", "two", "2.0.8.12"] {
        let names = [to];
        let expected = refusal(Code::UnknownVersion, &[]);
        lab.ensure_refused(&Refusal { to, names: &names, ..expected }).await?;
    }
    Ok(())
}

/// A version that could be, but that nobody has a package of.
async fn unheard_of_version(lab: &Lab) -> anyhow::Result<()> {
    let expected = refusal(Code::PackageMissing, &["host43", "host44", "host45"]);
    lab.ensure_refused(&Refusal { to: "2.00.8.99", ..expected }).await
}

async fn downgrade(lab: &Lab) -> anyhow::Result<()> {
    let expected = refusal(Code::Downgrade, &["host43", FROM]);
    let more = ["--accept-compat-risk", "a test"];
    lab.ensure_refused(&Refusal { to: "2.00.7.4", more: &more, ..expected }).await
}

async fn compatibility(lab: &Lab) -> anyhow::Result<()> {
    let expected = refusal(Code::CompatRisk, &["host43", "level 2"]);
    lab.ensure_refused(&Refusal { to: "2.00.9.4", ..expected }).await
}

async fn other_variant(lab: &Lab) -> anyhow::Result<()> {
    let expected = refusal(Code::VariantMismatch, &["host44", "JIT"]);
    let also = [Code::PackageMissing];
    lab.ensure_refused(&Refusal { to: "2.00.8.12_JIT", also: &also, ..expected }).await
}

/// A licence in place of a host's own, with the host's following controller started under it.
async fn under_licence(lab: &Lab, licence: &License, expected: &Refusal<'_>) -> anyhow::Result<()> {
    let leader = lab.leader(lab.cluster()).await?.host;
    let mut controllers = lab.cluster().with_role(Role::Controller);
    let follower = controllers.find(|node| node.host != leader).context("a follower")?;
    let host = lab.host(follower.host)?.name.clone();
    let alias = follower.alias();
    let path = lab.paths().server(&host, lab.cluster()).join("dolphindb.lic");
    let changed = Changed::to(&path, Some(licence.to_text().as_bytes()))?;
    lab.restart(&Target::Node(alias.to_owned())).await?;
    lab.wait_healthy().await?;
    // The host agents look again a moment later.
    wait::until(&format!("`{alias}` to be seen again"), NOTICE_LIMIT, || async {
        let answer = lab.preflight(TO, &[]).await.map_err(|error| format!("{error:#}"))?;
        let reasons = answer.findings.iter().flat_map(|finding| finding.decision.reasons());
        let others = reasons.filter(|reason| reason.code != expected.code).count();
        if others == 0 { Ok(()) } else { Err(format!("{:?}", suite::against(&answer))) }
    })
    .await?;
    let mut names = expected.names.to_vec();
    names.push(&host);
    let refused = lab.ensure_refused(&Refusal { names: &names, ..*expected }).await;
    drop(changed);
    lab.restart(&Target::Node(alias.to_owned())).await?;
    lab.wait_healthy().await?;
    refused
}

/// Its last day is today: a node still starts under it, tomorrow none does.
async fn expired_licence(lab: &Lab) -> anyhow::Result<()> {
    let today = jiff::Zoned::now().strftime("%Y.%m.%d").to_string();
    let licence = License { expiration: today, ..License::default() };
    under_licence(lab, &licence, &refusal(Code::LicenceExpired, &["would not start again"])).await
}

async fn licence_too_old(lab: &Lab) -> anyhow::Result<()> {
    let licence = License { version: FROM.to_owned(), ..License::default() };
    under_licence(lab, &licence, &refusal(Code::LicenceCap, &[FROM, TO])).await
}

async fn plugin_of_another_version(lab: &Lab) -> anyhow::Result<()> {
    let folder = lab.paths().server("host44", lab.cluster()).join("plugins/mysql");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("PluginMySQL.txt");
    let described = std::fs::read_to_string(&path).unwrap_or_default();
    let text = b"mysql,libPluginMySQL.so,1.30.22\n";
    ensure!(!described.starts_with("mysql,libPluginMySQL.so,1.30.22"), "it is so already");
    let _changed = Changed::to(&path, Some(text))?;
    let expected = refusal(Code::PluginMismatch, &["host44", "mysql", "1.30.22"]);
    lab.ensure_refused(&expected).await
}

async fn missing_agent(lab: &Lab) -> anyhow::Result<()> {
    lab.kill(&Target::Agent(2)).await?;
    let also = [Code::FactStale, Code::FactUnknown, Code::NodeUnclaimed];
    let expected = refusal(Code::AgentMissing, &["host44"]);
    let refused = lab.ensure_refused(&Refusal { also: &also, ..expected }).await;
    lab.restart(&Target::Agent(2)).await?;
    lab.wait_hosts_connected().await?;
    refused
}

async fn controller_down(lab: &Lab) -> anyhow::Result<()> {
    let leader = lab.leader(lab.cluster()).await?.alias().to_owned();
    let mut controllers = lab.cluster().with_role(Role::Controller);
    let follower = controllers.find(|node| node.alias() != leader).context("a follower")?;
    let alias = follower.alias();
    lab.kill(&Target::Node(alias.to_owned())).await?;
    let observer = lab.observer()?;
    let done = lab.cli(&["rollout", "start", "trade", "--to", TO, "--yes"]).await?;
    let said = suite::words(&done);
    let report = observer.stop();
    let changed = report.nodes_that_changed();
    lab.restart(&Target::Node(alias.to_owned())).await?;
    lab.wait_healthy().await?;
    ensure!(done.code == Some(1), "{said}");
    ensure!(said.contains("GF0401") && said.contains(alias), "{said}");
    ensure!(
        said.contains("of 3 configured DolphinDB controllers"),
        "not of the configured: {said}"
    );
    ensure!(changed == [alias], "beside the dead one these changed: {changed:?}");
    suite::ensure_page(Code::QuorumAtRisk)
}

async fn one_replica_host(lab: &Lab) -> anyhow::Result<()> {
    // Six data nodes and no rule that keeps replicas apart: of sixty chunks some have both on one host.
    let make = "db = database(\"dfs://near\", VALUE, 1..60); \
                t = table(1:0, [`part, `x], [INT, INT]); \
                db.createPartitionedTable(t, `rows, `part)";
    let fill = "tableInsert(loadTable(\"dfs://near\", \"rows\"), table(1..60 as part, 1..60 as x))";
    let client = lab.ddb("node43")?.within(Duration::from_secs(60));
    client.run(make).await?;
    // On a busy machine a node may be too late for the transaction, which is then rolled back.
    wait::until("sixty partitions", NOTICE_LIMIT, || async {
        client.run(fill).await.map_err(|error| format!("{error:#}"))
    })
    .await?;
    lab.wait_healthy().await?;
    let controller = lab.ddb(lab.leader(lab.cluster()).await?.alias())?;
    let places = controller
        .texts("exec file + \" \" + concat(replicas, \",\") from getClusterChunksStatus()")
        .await;
    let expected = refusal(Code::ReplicaAtRisk, &["/near/", "host4", "would be on a live node"]);
    let refused = lab.ensure_refused(&expected).await;
    client.run("dropDatabase(\"dfs://near\")").await?;
    refused.with_context(|| format!("replicas: {places:?}"))
}

async fn recovery_wait(lab: &Lab) -> anyhow::Result<()> {
    // 30 s, and 10 s for each GB of the backup: with 6 GiB, most of them a hole, more than a minute.
    let path = lab.paths().server("host43", lab.cluster()).join("dictionary.bin");
    std::fs::File::create(&path)?.set_len(6 << 30)?;
    let expected = refusal(Code::RecoveryWait, &["host43", "dfsRecoveryWaitTime"]);
    let also = [Code::DiskTooSmall];
    let more = ["--recovery", "refuse"];
    let refused = lab.ensure_refused(&Refusal { more: &more, also: &also, ..expected }).await;
    std::fs::remove_file(&path)?;
    refused
}

async fn override_without_effect(lab: &Lab) -> anyhow::Result<()> {
    for more in
        [["--override", "controller-quorum=I know better"], ["--override", "no-such-gate=why not"]]
    {
        let name = more[1].split('=').next().unwrap_or_default();
        let names = [name];
        let expected = Refusal { names: &names, ..refusal(Code::BadRequest, &[]) };
        lab.ensure_refused(&Refusal { more: &more, ..expected }).await?;
    }
    Ok(())
}

/// While one rollout is not finished no other begins.
async fn second_rollout(lab: &Lab) -> anyhow::Result<()> {
    let first = lab.start_rollout(TO, &["--canary", "off"]).await?;
    let done = lab.cli(&["rollout", "start", "trade", "--to", TO, "--yes"]).await?;
    let said = suite::words(&done);
    lab.cli(&["rollout", "abort", &first, "--reason", "the test is over"]).await?;
    let ended = lab.wait_rollout(&first, suite::ROLLOUT_LIMIT).await?;
    ensure!(ended.state == RolloutState::Aborted, "{}", suite::summary(&ended));
    ensure!(done.code == Some(1), "{said}");
    ensure!(said.contains("GF0415") && said.contains(&first), "{said}");
    suite::ensure_page(Code::ClusterBusy)
}

/// Nothing stands against the cluster as it is: every refusal comes from what a case broke.
async fn ensure_ready(lab: &Lab, after: &str) -> anyhow::Result<PlanAnswer> {
    lab.wait_ready(TO, &[]).await.with_context(|| format!("after `{after}`"))?;
    lab.preflight(TO, &[]).await
}

type Case<'lab> =
    (&'static str, std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'lab>>);

fn cases(lab: &Lab) -> Vec<Case<'_>> {
    vec![
        ("damaged zip", Box::pin(damaged_zip(lab))),
        ("cut zip", Box::pin(cut_zip(lab))),
        ("missing zip", Box::pin(missing_zip(lab))),
        ("other version inside", Box::pin(other_version_inside(lab))),
        ("zips that differ", Box::pin(zips_that_differ(lab))),
        ("too little room", Box::pin(too_little_room(lab))),
        ("wrong password", Box::pin(wrong_password(lab))),
        ("missing right", Box::pin(missing_right(lab))),
        ("unreadable credentials", Box::pin(unreadable_credentials(lab))),
        ("unreadable line", Box::pin(unreadable_line(lab))),
        ("cluster.nodes that differ", Box::pin(nodes_that_differ(lab))),
        ("unknown version", Box::pin(unknown_version(lab))),
        ("unheard-of version", Box::pin(unheard_of_version(lab))),
        ("downgrade", Box::pin(downgrade(lab))),
        ("compatibility", Box::pin(compatibility(lab))),
        ("other variant", Box::pin(other_variant(lab))),
        ("plugin of another version", Box::pin(plugin_of_another_version(lab))),
        ("missing host agent", Box::pin(missing_agent(lab))),
        ("recovery wait", Box::pin(recovery_wait(lab))),
        ("override without effect", Box::pin(override_without_effect(lab))),
        ("both replicas on one host", Box::pin(one_replica_host(lab))),
        ("expired licence", Box::pin(expired_licence(lab))),
        ("licence too old", Box::pin(licence_too_old(lab))),
        ("controller down", Box::pin(controller_down(lab))),
        ("second rollout", Box::pin(second_rollout(lab))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_refused_is_refused_before_anything_is_stopped() {
    let options = Options {
        data_nodes_per_host: 2,
        controller_cfg: vec!["dfsReplicaReliabilityLevel=0".to_owned()],
        ..Options::default()
    };
    suite::in_lab(&options, async |lab| {
        ensure_ready(lab, "the start").await?;
        let only = std::env::var("GRAYFIN_CASE").ok();
        let mut failed = Vec::new();
        for (name, case) in cases(lab) {
            if only.as_deref().is_some_and(|only| !name.contains(only)) {
                continue;
            }
            let began = Instant::now();
            let outcome = case.await;
            let took = began.elapsed().as_secs_f64();
            match &outcome {
                Ok(()) => suite::say(&format!("ok   {name} ({took:.1} s)")),
                Err(error) => suite::say(&format!("FAIL {name} ({took:.1} s): {error:#}")),
            }
            if let Err(error) = outcome {
                failed.push(format!("{name}: {error:#}"));
            }
            ensure_ready(lab, name).await?;
        }
        ensure!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
        Ok(())
    })
    .await;
}
