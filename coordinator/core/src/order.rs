//! Which host is next.
