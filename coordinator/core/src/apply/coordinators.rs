//! Changes of the coordinators' own group, recorded before the engine is told.

use grayfin_types::{Code, event::Body};

use super::Applier;
use crate::{
    cmd::{CoordinatorsWish, Response},
    state::{Act, GroupAct},
};

impl Applier<'_> {
    pub(super) fn coordinators(&mut self, wish: &CoordinatorsWish) -> Response {
        let group = &mut self.state.coordinators;
        match wish.what {
            GroupAct::Add if group.removed.contains(&wish.id) => {
                return Response::refused(
                    Code::GroupChange,
                    format!(
                        "coordinator {} was removed, and an id is never given again: use another one",
                        wish.id
                    ),
                );
            }
            GroupAct::Remove => {
                group.removed.insert(wish.id);
            }
            GroupAct::Add | GroupAct::TransferLead => {}
            GroupAct::Restore | GroupAct::ForceRecover => {
                let why = "this is done to the files of a stopped coordinator";
                return Response::refused(Code::GroupChange, why);
            }
        }
        group.record(Act {
            at_ms: self.at_ms,
            by: wish.by.clone(),
            what: wish.what,
            id: wish.id,
            address: wish.address.clone(),
            reason: wish.reason.clone(),
        });
        let action = format!("coordinator {} {}", wish.what, wish.id);
        let body = Body::Operator { action, reason: wish.reason.clone() };
        self.emit_everywhere(&wish.by, &body);
        Response::Done
    }
}
