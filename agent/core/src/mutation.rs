//! Rules that are broken on purpose, one at a time and chosen at run time, to show that the simulator
//! notices. Compiled into debug builds only: in a release build `is` is always false.

/// Every mutation of this core: its name, which begins with the rule, and what it does.
pub const ALL: &[(&str, &str)] = &[
    ("s2-older-authority", "commands of an older term or incarnation are obeyed"),
    ("s1-promise-while-held", "a promise is given while a hold is open"),
    ("s2-forgets-promise", "a promised token is taken up all the same: the promise is not kept"),
    ("s2-takes-promised-token", "a token at or below the floor is taken up"),
    ("s4-controllers-unchecked", "nobody asks whether a majority of the controllers stays"),
    ("s4-replicas-unchecked", "nobody asks whether every chunk keeps a replica elsewhere"),
    ("s6-swap-without-backup", "the software is replaced without a backup"),
    ("s8-order-twice", "an order that comes again, or late, runs again"),
    ("s8-acts-before-it-writes", "the upgrade is begun without its durable intent"),
    ("s10-captures-again", "an original value is captured again after it was changed"),
    ("s12-no-first-start", "the new version is started without the first-start intent"),
    ("s12-undo-after-first-start", "a failure after the first start is undone"),
    ("commitment-abort-goes-on", "an abort before the upgrade does not turn the sequence round"),
];

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
pub(crate) fn is(name: &str) -> bool {
    CHOSEN.get() == Some(name)
}

/// Tells whether a mutation is on: never.
#[cfg(not(debug_assertions))]
pub(crate) const fn is(_name: &str) -> bool {
    false
}
