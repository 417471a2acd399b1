//! `controller.cfg` and `agent.cfg`.

use std::path::Path;

use super::error::{Error, read};
use super::properties::{Properties, Property};
use super::site::{Role, Site};

/// `controller.cfg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Where this controller listens.
    pub site: Site,
    /// True for `dfsHAMode=Raft`: the controllers form one Raft group.
    pub ha: bool,
    /// Every line.
    pub properties: Properties,
}

impl ControllerConfig {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::parse(&path.display().to_string(), &read(path)?)
    }

    /// Parses a text; `file` is the name used in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let properties = Properties::parse(file, text)?;
        check_mode(&properties, Role::Controller)?;
        let site = site_of(file, properties.require("localSite")?)?;
        let ha = match properties.property("dfsHAMode") {
            None => false,
            Some(mode) if mode.value.eq_ignore_ascii_case("raft") => true,
            Some(mode) if mode.value.eq_ignore_ascii_case("none") => false,
            Some(mode) => {
                let reason = format!("`{}` is not a valid value of `dfsHAMode`", mode.value);
                return Err(Error::line(file, mode.line, reason));
            }
        };
        Ok(Self { site, ha, properties })
    }
}

/// `agent.cfg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// Where this DolphinDB agent listens.
    pub site: Site,
    /// `controllerSite=`: any one controller.
    pub controller_site: Site,
    /// `sites=`: itself and every controller; only `controllerSite` where the key is absent.
    pub controllers: Vec<Site>,
    /// Every line.
    pub properties: Properties,
}

impl AgentConfig {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::parse(&path.display().to_string(), &read(path)?)
    }

    /// Parses a text; `file` is the name used in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let properties = Properties::parse(file, text)?;
        check_mode(&properties, Role::DdbAgent)?;
        let site = site_of(file, properties.require("localSite")?)?;
        let controller_site = site_of(file, properties.require("controllerSite")?)?;
        let controllers = match properties.property("sites") {
            None => vec![controller_site.clone()],
            Some(sites) => controllers_of(file, sites)?,
        };
        Ok(Self { site, controller_site, controllers, properties })
    }
}

/// Refuses a file written for another role.
fn check_mode(properties: &Properties, role: Role) -> Result<(), Error> {
    match properties.property("mode") {
        None => Ok(()),
        Some(mode) if mode.value == role.as_str() => Ok(()),
        Some(mode) => {
            let reason = format!("`mode={}` in a file for mode `{role}`", mode.value);
            Err(Error::line(properties.file(), mode.line, reason))
        }
    }
}

/// Reads the value of a line as a site.
fn site_of(file: &str, property: &Property) -> Result<Site, Error> {
    property.value.parse().map_err(|reason: String| Error::line(file, property.line, reason))
}

/// Takes the controllers out of `sites=host:port:alias:role[:voter],…`.
fn controllers_of(file: &str, property: &Property) -> Result<Vec<Site>, Error> {
    let mut controllers = Vec::new();
    for item in property.value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let bad = |reason: String| Error::line(file, property.line, reason);
        let parts: Vec<&str> = item.split(':').collect();
        let [host, port, alias, role, rest @ ..] = parts.as_slice() else {
            return Err(bad(format!("`{item}` in `sites` is not host:port:alias:mode")));
        };
        if rest.len() > 1 {
            return Err(bad(format!("`{item}` in `sites` has too many parts")));
        }
        let site: Site = format!("{host}:{port}:{alias}").parse().map_err(bad)?;
        if role.parse::<Role>().map_err(bad)? == Role::Controller {
            controllers.push(site);
        }
    }
    if controllers.is_empty() {
        return Err(Error::line(file, property.line, "`sites` names no controller"));
    }
    Ok(controllers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROLLER: &str = "mode=controller\nlocalSite=10.10.11.2:8920:HActl44\ndfsHAMode=Raft\n\
        dfsReplicationFactor=2\ndataSync=1\nlanCluster=0\ndfsRecoveryWaitTime=30000\n";

    #[test]
    fn reads_a_controller() {
        let config = ControllerConfig::parse("controller.cfg", CONTROLLER).unwrap();
        assert!(config.ha);
        assert_eq!(config.site.alias, "HActl44");
        assert_eq!(config.site.address(), "10.10.11.2:8920");
        assert_eq!(config.properties.number::<u64>("dfsRecoveryWaitTime").unwrap(), Some(30_000));
    }

    #[test]
    fn refuses_another_mode_and_a_missing_site() {
        let error = ControllerConfig::parse("c", "mode=agent\n").unwrap_err();
        assert!(error.to_string().starts_with("c:1: "), "{error}");
        let error = ControllerConfig::parse("c", "mode=controller\n").unwrap_err();
        assert_eq!(error.to_string(), "c: key `localSite` is missing");
        let error = ControllerConfig::parse("c", "localSite=h:99999:a\n").unwrap_err();
        assert_eq!(error.to_string(), "c:1: `99999` in `h:99999:a` is not a port");
        let error = ControllerConfig::parse("c", "localSite=h:1:a\ndfsHAMode=Paxos").unwrap_err();
        assert!(error.to_string().starts_with("c:2: "), "{error}");
    }

    #[test]
    fn reads_an_agent_with_all_controllers() {
        let text = "mode=agent\nlocalSite=h1:8921:agent43\ncontrollerSite=h1:8920:HActl43\n\
            sites=h1:8921:agent43:agent,h1:8920:HActl43:controller,h2:8920:HActl44:controller:voter\n";
        let config = AgentConfig::parse("agent.cfg", text).unwrap();
        assert_eq!(config.site.alias, "agent43");
        let aliases: Vec<_> = config.controllers.iter().map(|site| site.alias.as_str()).collect();
        assert_eq!(aliases, ["HActl43", "HActl44"]);
    }

    #[test]
    fn refuses_bad_sites() {
        let head = "localSite=h1:8921:agent43\ncontrollerSite=h1:8920:c\n";
        for (sites, words) in [
            ("sites=h1:8921:agent43:agent", "names no controller"),
            ("sites=h1:8921", "is not host:port:alias:mode"),
            ("sites=h1:1:a:master", "unknown mode `master`"),
            ("sites=h1:1:a:controller:voter:x", "too many parts"),
        ] {
            let error = AgentConfig::parse("a", &format!("{head}{sites}")).unwrap_err().to_string();
            assert!(error.starts_with("a:3: ") && error.contains(words), "{error}");
        }
    }
}
