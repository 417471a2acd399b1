//! A model host: what runs and what is installed stands in small files, so that it survives the
//! host agent's death. It objects (in `violations`) when a step is done that must not be done now.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use grayfin_agent::steps::{Context, Executor, Precheck, Seen, StepError};
use grayfin_types::{Code, NodeAlias, step::Step};

use super::{NEW, NODES, OLD};

#[derive(Debug)]
pub struct Host {
    dir: PathBuf,
}

impl Host {
    /// Makes a host that runs the old version.
    pub fn make(dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        let host = Self::open(dir);
        host.write("installed", OLD);
        for node in NODES {
            host.write(&format!("running.{node}"), OLD);
        }
    }

    pub fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.join(name)).ok()
    }

    fn write(&self, name: &str, content: &str) {
        let new = self.dir.join(format!("{name}.new"));
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, self.dir.join(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        drop(std::fs::remove_file(self.dir.join(name)));
    }

    pub fn note(&self, file: &str, line: &str) {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.dir.join(file))
            .unwrap();
        writeln!(file, "{line}").unwrap();
    }

    fn running(&self, node: &str) -> Option<String> {
        self.read(&format!("running.{node}"))
    }

    fn any_running(&self) -> bool {
        NODES.iter().any(|node| self.running(node).is_some())
    }

    fn object_if(&self, bad: bool, what: &str) {
        if bad {
            self.note("violations", what);
        }
    }

    /// Makes `what` (such as `execute.upgrade`) fail so many times.
    pub fn fault(&self, what: &str, times: u32) {
        self.write(&format!("fault.{what}"), &times.to_string());
    }

    /// Makes `what` hang until it is told to stop.
    pub fn hang(&self, what: &str) {
        self.write(&format!("hang.{what}"), "");
    }

    /// Waits until `what` hangs. A report that its step began comes sooner: whoever ends the host agent
    /// then has it hang again in the next life.
    pub async fn hangs(&self, what: &str) {
        let line = format!("hangs {what}");
        super::eventually(&line, || self.acts().contains(&line)).await;
    }

    fn failing(&self, what: &str) -> Result<(), StepError> {
        let file = format!("fault.{what}");
        let left: u32 = self.read(&file).and_then(|text| text.parse().ok()).unwrap_or(0);
        if left == 0 {
            return Ok(());
        }
        self.write(&file, &(left - 1).to_string());
        Err(StepError::new(Code::ScriptFailed, format!("{what} fails because the test wants it")))
    }

    async fn hanging(&self, what: &str, ctx: &Context) -> Result<(), StepError> {
        if self.read(&format!("hang.{what}")).is_some() {
            self.remove(&format!("hang.{what}"));
            self.note("acts", &format!("hangs {what}"));
            ctx.until(std::future::pending::<()>()).await?;
        }
        Ok(())
    }

    /// What was done, in order.
    pub fn acts(&self) -> Vec<String> {
        self.read("acts").unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// What was done although it must not be.
    pub fn violations(&self) -> Option<String> {
        self.read("violations")
    }

    /// Each node's running version.
    pub fn versions(&self) -> Vec<Option<String>> {
        NODES.iter().map(|node| self.running(node)).collect()
    }

    pub fn all_run(&self, version: &str) -> bool {
        self.versions().iter().all(|running| running.as_deref() == Some(version))
    }

    /// All processes of the host are gone, as after a power loss.
    pub fn kill_nodes(&self) {
        for node in NODES {
            self.remove(&format!("running.{node}"));
        }
    }

    fn start(&self, nodes: &[&str]) {
        let installed = self.read("installed").unwrap();
        self.object_if(self.read("interlock").is_some(), "started under the interlock");
        for node in nodes {
            if self.running(node).is_none() {
                self.write(&format!("running.{node}"), &installed);
            }
        }
    }

    async fn stop(&self, ctx: &Context, going: &[&str], with: &[&str]) -> Result<(), StepError> {
        let nodes: Vec<NodeAlias> = going.iter().map(|node| node.parse().unwrap()).collect();
        let go = ctx.ask_go(&nodes).await?;
        ctx.going_down(go)?;
        for node in going.iter().chain(with) {
            ctx.node(&node.parse().unwrap(), "stopping");
            self.remove(&format!("running.{node}"));
        }
        Ok(())
    }

    async fn do_step(&self, step: Step, ctx: &Context) -> Result<Seen, StepError> {
        match step {
            Step::Stage => self.write("staged", NEW),
            Step::Guard | Step::Join => {}
            Step::Quiesce => {
                let version: String = ctx.capture("version", &OLD.to_owned())?;
                assert_eq!(version, OLD);
                self.stop(ctx, &["node43"], &[]).await?;
            }
            Step::Stop => self.stop(ctx, &["ctl43"], &["agent43"]).await?,
            Step::Backup => {
                self.object_if(self.any_running(), "backup while something runs");
                self.write("interlock", "");
                self.write("backup", &self.read("installed").unwrap());
            }
            Step::Upgrade => {
                self.object_if(self.any_running(), "upgrade while something runs");
                self.object_if(self.read("interlock").is_none(), "upgrade without the interlock");
                self.object_if(self.read("backup").is_none(), "upgrade without a backup");
                ctx.journal("renamed", &"everything")?;
                self.write("installed", NEW);
            }
            Step::Start => {
                self.object_if(!ctx.first_start(), "started without the first-start intent");
                self.remove("interlock");
                self.start(&NODES);
            }
        }
        ctx.progress(1, 1, "steps");
        Ok(Seen(format!("{step} done")))
    }

    fn undo_step(&self, step: Step, ctx: &Context) {
        self.object_if(ctx.first_start(), "undone after the first start");
        match step {
            Step::Upgrade => {
                self.object_if(self.any_running(), "software restored while something runs");
                self.write("installed", OLD);
            }
            Step::Backup => self.remove("interlock"),
            Step::Stop => self.start(&["ctl43", "agent43"]),
            Step::Quiesce => self.start(&["node43"]),
            Step::Stage | Step::Guard | Step::Start | Step::Join => {
                self.object_if(true, "undo of a step that has none");
            }
        }
    }
}

