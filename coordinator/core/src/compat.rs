//! What the vendor publishes.
