//! Who is connected, and who is locked out.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Wrong passwords within [`WINDOW`] that lock a user out.
const WRONG_MAX: usize = 5;
/// The time they count for.
const WINDOW: Duration = Duration::from_secs(60);
/// How long the user stays locked out.
const LOCKED: Duration = Duration::from_secs(600);

/// One client connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) remote: SocketAddr,
    pub(crate) session: String,
    pub(crate) user: String,
    pub(crate) since_ms: i64,
    pub(crate) active_ms: i64,
    /// What runs now, and since when.
    pub(crate) running: Option<(String, i64)>,
}

/// All client connections, and wrong passwords.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Mutex<BTreeMap<u64, Connection>>,
    wrong: Mutex<BTreeMap<String, Wrong>>,
}

#[derive(Debug, Default)]
struct Wrong {
    times: VecDeque<Instant>,
    locked_at: Option<Instant>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

impl Sessions {
    /// A client connected.
    pub(crate) fn opened(&self, number: u64, connection: Connection) {
        locked(&self.open).insert(number, connection);
    }

    /// It is gone.
    pub(crate) fn closed(&self, number: u64) {
        locked(&self.open).remove(&number);
    }

    /// Something about it changed.
    pub(crate) fn update(&self, number: u64, change: impl FnOnce(&mut Connection)) {
        if let Some(connection) = locked(&self.open).get_mut(&number) {
            change(connection);
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        locked(&self.open).len()
    }

    /// How many run something.
    pub(crate) fn running(&self) -> usize {
        locked(&self.open).values().filter(|c| c.running.is_some()).count()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Connection> {
        locked(&self.open).values().cloned().collect()
    }

    /// Is this user locked out?
    pub(crate) fn is_locked(&self, user: &str, scale: f64) -> bool {
        let locked_for = LOCKED.mul_f64(scale);
        let wrong = locked(&self.wrong);
        wrong.get(user).and_then(|w| w.locked_at).is_some_and(|at| at.elapsed() < locked_for)
    }

    /// A wrong password was given.
    pub(crate) fn wrong_password(&self, user: &str, scale: f64) {
        let mut wrong = locked(&self.wrong);
        let wrong = wrong.entry(user.to_owned()).or_default();
        wrong.times.retain(|at| at.elapsed() < WINDOW.mul_f64(scale));
        wrong.times.push_back(Instant::now());
        if wrong.times.len() >= WRONG_MAX {
            wrong.locked_at = Some(Instant::now());
            wrong.times.clear();
        }
    }

    /// The right one was given.
    pub(crate) fn right_password(&self, user: &str) {
        locked(&self.wrong).remove(user);
    }
}
