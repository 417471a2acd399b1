//! A node for tests, in this process: the stand-in's codec and evaluator with answers set by hand.
//! It counts logins and calls, can hang, break and lie, and keeps one table of rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use grayfin_types::facts::{NodeRole, NodeSpec};
use standin_lang::eval::{self, BoxFuture, CallError, Host, Scan, Session};
use standin_lang::value::{Table, TableHandle, Value};
use standin_lang::wire::{Body, Limits, Request, write_reply};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::files::Site;

/// The password that fake nodes take.
pub(crate) const PASSWORD: &str = "right";

/// What a function does.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Answers this.
    Value(Value),
    /// Answers this error.
    Error(String),
    /// Never answers.
    Hang,
    /// Does its work, and the connection breaks before the answer.
    Break,
}

/// How the node's table behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserts {
    /// Applied and answered.
    Good,
    /// Applied; the connection breaks before the answer.
    AppliedOnly,
    /// Not applied; the connection breaks.
    Lost,
    /// Refused with an error.
    Refused,
    /// Neither applied nor answered.
    Hanging,
}

/// What nodes of one cluster share: the rows of all tables.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) tables: Mutex<BTreeMap<String, Table>>,
    pub(crate) created: AtomicUsize,
}

#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) spec: NodeSpec,
    acts: Mutex<BTreeMap<String, Act>>,
    calls: Mutex<Vec<String>>,
    pub(crate) logins: AtomicUsize,
    pub(crate) unmodelled: Mutex<BTreeSet<String>>,
    pub(crate) inserts: Mutex<Inserts>,
    pub(crate) store: Arc<Store>,
    /// Changed to cut every connection.
    cut: watch::Sender<u64>,
    down: watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Fake {
    /// Starts a node on a free port.
    pub(crate) async fn start(alias: &str, role: NodeRole, store: &Arc<Store>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let spec = Site::parse(&format!("127.0.0.1:{port}:{alias}")).unwrap().spec(role);
        let fake = Arc::new(Self {
            spec,
            acts: Mutex::default(),
            calls: Mutex::default(),
            logins: AtomicUsize::new(0),
            unmodelled: Mutex::default(),
            inserts: Mutex::new(Inserts::Good),
            store: Arc::clone(store),
            cut: watch::Sender::new(0),
            down: watch::Sender::new(false),
        });
        fake.answer("version", Value::string("2.00.8.10 2022.12.20"));
        fake.answer("isNodeInitialized", Value::bool(true));
        fake.answer("isDataNodeInitialized", Value::bool(true));
        fake.answer("isControllerInitialized", Value::bool(true));
        let node = Arc::clone(&fake);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let node = Arc::clone(&node);
                tokio::spawn(async move { node.serve(stream).await });
            }
        });
        fake
    }

    /// Sets what a function answers.
    pub(crate) fn answer(&self, name: &str, value: Value) {
        self.act(name, Act::Value(value));
    }

    /// Sets what a function does.
    pub(crate) fn act(&self, name: &str, act: Act) {
        lock(&self.acts).insert(name.to_owned(), act);
    }

    /// How often a function was called.
    pub(crate) fn count(&self, name: &str) -> usize {
        lock(&self.calls).iter().filter(|call| call.as_str() == name).count()
    }

    /// Cuts every connection; new ones are taken.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    /// Turns every connection away, or no longer.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.send_replace(down);
        self.cut();
    }

    pub(crate) fn set_inserts(&self, inserts: Inserts) {
        *lock(&self.inserts) = inserts;
    }

    async fn serve(&self, stream: TcpStream) {
        let mut cut = self.cut.subscribe();
        if *self.down.borrow() {
            return;
        }
        tokio::select! {
            () = self.talk(stream) => {}
            _ = cut.changed() => {}
        }
    }

    async fn talk(&self, stream: TcpStream) {
        let (reader, mut writer) = stream.into_split();
        let (mut reader, mut session) = (BufReader::new(reader), Session::new("7"));
        while let Ok(Some(request)) = Request::read(&mut reader, &Limits::default()).await {
            let outcome = match request.body {
                Body::Connect { login } => match login {
                    Some(login) if login.password != PASSWORD => {
                        self.logins.fetch_add(1, Ordering::SeqCst);
                        Err("The user name or password is incorrect.".to_owned())
                    }
                    Some(login) => {
                        self.logins.fetch_add(1, Ordering::SeqCst);
                        session.user = login.user;
                        Ok(None)
                    }
                    None => Ok(None),
                },
                Body::Script(source) => eval::run_script(self, &mut session, &source).await,
                Body::Function { name, args } => {
                    eval::run_function(self, &mut session, &name, args).await
                }
                Body::Variable { .. } => Ok(None),
            };
            if outcome.as_ref().is_err_and(|text| text.contains("BREAK")) {
                drop(writer.shutdown().await);
                return;
            }
            if write_reply(&mut writer, "7", &outcome, &[]).await.is_err() {
                return;
            }
        }
    }

    /// Adds rows to the table of a handle.
    fn insert(&self, path: &str, data: &Table) -> Result<Value, CallError> {
        let mut tables = lock(&self.store.tables);
        let table = tables.get_mut(path).ok_or_else(|| CallError::text("no such table"))?;
        table.append(data).map(Value::count).map_err(|error| CallError::text(error.to_string()))
    }
}

