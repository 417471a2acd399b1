use super::*;

const GOOD: &str = r#"
host = "host43"
state_dir = "/srv/grayfin/state"
coordinators = ["127.0.0.1:7430", "db1:7430"]
[tls]
ca = "/c/ca.pem"
cert = "/c/a.pem"
key = "/c/a.key"
[[installation]]
cluster = "trade"
server_dir = "/srv/dolphindb/server"
package_dir = "/srv/packages"
backup_dir = "/srv/backups"
credentials_file = "/srv/grayfin/credentials.toml"
[installation.units]
systemctl = "/lab/systemctl"
controller = "ddbcontroller.service"
node43 = "ddb-node43.service"
"#;

fn parse(text: &str) -> Result<Settings, Error> {
    Settings::parse(Path::new("/etc/agent.toml"), text)
}

fn spec(alias: &str, role: grayfin_types::facts::NodeRole) -> grayfin_types::facts::NodeSpec {
    grayfin_types::facts::NodeSpec {
        alias: alias.parse().unwrap(),
        role,
        address: "db1".to_owned(),
        port: 8920,
        compute_group: String::new(),
    }
}

#[test]
fn a_short_file_gets_the_documented_defaults() {
    let settings = parse(GOOD).unwrap();
    assert_eq!(settings.look_interval, Duration::from_millis(LOOK_INTERVAL_MS));
    let one = settings.installation(&"trade".parse().unwrap()).unwrap();
    assert_eq!(one.executable_path(), Path::new("/srv/dolphindb/server/dolphindb"));
    assert_eq!(one.work_dir, Path::new("/srv/dolphindb/server/clusterDemo"));
    assert_eq!(one.upgrade_script, Path::new("/srv/dolphindb/server/clusterDemo/upgrade.sh"));
    assert_eq!(one.start_controller, ["bash", "startController.sh"]);
    assert_eq!(one.start_ddb_agent, ["bash", "startAgent.sh"]);
    assert_eq!(one.stop, StopBy::Signal);
    assert_eq!(one.upgrade_mode, UpgradeMode::Native);
    assert_eq!(one.units.systemctl, "/lab/systemctl");
    use grayfin_types::facts::NodeRole::{Controller, DataNode, DdbAgent};
    assert_eq!(one.units.of(&spec("HActl43", Controller)), Some("ddbcontroller.service"));
    assert_eq!(one.units.of(&spec("node43", DataNode)), Some("ddb-node43.service"));
    assert_eq!(one.units.of(&spec("agent43", DdbAgent)), None);
}

#[test]
fn each_bad_value_is_named_with_its_line() {
    let second = "\n[[installation]]\ncluster = \"trade\"\nserver_dir = \"/x\"\npackage_dir = \"/p\"\nbackup_dir = \"/b\"\ncredentials_file = \"/c\"\n";
    let twice = GOOD.to_owned() + second;
    let cases: Vec<(String, &str, usize)> = vec![
        (GOOD.replace("\"host43\"", "\"ho st\""), "`host`", 2),
        (GOOD.replace("\"/srv/grayfin/state\"", "\"state\""), "`state_dir`", 3),
        (GOOD.replace("\"db1:7430\"", "\"db1\""), "`coordinators`", 4),
        (GOOD.replace("[\"127.0.0.1:7430\", \"db1:7430\"]", "[]"), "`coordinators`", 4),
        (GOOD.replace("[tls]", "look_interval_ms = 1\n[tls]"), "`look_interval_ms`", 5),
        (GOOD.replace("\"/srv/packages\"", "\"packages\""), "`package_dir`", 12),
        (
            GOOD.replace("[installation.units]", "stop = \"kill\"\n[installation.units]"),
            "`stop`",
            15,
        ),
        (
            GOOD.replace("[installation.units]", "stop = \"script\"\n[installation.units]"),
            "`stop`",
            15,
        ),
        (
            GOOD.replace("[installation.units]", "start_controller = []\n[installation.units]"),
            "`start_controller`",
            15,
        ),
        (
            GOOD.replace("[installation.units]", "executable = \"../x\"\n[installation.units]"),
            "`executable`",
            15,
        ),
        (GOOD.replace("[installation.units]", "colour = 1\n[installation.units]"), "colour", 15),
        (twice, "`cluster`", 21),
        ("host = \n".to_owned(), "", 1),
    ];
    for (text, key, line) in cases {
        let error = parse(&text).unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains(key) && shown.contains(&format!("line {line}:")), "{shown}");
        assert!(shown.contains("/etc/agent.toml"), "{shown}");
        assert_eq!(error.code(), Code::ConfigUnreadable);
    }
}

#[test]
fn the_word_that_the_stop_script_kills_by_is_refused_where_it_is_ours() {
    let error = parse(&GOOD.replace("/srv/grayfin/state", "/srv/DolphinDB/state")).unwrap_err();
    assert_eq!(error.code(), Code::ForbiddenName);
    let clean = Appearance {
        user: "root".to_owned(),
        executable: PathBuf::from("/usr/bin/grayfin-agent"),
        arguments: vec!["grayfin-agent".to_owned(), "run".to_owned()],
    };
    assert!(clean.check().is_ok());
    let word = || "x-dolphindb".to_owned();
    let user = Appearance { user: word(), ..clean.clone() };
    let executable = Appearance { executable: word().into(), ..clean.clone() };
    let arguments = Appearance { arguments: vec![word()], ..clean };
    for bad in [user, executable, arguments] {
        assert_eq!(bad.check().unwrap_err().code(), Code::ForbiddenName, "{bad:?}");
    }
}

/// The shipped file lists every key, and those that have a default with that default.
#[test]
fn the_shipped_file_says_what_holds_without_it() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/agent.toml");
    let shipped = Settings::load(&file).unwrap();
    let one = shipped.installations.first().unwrap();
    let plain = parse(GOOD).unwrap();
    let other = plain.installations.first().unwrap();
    assert_eq!(shipped.look_interval, plain.look_interval);
    assert_eq!(one.executable, other.executable);
    assert_eq!(one.work_dir.file_name(), other.work_dir.file_name());
    assert_eq!(one.upgrade_mode, other.upgrade_mode);
    assert_eq!(one.upgrade_script.file_name(), other.upgrade_script.file_name());
    assert_eq!(one.path, other.path);
    assert_eq!(one.start_controller, other.start_controller);
    assert_eq!(one.start_ddb_agent, other.start_ddb_agent);
    assert_eq!(one.stop, other.stop);
    assert_eq!(one.units.systemctl, SYSTEMCTL);
    let text = std::fs::read_to_string(&file).unwrap();
    let error = toml::from_str::<Fragment>(&text.replace("host =", "colour =")).unwrap_err();
    let mut keys = keys_of(error.message());
    let text_bad = text.replace("server_dir =", "colour =");
    keys.extend(keys_of(toml::from_str::<Fragment>(&text_bad).unwrap_err().message()));
    assert!(keys.len() > 15, "{keys:?}");
    for key in keys {
        let there = [format!("\n{key} ="), format!("[{key}]"), format!(".{key}]")];
        assert!(there.iter().any(|form| text.contains(form.as_str())), "`{key}` is not listed");
    }
}

/// Reads the known keys from the complaint about an unknown one.
fn keys_of(message: &str) -> Vec<String> {
    let (_, list) = message.split_once("expected").unwrap();
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn this_very_process_can_be_named() {
    let own = Appearance::own();
    assert!(!own.user.is_empty() && own.executable.is_absolute() && !own.arguments.is_empty());
}
