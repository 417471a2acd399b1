//! The package of the stand-in: what its zip holds and how a binary knows its version.
//!
//! Everything here is made by us and only behaves like the vendor's package. [`Builder`] makes zips
//! and installed trees of a [`Release`] out of one compiled binary, to which [`trailer`] adds the
//! version; [`license`] is the licence file; [`unzip`] serves hosts that have no such program. The
//! scripts of `clusterDemo` are in `scripts/`.

mod build;
mod files;
pub mod license;
mod release;
pub mod trailer;
pub mod unzip;

pub use build::{Builder, Error};
pub use files::{CLUSTER_SCRIPTS, Content, PROGRAM, PackageFile, files};
pub use license::License;
pub use release::Release;