impl Host for Fake {
    fn knows(&self, name: &str) -> bool {
        const TABLES: [&str; 5] =
            ["loadTable", "tableInsert", "existsTable", "database", "createPartitionedTable"];
        lock(&self.acts).contains_key(name) || TABLES.contains(&name)
    }

    fn call<'a>(
        &'a self,
        _session: &'a mut Session,
        name: &'a str,
        args: Vec<Value>,
    ) -> BoxFuture<'a, Result<Value, CallError>> {
        Box::pin(async move {
            lock(&self.calls).push(name.to_owned());
            let act = lock(&self.acts).get(name).cloned();
            match act {
                Some(Act::Value(value)) => return Ok(value),
                Some(Act::Error(text)) => return Err(CallError::Error(text)),
                Some(Act::Hang) => return std::future::pending().await,
                Some(Act::Break) => return Err(CallError::text("BREAK")),
                None => {}
            }
            let text = |at: usize| args.get(at).and_then(Value::as_str).unwrap_or_default();
            match name {
                "existsTable" => {
                    let path = format!("{}/{}", text(0), text(1));
                    Ok(Value::bool(lock(&self.store.tables).contains_key(&path)))
                }
                "database" => {
                    let path = text(0).to_owned();
                    Ok(Value::Database(standin_lang::value::Database { path }))
                }
                "createPartitionedTable" => match (args.first(), args.get(1)) {
                    (Some(Value::Database(database)), Some(Value::Table(table))) => {
                        let path = format!("{}/{}", database.path, text(2));
                        lock(&self.store.tables).insert(path, table.clone());
                        self.store.created.fetch_add(1, Ordering::SeqCst);
                        Ok(Value::Nothing)
                    }
                    _ => Err(CallError::text("bad arguments")),
                },
                "loadTable" => {
                    let path = format!("{}/{}", text(0), text(1));
                    if !lock(&self.store.tables).contains_key(&path) {
                        return Err(CallError::text("the table does not exist"));
                    }
                    let (database, table) = (text(0).to_owned(), text(1).to_owned());
                    Ok(Value::TableHandle(TableHandle { database, table }))
                }
                "tableInsert" => {
                    let (Some(Value::TableHandle(handle)), Some(Value::Table(data))) =
                        (args.first(), args.get(1))
                    else {
                        return Err(CallError::text("bad arguments"));
                    };
                    let path = format!("{}/{}", handle.database, handle.table);
                    let how = *lock(&self.inserts);
                    match how {
                        Inserts::Good => self.insert(&path, data),
                        Inserts::AppliedOnly => {
                            self.insert(&path, data)?;
                            Err(CallError::text("BREAK"))
                        }
                        Inserts::Lost => Err(CallError::text("BREAK")),
                        Inserts::Refused => Err(CallError::text("<DataNodeNotReady>not yet")),
                        Inserts::Hanging => std::future::pending().await,
                    }
                }
                _ => Err(CallError::Unknown),
            }
        })
    }

    fn read_table<'a>(
        &'a self,
        _session: &'a mut Session,
        handle: &'a TableHandle,
        _scan: &'a Scan,
    ) -> BoxFuture<'a, Result<Table, CallError>> {
        Box::pin(async move {
            let path = format!("{}/{}", handle.database, handle.table);
            lock(&self.store.tables).get(&path).cloned().ok_or_else(|| CallError::text("no table"))
        })
    }

    fn unmodelled(&self, what: &str) {
        lock(&self.unmodelled).insert(what.to_owned());
    }

    fn now_ms(&self) -> i64 {
        1_770_000_000_000
    }
}
