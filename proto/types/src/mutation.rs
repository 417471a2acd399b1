//! The switch for rules that are broken on purpose, one at a time and chosen at run time, to show that
//! the simulator notices. Each core lists its own; here is which one is on. Debug builds only: in a
//! release build none ever is.

#[cfg(debug_assertions)]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Switches one on for this thread, or all off. Does nothing in a release build.
pub fn set(name: Option<&'static str>) {
    #[cfg(debug_assertions)]
    CHOSEN.set(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// Tells whether a mutation is on.
#[cfg(debug_assertions)]
pub fn is(name: &str) -> bool {
    CHOSEN.get() == Some(name)
}

/// Tells whether a mutation is on: never.
#[cfg(not(debug_assertions))]
pub const fn is(_name: &str) -> bool {
    false
}
