//! Which node runs on which host.
