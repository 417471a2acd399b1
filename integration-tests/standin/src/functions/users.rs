//! Users, passwords and rights.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use standin_lang::eval::{CallError, Session};
use standin_lang::value::{TableHandle, Type, Value};
use standin_model::message::Ask;
use standin_model::meta::{Command, User};

use super::identity::texts;
use super::table::{Rows, flag, text};
use super::{By, Call, Function, On, Outcome, f};
use crate::config::Role;
use crate::node::{Brain, Node};

pub(super) const FUNCTIONS: &[Function] = &[
    f("login", &["userId", "password", "encrypted"], On::Any, By::Anybody),
    f("logout", &["userId"], On::Any, By::Anybody),
    f("getCurrentSessionAndUser", &[], On::Any, By::Anybody),
    f("createUser", &["userId", "password", "groupIds", "isAdmin"], On::Any, By::Administrators),
    f("deleteUser", &["userId"], On::Any, By::Administrators),
    f("changePwd", &["oldPwd", "newPwd"], On::Any, By::Users),
    f("resetPwd", &["userId", "newPwd"], On::Any, By::Administrators),
    f("grant", &["userId", "accessType", "objs"], On::Any, By::Administrators),
    f("revoke", &["userId", "accessType", "objs"], On::Any, By::Administrators),
    f("getUserList", &[], On::Any, By::Administrators),
    f("getUserAccess", &["userIds", "finalAccess"], On::Any, By::Users),
];

/// The words for a wrong name as well as for a wrong password.
const WRONG: &str = "The user name or password is incorrect.";
/// From this version on an agent can log users in, without high availability.
const AGENT_LOGIN_SINCE: [u32; 4] = [3, 0, 2, 0];

pub(super) async fn call(call: &mut Call<'_>) -> Outcome {
    match call.name {
        "login" => {
            let (user, password) = (call.text(0)?, call.text(1)?);
            if call.arg(2).as_bool() == Some(true) {
                return Err(call.unmodelled("an encrypted login"));
            }
            login(call.node, call.session, &user, &password).await?;
            Ok(Value::bool(true))
        }
        "logout" => {
            call.session.user.clear();
            call.session.admin = false;
            call.session.rights.clear();
            Ok(Value::Nothing)
        }
        "getCurrentSessionAndUser" => {
            let session = call.session.id.parse::<i64>().unwrap_or(0);
            let user = if call.session.user.is_empty() { "guest" } else { &call.session.user };
            Ok(Value::any([Value::long(session), Value::string(user)]))
        }
        "createUser" => {
            let (name, password) = (call.text(0)?, call.text(1)?);
            if call.node.user(&name).await?.is_some() {
                return Err(CallError::Error(format!("The user {name} already exists.")));
            }
            let admin = call.arg(3).as_bool() == Some(true);
            let user = User { secret: digest(&password), admin, grants: BTreeSet::new() };
            change(call.node, Command::SetUser { name, user }).await
        }
        "deleteUser" => change(call.node, Command::DropUser { name: call.text(0)? }).await,
        "changePwd" => {
            let (old, new) = (call.text(0)?, call.text(1)?);
            let name = call.session.user.clone();
            let mut user = require(call.node, &name).await?;
            if !fits(&user.secret, &old) {
                return Err(CallError::text(WRONG));
            }
            user.secret = digest(&new);
            change(call.node, Command::SetUser { name, user }).await
        }
        "resetPwd" => {
            let (name, new) = (call.text(0)?, call.text(1)?);
            let mut user = require(call.node, &name).await?;
            user.secret = digest(&new);
            change(call.node, Command::SetUser { name, user }).await
        }
        "grant" | "revoke" => grant(call).await,
        "getUserList" => {
            let users = users(call.node).await?;
            Ok(texts(users.into_iter().map(|(name, _)| name).filter(|name| name != "admin")))
        }
        "getUserAccess" => access(call).await,
        _ => Err(CallError::Unknown),
    }
}

/// A salted digest of a password.
pub(crate) fn digest(password: &str) -> String {
    let salt: [u8; 16] = rand::random();
    let salt: String = salt.iter().map(|byte| format!("{byte:02x}")).collect();
    with_salt(&salt, password)
}

fn with_salt(salt: &str, password: &str) -> String {
    let sum = Sha256::digest(format!("{salt}:{password}").as_bytes());
    let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{salt}${sum}")
}

fn fits(secret: &str, password: &str) -> bool {
    let salt = secret.split_once('$').map_or("", |(salt, _)| salt);
    with_salt(salt, password) == secret
}

