//! Copying a chunk from another node, as the leader ordered.

use super::asks::Purpose;
use super::{Body, CallError, Member};
use crate::ids::{Alias, ChunkId, Millis};
use crate::message::{Answer, Ask, Order};
use crate::meta::ChunkPlace;

/// A chunk on its way here.
#[derive(Debug)]
pub(super) struct Copying {
    chunk: ChunkId,
    source: Alias,
    upto: u64,
}

impl Member {
    pub(super) fn start_copy(
        &mut self,
        now: Millis,
        task: u64,
        place: ChunkPlace,
        source: Alias,
        upto: u64,
    ) {
        let chunk = place.id;
        if self.chunks.version(&chunk).is_none() {
            self.create_chunk(place);
        }
        self.copies.insert(task, Copying { chunk, source, upto });
        self.copy_more(now, task);
    }

    /// Fetches the next part, or says that all is here.
    fn copy_more(&mut self, now: Millis, task: u64) {
        let Some(copy) = self.copies.get(&task) else { return };
        let Some(has) = self.chunks.version(&copy.chunk) else {
            self.copies.remove(&task);
            return;
        };
        if has >= copy.upto {
            self.report_copy(now, task, Ok(has));
            return;
        }
        let order = Order::Read { chunk: copy.chunk, after: has, upto: copy.upto };
        let to = copy.source.clone();
        self.call(to, Body::Order(order), Purpose::Copied(task));
    }

    pub(super) fn on_copied(&mut self, now: Millis, task: u64, result: Result<Answer, CallError>) {
        let Some(copy) = self.copies.get(&task) else { return };
        let (chunk, before) = (copy.chunk, self.chunks.version(&copy.chunk));
        match result {
            Ok(Answer::Records { records, .. }) => {
                self.append_copied(chunk, records);
                if self.chunks.version(&chunk) == before {
                    let text = "the source gave nothing new".to_owned();
                    self.report_copy(now, task, Err(text));
                } else {
                    self.copy_more(now, task);
                }
            }
            Ok(other) => self.report_copy(now, task, Err(format!("{other:?}"))),
            Err(error) => self.report_copy(now, task, Err(format!("the source: {error:?}"))),
        }
    }

    fn report_copy(&mut self, now: Millis, task: u64, version: Result<u64, String>) {
        let ask = Ask::Recovered { task, alias: self.settings.me.clone(), version };
        let deadline = now + self.settings.timing.leader_wait_ms;
        self.ask(now, ask, Purpose::CopyReported(task), deadline);
    }

    pub(super) fn on_copy_reported(&mut self, now: Millis, task: u64, answer: Option<Answer>) {
        match answer {
            Some(Answer::Continue { version }) => {
                if let Some(copy) = self.copies.get_mut(&task) {
                    copy.upto = version;
                }
                self.copy_more(now, task);
            }
            // Done, refused, or nobody to tell: the leader makes a new task if one is needed.
            Some(_) | None => {
                self.copies.remove(&task);
            }
        }
    }
}