impl Executor for Host {
    async fn settle(&self, _: &Context) -> Result<(), StepError> {
        Ok(())
    }

    async fn precheck(&self, step: Step, ctx: &Context) -> Precheck {
        if let Err(e) = self.failing(&format!("check.{step}")) {
            return e.into();
        }
        if ctx.token().0 > 0
            && let Err(e) = self.failing(&format!("held.{step}"))
        {
            return e.into();
        }
        let installed = self.read("installed");
        let running = |node| self.running(node).is_some();
        let done = match step {
            Step::Stage => self.read("staged").is_some(),
            Step::Guard | Step::Join => false,
            Step::Quiesce => !running("node43"),
            Step::Stop => !self.any_running(),
            Step::Backup => {
                if self.any_running() {
                    return StepError::new(Code::ProcessAppeared, "something runs").into();
                }
                self.read("backup").is_some() && self.read("interlock").is_some()
            }
            Step::Upgrade => installed.as_deref() == Some(NEW),
            Step::Start => self.all_run(NEW),
        };
        assert!(ctx.deadline() > ctx.now());
        if done { Precheck::AlreadyDone(Seen::default()) } else { Precheck::Ready }
    }

    async fn execute(&self, step: Step, ctx: &Context) -> Result<Seen, StepError> {
        self.note("acts", &format!("execute {step}"));
        self.hanging(&format!("execute.{step}"), ctx).await?;
        let seen = self.do_step(step, ctx).await?;
        // It fails after its effect: the worst case for an undo.
        self.failing(&format!("execute.{step}"))?;
        if self.read("panic").is_some() {
            self.remove("panic");
            panic!("because the test wants it");
        }
        // Work on a thread is part of the step.
        ctx.blocking(|ctx| ctx.check()).await?;
        Ok(seen)
    }

    async fn verify(&self, step: Step, _: &Context) -> Result<Seen, StepError> {
        let wrong = |what: &str| Err(StepError::new(Code::JoinFailed, what.to_owned()));
        match step {
            Step::Quiesce if self.running("node43").is_some() => wrong("node43 runs"),
            Step::Stop if self.any_running() => wrong("something runs"),
            Step::Upgrade if self.read("installed").as_deref() != Some(NEW) => wrong("not new"),
            Step::Start | Step::Join if !self.all_run(NEW) => wrong("not all run the new version"),
            Step::Stage
            | Step::Guard
            | Step::Quiesce
            | Step::Stop
            | Step::Backup
            | Step::Upgrade
            | Step::Start
            | Step::Join => Ok(Seen(format!("{step} verified"))),
        }
    }

    async fn undo(&self, step: Step, ctx: &Context) -> Result<Seen, StepError> {
        self.note("acts", &format!("undo {step}"));
        self.failing(&format!("undo.{step}"))?;
        self.undo_step(step, ctx);
        Ok(Seen(format!("{step} undone")))
    }

    async fn tidy(&self, ctx: &Context) -> Result<(), StepError> {
        ctx.until(std::future::ready(())).await
    }
}
