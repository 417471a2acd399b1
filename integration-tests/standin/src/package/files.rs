//! What is in a package: every path under `server/`, its mode and its bytes.

use super::license::License;
use super::release::Release;

/// The scripts of `clusterDemo`, by name.
pub const CLUSTER_SCRIPTS: [(&str, &str); 4] = [
    ("startController.sh", include_str!("scripts/startController.sh")),
    ("startAgent.sh", include_str!("scripts/startAgent.sh")),
    ("stopAllNode.sh", include_str!("scripts/stopAllNode.sh")),
    ("upgrade.sh", include_str!("scripts/upgrade.sh")),
];

/// The binary's path; its bytes are [`Content::Program`].
pub const PROGRAM: &str = "server/dolphindb";

/// Mode of nearly everything, the binary included: after unpacking somebody has to make it executable.
const PLAIN: u32 = 0o644;
/// Mode of scripts.
const SCRIPT: u32 = 0o755;

/// Bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The node's binary with the release's trailer.
    Program,
    /// Other bytes.
    Bytes(Vec<u8>),
    /// A folder that is there even when empty.
    Folder,
}

/// One entry of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageFile {
    /// Path with the leading `server/`.
    pub path: String,
    /// Mode in the zip.
    pub mode: u32,
    /// Bytes.
    pub content: Content,
}

/// Lists everything in the package of a release, in the order of the zip.
pub fn files(release: &Release) -> Vec<PackageFile> {
    let mut all =
        vec![PackageFile { path: PROGRAM.into(), mode: PLAIN, content: Content::Program }];
    let mut add = |path: &str, mode: u32, bytes: Vec<u8>| {
        let path = format!("server/{path}");
        all.push(PackageFile { path, mode, content: Content::Bytes(bytes) });
    };
    add("dolphindb.dos", PLAIN, init_script(release).into_bytes());
    add("dolphindb.cfg", PLAIN, b"localSite=localhost:8848:local8848\nmode=single\n".to_vec());
    add("dolphindb.lic", PLAIN, License::default().to_text().into_bytes());
    add("startSingle.sh", SCRIPT, include_bytes!("scripts/startSingle.sh").to_vec());
    add("stopSingle.sh", SCRIPT, include_bytes!("scripts/stopSingle.sh").to_vec());
    add_libraries(release, &mut add);
    add_content(release, &mut add);
    add_cluster_demo(release, &mut add);
    for folder in ["server/tzdb/", "server/clusterDemo/data/", "server/clusterDemo/log/"] {
        all.push(PackageFile { path: folder.into(), mode: SCRIPT, content: Content::Folder });
    }
    all
}

/// Libraries beside the binary: some the same in every release, some not.
fn add_libraries(release: &Release, add: &mut impl FnMut(&str, u32, Vec<u8>)) {
    let version = release.version.as_str();
    add("libDolphinDB.so", PLAIN, noise(version, "libDolphinDB.so", 12_000));
    add("libLLVM-7.1.so", PLAIN, noise("any", "libLLVM-7.1.so", 16_000));
    add("libstdc++.so.6", PLAIN, noise("any", "libstdc++.so.6", 8_000));
    add("libtcmalloc.so.4", PLAIN, noise("any", "libtcmalloc.so.4", 6_000));
    // One library that only this release has, so that each upgrade adds one and drops one.
    let own = format!("libcompat{:02}.so", release.generation);
    add(&own, PLAIN, noise(version, &own, 4_000));
}

/// Modules, plugins, the web pages and the dictionaries.
fn add_content(release: &Release, add: &mut impl FnMut(&str, u32, Vec<u8>)) {
    let version = release.version.as_str();
    for module in ["mytt", "ta"] {
        let text = format!("module {module}\n\ndef {module}Version(){{ return \"{version}\" }}\n");
        add(&format!("modules/{module}.dos"), PLAIN, text.into_bytes());
    }
    for (folder, file, library) in [
        ("parquet", "PluginParquet.txt", "libPluginParquet.so"),
        ("zip", "PluginZip.txt", "libPluginZip.so"),
    ] {
        let text = format!("{folder},{library},{version}\nversion,version,system,0,0,0\n");
        add(&format!("plugins/{folder}/{file}"), PLAIN, text.into_bytes());
        add(&format!("plugins/{folder}/{library}"), PLAIN, noise(version, library, 5_000));
    }
    let script = format!("assets/main-{}.js", version.replace('.', "-"));
    let page =
        format!("<!doctype html><title>stand-in</title><script src=\"{script}\"></script>\n");
    add("web/index.html", PLAIN, page.into_bytes());
    add(&format!("web/{script}"), PLAIN, noise(version, "main.js", 3_000));
    add("dict/jieba.dict.utf8", PLAIN, b"\xe5\xbc\x80\xe6\xba\x90 3 n\n".to_vec());
    add("dict/user.dict.utf8", PLAIN, b"\xe5\x88\x86\xe5\x8c\xba 5 n\n".to_vec());
}

