//! The machine of a data node, compute node or DolphinDB agent, with its disk and connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use standin_lang::value::{Value, format};
use standin_model::Millis;
use standin_model::ids::RequestId;
use standin_model::member::{Action, Body, CallError, Input, Member};
use standin_model::message::{Answer, Record};
use standin_model::{Alias, ChunkId};

use super::agent;
use super::engine::{Engine, Machine};
use super::shared::Shared;
use crate::faults::Kind;
use crate::net::{Question, Response};
use crate::partition::{from_hex, to_hex};
use crate::store::chunk_file::read_records;
use crate::store::node::NodeStore;
use crate::store::{self, lines};

/// A node that is not a controller.
#[derive(Debug)]
pub(crate) struct MemberMachine {
    pub(crate) member: Member,
    pub(crate) store: Option<NodeStore>,
    shared: Arc<Shared>,
    engine: Engine<Self>,
    pub(crate) ready: Arc<AtomicBool>,
}

impl MemberMachine {
    pub(crate) fn new(
        member: Member,
        store: Option<NodeStore>,
        shared: Arc<Shared>,
        engine: Engine<Self>,
        ready: Arc<AtomicBool>,
    ) -> Self {
        Self { member, store, shared, engine, ready }
    }

    /// The address of a node: controllers from the configuration, others from the leader.
    pub(crate) fn address(&self, alias: &str) -> Option<String> {
        if let Some(site) = self.shared.controller(alias) {
            return Some(site.address());
        }
        let nodes = &self.member.config().nodes;
        nodes.iter().find(|node| node.alias == alias).map(|node| node.site.clone())
    }

    fn act(&mut self, action: Action) -> Result<(), store::Error> {
        match action {
            Action::Store(op) => {
                if let Some(store) = &mut self.store {
                    store.apply(op)?;
                }
            }
            Action::Call { call, to, body, timeout_ms } => self.call(call, &to, body, timeout_ms),
            Action::Reply { request, answer } => self.engine.waiters.answer(request, answer),
            Action::ReadRecords { request, chunk, after, upto } => {
                self.read(request, chunk, after, upto);
            }
            Action::StartNode { request, start } => {
                let (shared, engine) = (Arc::clone(&self.shared), self.engine.clone());
                shared.clone().runtime.spawn(async move {
                    let answer = agent::start_node(&shared, &start).await;
                    engine.waiters.answer(request, answer);
                });
            }
            Action::StopNode { request, site, wait, .. } => {
                let (shared, engine) = (Arc::clone(&self.shared), self.engine.clone());
                shared.clone().runtime.spawn(async move {
                    let answer = agent::stop_node(&shared, &site, wait).await;
                    engine.waiters.answer(request, answer);
                });
            }
            Action::Ready => {
                self.ready.store(true, Ordering::Release);
                super::start::log_complete(&self.shared);
            }
            Action::ViewChanged => self.keep_users(),
        }
        Ok(())
    }

    fn call(&self, call: u64, to: &Alias, body: Body, timeout_ms: u64) {
        let address = self.address(to);
        let (shared, engine) = (Arc::clone(&self.shared), self.engine.clone());
        let question = match body {
            Body::Ask(ask) => Question::Ask(ask),
            Body::Order(order) => Question::Order(order),
        };
        shared.clone().runtime.spawn(async move {
            let limit = Duration::from_millis(timeout_ms);
            let result = match address {
                _ if shared.faults.is_hanging() => {
                    tokio::time::sleep(limit).await;
                    Err(CallError::Timeout)
                }
                Some(address) => shared.peers.ask(&address, question, limit).await,
                None => Err(CallError::Gone),
            };
            let result = result.and_then(|response| match response {
                Response::Answer(answer) => Ok(answer),
                Response::Yes | Response::Value(_) => Err(CallError::Gone),
            });
            engine.input(Input::Called { call, result });
        });
    }

    /// Reads rows aside: files only grow, and what may be read is known now.
    fn read(&self, request: RequestId, chunk: ChunkId, after: u64, upto: u64) {
        let waiters = self.engine.waiters.clone();
        let Some((path, length)) = self.store.as_ref().and_then(|store| store.readable(chunk))
        else {
            return waiters.answer(request, Answer::Failed("the chunk is not here".to_owned()));
        };
        let hidden = self.shared.faults.get(Kind::DropAckedRow).filter(|text| text.contains('='));
        self.shared.runtime.spawn_blocking(move || {
            let answer = match read_records(&path, length, after, upto) {
                Ok((mut records, more)) => {
                    let version = records.last().map_or(after, |record| record.version);
                    if let Some(hidden) = hidden {
                        records.iter_mut().for_each(|record| hide(record, &hidden));
                    }
                    Answer::Records { records, version, more }
                }
                Err(error) => Answer::Failed(format!("{}: {error}", path.display())),
            };
            waiters.answer(request, answer);
        });
    }

    /// Users also go to `sysmgmt`, as on a real node; they are read from the leader.
    fn keep_users(&self) {
        let path = self.shared.places.own.join("sysmgmt/aclCheckPoint.meta");
        let names: Vec<&String> = self.member.users().keys().collect();
        let made = path.parent().map(std::fs::create_dir_all);
        if !matches!(made, Some(Ok(()))) {
            return;
        }
        if let Err(error) = lines::replace(&path, &self.shared.version, &names, false) {
            self.shared.log.warning(&error.to_string());
        }
    }
}

/// The fault that hides rows: takes those with `column=value` out of a record.
fn hide(record: &mut Record, condition: &str) {
    let Some((column, wanted)) = condition.split_once('=') else { return };
    let Some((head, hex)) = record.payload.data.split_once(':') else { return };
    let Ok(Value::Table(table)) = from_hex(hex) else { return };
    let Some(values) = table.column(column) else { return };
    let kept: Vec<usize> = (0..table.rows())
        .filter(|row| {
            let text = values.cells.get(*row).map(|cell| format::cell_text(values.ty, cell));
            text.as_deref() != Some(wanted)
        })
        .collect();
    if let Ok(hex) = to_hex(&Value::Table(table.pick(&kept))) {
        record.payload.data = format!("{head}:{hex}");
    }
}

impl Machine for MemberMachine {
    type Input = Input;

    fn turn(&mut self, now: Millis, input: Option<Input>) -> Result<(), store::Error> {
        for action in self.member.step(now, input.unwrap_or(Input::Tick)) {
            self.act(action)?;
        }
        Ok(())
    }

    fn wakeup(&self) -> Millis {
        self.member.wakeup()
    }
}
