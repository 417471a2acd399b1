//! How nodes talk to each other: the clients' port, after a private first line, then frames of a
//! length and a JSON document.

mod frame;
mod peers;

pub(crate) use frame::{Frame, PREFACE, Question, Response, Run, read_frame, write_frame};
pub(crate) use peers::Peers;
