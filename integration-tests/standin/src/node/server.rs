//! The port: clients and other nodes on the same one, told apart by the first bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng as _;
use standin_lang::eval::{self, Session};
use standin_lang::value::Value;
use standin_lang::wire::{Body, Credentials, Error, Limits, Request, write_reply};
use standin_model::message::{Answer, Order};
use standin_model::{controller, member};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::log::local_ms;
use super::session::Connection;
use super::{Brain, Node, inserts};
use crate::faults::Kind;
use crate::functions::{Caller, remote, users};
use crate::net::{Frame, PREFACE, Question, Response, read_frame, write_frame};

/// Connections when the configuration does not say.
const CONNECTIONS_MAX: usize = 512;

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Accepts connections until the process ends.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let node = Arc::clone(&node);
                tokio::spawn(async move {
                    // A client that breaks the protocol is only disconnected.
                    drop(connection(node, stream, remote).await);
                });
            }
            Err(error) => {
                node.shared.log.error(&format!("accept: {error}"));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(node: Arc<Node>, stream: TcpStream, remote: SocketAddr) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let first = stream.fill_buf().await?.first().copied();
    if first == PREFACE.first().copied() {
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).await?;
        if preface == *PREFACE {
            peer(&node, stream).await?;
        }
        return Ok(());
    }
    let limit = node.shared.setting("maxConnections").and_then(|n| n.parse().ok());
    if node.shared.is_stopping() || node.sessions.count() >= limit.unwrap_or(CONNECTIONS_MAX) {
        return Ok(());
    }
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let outcome = client(&node, stream, remote, number).await;
    node.sessions.closed(number);
    outcome
}

// ----- clients

async fn client(
    node: &Arc<Node>,
    mut stream: BufReader<TcpStream>,
    remote: SocketAddr,
    number: u64,
) -> Result<(), Error> {
    let mut session =
        Session::new(rand::rng().random_range(100_000_000..4_000_000_000_u64).to_string());
    let now = local_ms();
    node.sessions.opened(
        number,
        Connection {
            remote,
            session: session.id.clone(),
            user: "guest".to_owned(),
            since_ms: now,
            active_ms: now,
            running: None,
        },
    );
    let caller = Caller::new(Arc::clone(node), remote);
    let limits = Limits::default();
    while let Some(request) = Request::read(&mut stream, &limits).await? {
        hang_if_told(node, true).await;
        let (wants_reply, api2) = (request.wants_reply(), request.api2);
        let (clear, client) =
            (request.flags.has(standin_lang::wire::Flags::CLEAR_MEMORY), request.client_id.clone());
        session.request = client.zip(request.seq_no);
        let what = describe(&request.body);
        node.sessions.update(number, |c| c.running = Some((what, local_ms())));
        let outcome = answer(&caller, &mut session, request.body).await;
        node.sessions.update(number, |c| {
            c.running = None;
            c.active_ms = local_ms();
            c.user = if session.user.is_empty() { "guest".into() } else { session.user.clone() };
        });
        let messages = session.take_messages();
        if clear {
            session.variables.clear();
        }
        let shown: &[String] = if api2 { &messages } else { &[] };
        let written = if wants_reply {
            write_reply(stream.get_mut(), &session.id, &outcome, shown).await
        } else {
            Ok(())
        };
        settle_inserts(node, &caller, written.is_ok());
        written?;
    }
    Ok(())
}

/// What the client was told is forgotten; what it was not told is written down.
fn settle_inserts(node: &Node, caller: &Caller, told: bool) {
    let home = &node.shared.places.own;
    for tid in caller.take_inserts() {
        if told {
            inserts::forget(home, tid);
        } else if let Err(error) = inserts::record(home, tid) {
            node.shared.log.error(&format!("standin-applied-not-answered: {error}"));
        }
    }
}

/// For the list of running jobs; never with arguments, which may hold a password.
fn describe(body: &Body) -> String {
    match body {
        Body::Connect { .. } => "connect".to_owned(),
        Body::Script(source) if source.contains("login") || source.contains("User(") => {
            "script".to_owned()
        }
        Body::Script(source) => source.chars().take(200).collect(),
        Body::Function { name, .. } => name.chars().take(200).collect(),
        Body::Variable { .. } => "variable".to_owned(),
    }
}

