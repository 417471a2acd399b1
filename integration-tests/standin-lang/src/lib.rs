//! The language and the wire protocol of the stand-in DolphinDB node.
//!
//! - [`value`]: values of every form and type a node sends, receives or keeps.
//! - [`wire`]: requests in, replies out, over any byte stream; every length bounded.
//! - [`eval`]: a small expression evaluator. All that concerns the cluster, the clock or the disk
//!   is behind [`eval::Host`], which the node implements; the rest is pure.
//!
//! A node's connection loop is:
//!
//! ```text
//! while let Some(request) = Request::read(&mut reader, &limits).await? {
//!     let outcome = match request.body {
//!         Body::Connect { login } => …
//!         Body::Script(source) => eval::run_script(host, &mut session, &source).await,
//!         Body::Function { name, args } => eval::run_function(host, &mut session, &name, args).await,
//!         Body::Variable { names, values } => { session.variables.extend(names.zip(values)); Ok(None) }
//!     };
//!     let messages = session.take_messages();
//!     if wants_reply { write_reply(&mut writer, &session.id, &outcome, &messages).await?; }
//! }
//! ```
//!
//! This is a test double. Nothing here was checked against a DolphinDB server; the official clients
//! are what it is checked with.

pub mod eval;
pub mod value;
pub mod wire;
