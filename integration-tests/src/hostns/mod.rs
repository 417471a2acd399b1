//! Machines of the lab: each a PID and mount namespace whose first process is our `lab host-init`.
//!
//! Killing the first process kills everything on the machine at once, which is what a power loss is.
//! Where namespaces are not to be had, a machine is a process that adopts its orphans, and a power loss
//! is a signal to every descendant; [`Isolation`] says which it is.

mod init;
mod machine;
mod protocol;

pub use init::{exec_in_new_session, run as run_init};
pub use machine::{Isolation, Machine, disown};
pub use protocol::{Command, Finished, Request, Response};