async fn answer(
    caller: &Caller,
    session: &mut Session,
    body: Body,
) -> Result<Option<Value>, String> {
    let node = caller.node();
    match body {
        Body::Connect { login: None } => Ok(None),
        Body::Connect { login: Some(credentials) } => {
            let Credentials { user, password, encrypted } = credentials;
            if encrypted {
                return Err("Encrypted login is not modelled by the stand-in.".to_owned());
            }
            users::login(node, session, &user, &password).await.map_err(|e| e.to_string())?;
            Ok(None)
        }
        Body::Script(_) | Body::Function { .. } if node.shared.is_stopping() => {
            let alias = node.shared.alias();
            Err(format!("<DataNodeNotAvail>The node {alias} is shutting down."))
        }
        Body::Script(source) => {
            if session.user.is_empty() && node.shared.is_on("enableClientAuth") {
                return Err("Login is required for script execution with client authentication \
                            enabled. RefId: S04009"
                    .to_owned());
            }
            eval::run_script(caller, session, &source).await
        }
        Body::Function { name, args } => eval::run_function(caller, session, &name, args).await,
        Body::Variable { names, values } => {
            session.variables.extend(names.into_iter().zip(values));
            Ok(None)
        }
    }
}

/// The fault that leaves everybody, or clients only, without an answer.
async fn hang_if_told(node: &Node, is_client: bool) {
    while let Some(whom) = node.shared.faults.get(Kind::Hang) {
        if whom == "client" && !is_client {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

// ----- other nodes

async fn peer(node: &Arc<Node>, stream: BufReader<TcpStream>) -> Result<(), Error> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (answers, mut queue) = mpsc::channel::<Frame>(1_024);
    let writing = tokio::spawn(async move {
        while let Some(frame) = queue.recv().await {
            if write_frame(&mut writer, &frame).await.is_err() {
                return;
            }
        }
    });
    while let Some(frame) = read_frame(&mut reader).await? {
        hang_if_told(node, false).await;
        match frame {
            Frame::Raft { from, message } => {
                if let Brain::Controller(engine) = &node.brain {
                    engine.input(controller::Input::Raft { from, message });
                }
            }
            Frame::Ask { id, question } => {
                let (node, answers) = (Arc::clone(node), answers.clone());
                tokio::spawn(async move {
                    let response = respond(&node, question).await;
                    hang_if_told(&node, false).await;
                    drop(answers.send(Frame::Answer { id, response }).await);
                });
            }
            Frame::Answer { .. } => break,
        }
    }
    writing.abort();
    Ok(())
}

async fn respond(node: &Arc<Node>, question: Question) -> Response {
    match question {
        Question::Ping if node.shared.is_stopping() => {
            Response::Answer(Answer::Failed("the node is stopping".to_owned()))
        }
        Question::Ping => Response::Yes,
        Question::Shutdown => {
            node.shared.ask_to_stop();
            Response::Yes
        }
        Question::Ask(ask) => {
            let Brain::Controller(engine) = &node.brain else {
                return Response::Answer(Answer::Failed("not a controller".to_owned()));
            };
            let input = |request| controller::Input::Ask { request, ask };
            Response::Answer(engine.request(input).await)
        }
        Question::Order(order) => Response::Answer(obey(node, order).await),
        Question::Run(run) => Response::Value(remote::run_here(node, run).await),
    }
}

async fn obey(node: &Arc<Node>, order: Order) -> Answer {
    let Brain::Member(engine) = &node.brain else {
        return Answer::Failed("a controller takes no orders".to_owned());
    };
    if matches!(order, Order::Recover { .. })
        && node.shared.faults.get(Kind::NeverFinishRecovery).is_some()
    {
        let (node, engine) = (Arc::clone(node), engine.clone());
        tokio::spawn(async move {
            while node.shared.faults.get(Kind::NeverFinishRecovery).is_some() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            engine.request(|request| member::Input::Order { request, order }).await
        });
        return Answer::Done;
    }
    engine.request(|request| member::Input::Order { request, order }).await
}