/// `clusterDemo`: scripts and sample configuration.
fn add_cluster_demo(release: &Release, add: &mut impl FnMut(&str, u32, Vec<u8>)) {
    for (name, text) in CLUSTER_SCRIPTS {
        add(&format!("clusterDemo/{name}"), SCRIPT, text.as_bytes().to_vec());
    }
    if release.has_stop_controller {
        let text = include_bytes!("scripts/stopController.sh").to_vec();
        add("clusterDemo/stopController.sh", SCRIPT, text);
    }
    let restart = if release.restarts_data_nodes { "datanodeRestartInterval=30\n" } else { "" };
    let controller = format!(
        "mode=controller\nlocalSite=localhost:8900:controller8900\ndfsReplicationFactor=1\n\
         dfsReplicaReliabilityLevel=2\ndataSync=1\nworkerNum=4\nmaxConnections=512\nmaxMemSize=8\n\
         lanCluster=0\n{restart}"
    );
    add("clusterDemo/config/controller.cfg", PLAIN, controller.into_bytes());
    let agent = "mode=agent\nlocalSite=localhost:8901:agent1\n\
        controllerSite=localhost:8900:controller8900\nworkerNum=4\nmaxMemSize=4\nlanCluster=0\n";
    add("clusterDemo/config/agent.cfg", PLAIN, agent.as_bytes().to_vec());
    let cluster = "maxMemSize=32\nmaxConnections=512\nworkerNum=4\nOLAPCacheEngineSize=1\n\
        TSDBCacheEngineSize=1\nnewValuePartitionPolicy=add\nlanCluster=0\n";
    add("clusterDemo/config/cluster.cfg", PLAIN, cluster.as_bytes().to_vec());
    let nodes = "localSite,mode\nlocalhost:8900:controller8900,controller\n\
        localhost:8901:agent1,agent\nlocalhost:8902:P1-node1,datanode\n";
    add("clusterDemo/config/cluster.nodes", PLAIN, nodes.as_bytes().to_vec());
}

/// The init script, which changes with the release and has to be replaced with it.
fn init_script(release: &Release) -> String {
    let mut text = format!("// stand-in init script of {} ({})\n", release.version, release.date);
    for number in 0..release.generation + 3 {
        text.push_str(&format!("def standInBuiltin{number}(x){{ return x + {number} }}\n"));
    }
    text
}

/// Bytes that do not compress and are always the same for the same names.
fn noise(version: &str, name: &str, length: usize) -> Vec<u8> {
    // FNV-1a for the seed, xorshift for the bytes: nothing here needs to be unpredictable.
    let seed = version.bytes().chain(name.bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn paths(version: &str) -> BTreeSet<String> {
        files(&Release::of(version).unwrap()).into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn every_pair_of_releases_differs_by_added_dropped_and_changed_files() {
        let releases = Release::all();
        for (index, old) in releases.iter().enumerate() {
            for new in releases.iter().skip(index + 1) {
                let (before, after) = (paths(&old.version), paths(&new.version));
                assert!(before.difference(&after).next().is_some(), "nothing dropped");
                assert!(after.difference(&before).next().is_some(), "nothing added");
                assert_ne!(init_script(old), init_script(new));
            }
        }
    }

    #[test]
    fn the_binary_is_not_executable_and_scripts_are() {
        for file in files(&Release::of("3.00.2.1").unwrap()) {
            let script = file.path.ends_with(".sh") || file.content == Content::Folder;
            assert_eq!(file.mode == 0o755, script, "{}", file.path);
        }
        assert!(paths("3.00.2.1").contains("server/clusterDemo/stopController.sh"));
        assert!(!paths("2.00.8.12").contains("server/clusterDemo/stopController.sh"));
    }

    #[test]
    fn there_is_no_script_for_data_nodes() {
        for path in paths("2.00.8.12").iter().filter(|path| path.ends_with(".sh")) {
            assert!(!path.to_lowercase().contains("datanode"), "{path}");
        }
    }

    #[test]
    fn a_plugins_version_is_its_servers() {
        let all = files(&Release::of("2.00.9.4").unwrap());
        let plugin = all.iter().find(|file| file.path.ends_with("PluginZip.txt")).unwrap();
        let Content::Bytes(bytes) = &plugin.content else { panic!("not a file") };
        assert!(bytes.starts_with(b"zip,libPluginZip.so,2.00.9.4\n"));
    }
}
