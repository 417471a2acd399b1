//! The core as its driver uses it: gates one by one, and whole rollouts in virtual time with fake
//! host agents, lost and late messages, restarts and operators.

mod agent;
mod gates;
mod model;
mod plans;
mod properties;
mod rollout;
mod steering;
mod trouble;
mod world;