/// Logs a session in, or says why not; with enhanced security five wrong passwords lock a user.
pub(crate) async fn login(
    node: &Node,
    session: &mut Session,
    name: &str,
    password: &str,
) -> Result<(), CallError> {
    let shared = &node.shared;
    if shared.role == Role::DdbAgent
        && (shared.ha || !shared.version.is_at_least(AGENT_LOGIN_SINCE))
    {
        return Err(CallError::text("login is not supported on an agent."));
    }
    let locks = shared.is_on("enhancedSecurityVerification");
    if locks && node.sessions.is_locked(name, shared.scale) {
        return Err(CallError::Error(format!(
            "The user {name} is locked: too many wrong passwords. Try again in 10 minutes."
        )));
    }
    let user = node.user(name).await?;
    let Some(user) = user.filter(|user| fits(&user.secret, password)) else {
        // Not the server's words: tests count how often a wrong password is tried.
        let shown: String = name.chars().filter(char::is_ascii_graphic).take(64).collect();
        shared.log.warning(&format!("standin: failed login of {shown}"));
        if locks {
            node.sessions.wrong_password(name, shared.scale);
        }
        return Err(CallError::text(WRONG));
    };
    node.sessions.right_password(name);
    name.clone_into(&mut session.user);
    session.admin = user.admin;
    session.rights = user.grants;
    Ok(())
}

async fn change(node: &Node, command: Command) -> Outcome {
    node.ask_leader(Ask::Change(command)).await?;
    Ok(Value::Nothing)
}

async fn require(node: &Node, name: &str) -> Result<User, CallError> {
    let user = node.user(name).await?;
    user.ok_or_else(|| CallError::Error(format!("The user {name} does not exist.")))
}

async fn users(node: &Node) -> Result<Vec<(String, User)>, CallError> {
    let users = match &node.brain {
        Brain::Controller(engine) => engine.look(|m, _| m.controller.meta().users.clone()).await,
        Brain::Member(engine) => engine.look(|m, _| m.member.users().clone()).await,
    };
    Ok(users.map_err(CallError::Error)?.into_iter().collect())
}

/// A right to an object; without an object the right as such, which is also how a function may be
/// granted by its name.
fn right(access: &str, object: &str) -> String {
    if object.is_empty() { access.to_owned() } else { format!("{access} {object}") }
}

async fn grant(call: &Call<'_>) -> Outcome {
    let name = call.text(0)?;
    // The access types are names of constants; scripts here give them as strings too.
    let access = call.text(1)?;
    let objects = if call.given(2).is_some() { call.texts(2)? } else { vec![String::new()] };
    let mut user = require(call.node, &name).await?;
    for object in objects {
        let right = right(&access, &object);
        if call.name == "grant" {
            user.grants.insert(right);
        } else {
            user.grants.remove(&right);
        }
    }
    change(call.node, Command::SetUser { name, user }).await
}

async fn access(call: &Call<'_>) -> Outcome {
    let wanted = match call.given(0) {
        None => vec![call.session.user.clone()],
        Some(_) if call.session.admin => call.texts(0)?,
        Some(_) => {
            return Err(CallError::text("Only administrators can see the access of others."));
        }
    };
    let mut rows = Rows::new(&[
        ("userId", Type::String),
        ("groups", Type::String),
        ("isAdmin", Type::Bool),
        ("rights", Type::String),
    ]);
    for name in wanted {
        let user = require(call.node, &name).await?;
        let rights: Vec<String> = user.grants.into_iter().collect();
        rows.push([text(name), text(""), flag(user.admin), text(rights.join(","))]);
    }
    rows.done()
}

fn holds(session: &Session, access: &[&str], objects: &[&str]) -> bool {
    session.admin
        || access.iter().any(|access| {
            session.rights.contains(*access)
                || objects.iter().any(|object| session.rights.contains(&right(access, object)))
        })
}

fn refused(session: &Session, access: &str, object: &str) -> CallError {
    let user = if session.user.is_empty() { "guest" } else { &session.user };
    CallError::Error(format!("Not granted to {access} {object}: the user {user}."))
}

/// May this session do this to a database?
pub(super) fn may(call: &Call<'_>, access: &str, database: &str) -> Result<(), CallError> {
    let all = [access, "DB_OWNER", "DB_MANAGE"];
    match holds(call.session, &all, &[database, "*"]) {
        true => Ok(()),
        false => Err(refused(call.session, access, database)),
    }
}

fn objects_of(handle: &TableHandle) -> [String; 3] {
    let table = format!("{}/{}", handle.database, handle.table);
    [table, handle.database.clone(), "*".to_owned()]
}

/// May this session change the rows of a table?
pub(super) fn may_table(
    call: &Call<'_>,
    access: &str,
    handle: &TableHandle,
) -> Result<(), CallError> {
    let objects = objects_of(handle);
    let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
    let all = [access, "TABLE_WRITE", "DB_WRITE", "DB_OWNER", "DB_MANAGE"];
    match holds(call.session, &all, &objects) {
        true => Ok(()),
        false => Err(refused(call.session, access, &objects.join(" or "))),
    }
}

/// May this session read the rows of a table?
pub(super) fn may_read(session: &Session, handle: &TableHandle) -> Result<(), CallError> {
    let objects = objects_of(handle);
    let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
    let all = ["TABLE_READ", "DB_READ", "DB_OWNER", "DB_MANAGE"];
    match holds(session, &all, &objects) {
        true => Ok(()),
        false => Err(refused(session, "TABLE_READ", &objects.join(" or "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_fits_its_password_and_hides_it() {
        let secret = digest("pass:word");
        assert!(fits(&secret, "pass:word"));
        assert!(!fits(&secret, "password"));
        assert!(!secret.contains("word"));
        assert_ne!(secret, digest("pass:word"));
    }
}
