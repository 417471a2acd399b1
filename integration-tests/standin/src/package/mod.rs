//! The package of the stand-in: what its zip holds and how a binary knows its version.
//!
//! Everything here is made by us and only behaves like the vendor's package; [`trailer`] is how one
//! compiled binary stands in for many versions.

pub mod trailer;
