//! Deterministic simulation of Grayfin's pure cores.
//!
//! One seed is one run: coordinators (one or three of a group), host agents, their disks, network and
//! clocks, machines and a model of the DolphinDB cluster live in one thread and in virtual time. The
//! decisions are those of the real cores: `grayfin-coordinator-core` (`apply`, `decide`, `go`, `plan`,
//! `explain`) and `grayfin-agent-core` (ledger, fence, sequence, staging, guard, reports). What is
//! played here is what lies around them: [`group`] plays the replicated log, [`agent`] and [`turn`] the
//! runner, [`session`] the hello and the welcome, [`executor`] the contract of the steps, [`cluster`]
//! DolphinDB and the machines, [`world`] network and time, [`faults`], [`losses`] and [`copies`] what goes wrong,
//! [`operator`] and [`mend`] the people.
//!
//! The model of DolphinDB is a compact one of its own. The stand-in's pure cluster logic models
//! messages between nodes, elections by votes and row contents; what the rules need (who leads, who is
//! up, which replica has which version) takes a hundredth of the time here, and time is what a hundred
//! thousand rollouts cost.
//!
//! After everything that happens [`check`] and [`clauses`] judge the rules by [`truth`], which nobody in the
//! simulation can read: what was really down, promised, closed, written, lost.

pub mod agent;
pub mod canary;
pub mod check;
pub mod clauses;
pub mod cluster;
pub mod copies;
pub mod dice;
pub mod executor;
pub mod facts;
pub mod faults;
pub mod group;
pub mod losses;
pub mod mend;
pub mod message;
pub mod mutations;
pub mod old_ledger;
pub mod operator;
pub mod orders;
pub mod run;
pub mod session;
pub mod strays;
pub mod tally;
pub mod truth;
pub mod turn;
pub mod world;
