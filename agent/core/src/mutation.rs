//! The rules of this core that can be broken on purpose: see [`grayfin_types::mutation`].

pub(crate) use grayfin_types::mutation::is;

/// Every mutation of this core: its name, which begins with the rule, and what it does.
pub const ALL: &[(&str, &str)] = &[
    ("s2-older-authority", "commands of an older term or incarnation are obeyed"),
    ("s2-raise-unproven", "a higher incarnation needs no operator's act"),
    ("s2-newer-term-aborts", "a newer term turns a running sequence round"),
    ("s1-promise-while-held", "a promise is given while a hold is open"),
    ("s1-run-while-held", "another hold is taken up while one is open"),
    ("s2-forgets-promise", "a promised token is taken up all the same: the promise is not kept"),
    ("s2-takes-promised-token", "a token at or below the floor is taken up"),
    ("s4-controllers-unchecked", "nobody asks whether a majority of the controllers stays"),
    ("s4-replicas-unchecked", "nobody asks whether every chunk keeps a replica elsewhere"),
    ("s4-groups-unchecked", "nobody asks whether a majority of each Raft group stays"),
    ("s4-capacity-unchecked", "nobody asks whether new partitions find data nodes"),
    ("s9-contradiction-is-fine", "what the leader says counts, whatever the node itself answers"),
    ("s9-guard-unknown-is-fine", "a guard that cannot know passes"),
    ("s6-swap-without-backup", "the software is replaced without a backup"),
    ("s8-order-twice", "an order that comes again, or late, runs again"),
    ("s8-readmit-without-floor", "a readmitted host does not take the floor of the others"),
    ("s8-acts-before-it-writes", "the upgrade is begun without its durable intent"),
    ("s10-captures-again", "an original value is captured again after it was changed"),
    ("s12-no-first-start", "the new version is started without the first-start intent"),
    ("s12-undo-after-first-start", "a failure after the first start is undone"),
    ("commitment-abort-turns-late", "an abort after the first start is an undo"),
    ("commitment-abort-goes-on", "an abort before the upgrade does not turn the sequence round"),
];
