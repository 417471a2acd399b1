//! The rules of this core that can be broken on purpose: see [`grayfin_types::mutation`].

pub(crate) use grayfin_types::mutation::is;

/// Every mutation of this core: its name, which begins with the rule, and what it does.
pub const ALL: &[(&str, &str)] = &[
    ("s2-no-promise", "a hold takes effect without the promises of the others"),
    ("s1-claims-unchecked", "a live node that no host agent claims does not count"),
    ("s2-refusal-is-fine", "a refused promise counts as given"),
    ("s3-release-by-time", "a hold ends after a while by itself"),
    ("s3-release-without-close", "a hold ends when its host is up, without a durable close"),
    ("s3-break-any-token", "a break names another token and works"),
    ("s3-break-closes", "after a break the host's promise is not awaited"),
    ("s3-old-hold-goes-on", "work goes on under a hold although the state was put back since"),
    ("s5-grant-before-stage", "a host is held before its package is there"),
    ("s7-no-soak", "the next host follows as soon as the gates pass once"),
    ("s7-soak-goes-on", "a bad sample does not begin the soak again"),
    ("s7-caught-up-unchecked", "a controller that names another leader does not count"),
    ("s7-chunks-unchecked", "chunks that recover, or lack replicas, do not count"),
    ("s7-versions-unchecked", "the version that nodes answer with does not count"),
    ("s8-amnesia-unnoticed", "a host agent with an old ledger is taken for whole"),
    ("s8-regrown-unnoticed", "an old copy of a ledger that grew again is taken for whole"),
    ("s8-witness-unheard", "what others promised away for a host does not count"),
    ("s8-closes-amnesic", "a close is decided for a host whose ledger is old"),
    ("s9-unknown-is-fine", "a gate that cannot know passes"),
    ("s9-leader-by-one", "one controller's word makes a leader"),
    ("s9-observer-held", "the held host's agent may be the observer"),
    ("s9-override-all", "every gate can be overridden"),
    ("s9-stale-is-fine", "facts of any age count"),
    ("s11-lost-rows-are-fine", "lost rows of the canary do not halt"),
    ("s11-unread-is-there", "rows that could not be read count as read"),
    ("s11-writer-anywhere", "the canary may write from the held host, or not at all"),
    ("s13-unlisted-is-fine", "what would vanish for good needs nobody's word"),
    ("s13-memory-unchecked", "what is missing in memory afterwards does not count"),
    ("commitment-grant-while-paused", "a paused rollout goes on to the next host"),
    ("commitment-pause-stops-host", "a pause keeps the held host from going on"),
    ("commitment-go-while-aborting", "an aborted rollout gives a go"),
];
