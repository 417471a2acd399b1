//! Each distinct value once, under a number: what the checker hashes and compares is the number.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::Hash,
    sync::{Arc, PoisonError, RwLock},
};

/// Values by number, and numbers by the value's text.
#[derive(Debug)]
pub struct Interner<T> {
    kept: RwLock<Kept<T>>,
}

#[derive(Debug)]
struct Kept<T> {
    numbers: HashMap<String, u32>,
    values: Vec<Arc<T>>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { kept: RwLock::new(Kept { numbers: HashMap::new(), values: Vec::new() }) }
    }
}

impl<T> Interner<T> {
    /// Returns the number of a value; `text` must tell it from every other value.
    pub fn number(&self, text: String, value: T) -> u32 {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.numbers.get(&text) {
            return *known;
        }
        let number = u32::try_from(kept.values.len()).expect("fewer than 2^32 values fit memory");
        kept.numbers.insert(text, number);
        kept.values.push(Arc::new(value));
        number
    }

    /// Returns the value of a number that [`Self::number`] gave.
    pub fn value(&self, number: u32) -> Arc<T> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(number).expect("a number of 32 bits is an index");
        Arc::clone(kept.values.get(index).expect("numbers are given by this interner alone"))
    }

    /// Returns how many distinct values there are.
    pub fn len(&self) -> usize {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).values.len()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Answers of a pure function, computed once each.
#[derive(Debug)]
pub struct Memo<K, V> {
    known: RwLock<HashMap<K, V>>,
}

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self { known: RwLock::new(HashMap::new()) }
    }
}

impl<K: Debug + Copy + Eq + Hash, V: Clone> Memo<K, V> {
    /// Returns the answer for a key, computing it the first time.
    pub fn get(&self, key: K, compute: impl FnOnce() -> V) -> V {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        known.unwrap_or_else(|| {
            let value = compute();
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.entry(key).or_insert(value).clone()
        })
    }
}
