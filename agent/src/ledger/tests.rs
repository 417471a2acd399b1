use std::path::Path;

use grayfin_agent_core::entry::Authority;
use grayfin_types::{ClusterId, Incarnation, Term, Token};

use super::{testing::ForgetfulFile, *};

fn open(file: &ForgetfulFile) -> Result<Ledger, Error> {
    Ledger::open_on(Box::new(file.clone()), Path::new("/s/ledger"), &"host43".parse().unwrap())
}

fn promised(token: u64) -> Body {
    let cluster: ClusterId = "trade".parse().unwrap();
    let authority =
        Authority { group: "g".to_owned(), incarnation: Incarnation(1), term: Term(token) };
    Body::Promised { cluster, token: Token(token), authority, held: None }
}

/// A promise for a cluster with a long name: several sectors.
fn long(token: u64) -> Body {
    let Body::Promised { cluster, authority, .. } = promised(token) else { unreachable!() };
    let authority = Authority { group: "g".repeat(2000), ..authority };
    Body::Promised { cluster, token: Token(token), authority, held: None }
}

fn floor(ledger: &Ledger) -> u64 {
    ledger.state(|state| state.floor.0)
}

#[test]
fn what_was_appended_survives_and_the_id_stays() {
    let file = ForgetfulFile::default();
    let ledger = open(&file).unwrap();
    let id = ledger.id().clone();
    for token in 1..=5 {
        assert_eq!(ledger.append(promised(token)).unwrap(), token + 1);
        file.lose_power();
        let again = open(&file).unwrap();
        assert_eq!((again.id(), floor(&again), again.position()), (&id, token, token + 1));
    }
    assert_ne!(open(&ForgetfulFile::default()).unwrap().id(), &id, "ids are random");
}

#[test]
fn an_incomplete_last_entry_is_cut_off_wherever_it_was_cut() {
    let base = ForgetfulFile::default();
    let ledger = open(&base).unwrap();
    ledger.append(long(1)).unwrap();
    // A megabyte of preallocated zeros tells no more than a page of them.
    let short = |mut bytes: Vec<u8>| {
        bytes.truncate(8192);
        bytes
    };
    let before = short(base.bytes());
    base.fail_sync();
    assert!(ledger.append(long(2)).is_err());
    let whole = {
        base.lose_power_keeping(|_| true);
        short(base.bytes())
    };
    let last = (0..whole.len()).rev().find(|at| whole[*at] != 0).unwrap();
    let first = (0..whole.len()).find(|at| before.get(*at) != whole.get(*at)).unwrap();
    // Cut after any byte; and any set of sectors missing.
    let mut broken: Vec<Vec<u8>> = (first..=last)
        .map(|cut| {
            let mut bytes = before.clone();
            bytes.resize(whole.len(), 0);
            // The header arrives whole, and then any part of the payload.
            let arrived = if cut < first + 16 { first } else { cut };
            bytes[first..arrived].copy_from_slice(&whole[first..arrived]);
            bytes
        })
        .collect();
    for pattern in 1u32..32 {
        let mut bytes = whole.clone();
        for (n, sector) in (first / 512..=last / 512).enumerate() {
            if pattern & (1 << n) != 0 {
                let (from, to) = ((sector * 512).max(first), ((sector + 1) * 512).min(last + 1));
                if from < to {
                    bytes[from..to].fill(0);
                }
            }
        }
        broken.push(bytes);
    }
    // Without preallocation the file simply ends.
    broken.extend((first..last).map(|end| whole[..end].to_vec()));
    for (n, bytes) in broken.into_iter().enumerate() {
        let hurt = bytes != whole;
        let file = ForgetfulFile::of(bytes);
        let healed = open(&file).unwrap();
        if hurt {
            assert_eq!((floor(&healed), healed.position()), (1, 2));
            // Each append allocates a megabyte: some of the images are enough.
            if n % 50 == 0 {
                healed.append(long(3)).unwrap();
                file.lose_power();
                assert_eq!(floor(&open(&file).unwrap()), 3, "it goes on after the healing");
            }
        }
    }
}

#[test]
fn any_flipped_bit_is_found_and_named() {
    let file = ForgetfulFile::default();
    let ledger = open(&file).unwrap();
    for token in 1..=3 {
        ledger.append(promised(token)).unwrap();
    }
    let good = file.bytes().into_iter().take(4096).collect::<Vec<u8>>();
    let used = (0..good.len()).rev().find(|at| good[*at] != 0).unwrap();
    for at in 0..=used {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            let opened = open(&ForgetfulFile::of(bytes));
            // Bytes that nobody reads: the header's reserve and the padding between records.
            let unread = (12..16).contains(&at) || good[at] == 0;
            match opened {
                Err(e) => {
                    assert_eq!(e.code(), Code::LedgerCorrupt, "{at}.{bit} {e}");
                    assert!(e.to_string().contains("/s/ledger"), "{e}");
                }
                Ok(ledger) => {
                    assert!(unread, "byte {at} bit {bit} went unnoticed");
                    assert_eq!(floor(&ledger), 3);
                }
            }
        }
    }
}

#[test]
fn removed_doubled_and_swapped_entries_are_damage() {
    let file = ForgetfulFile::default();
    let ledger = open(&file).unwrap();
    let mut ends = vec![];
    for token in 1..=3 {
        ledger.append(promised(token)).unwrap();
        let bytes = file.bytes();
        let used = (0..bytes.len()).rev().find(|at| bytes[*at] != 0).unwrap();
        ends.push((used + 1).next_multiple_of(16));
    }
    let good = file.bytes();
    let (a, b, c) = (ends[0], ends[1], ends[2]);
    let removed = [&good[..a], &good[b..]].concat();
    let doubled = [&good[..b], &good[a..b], &good[b..]].concat();
    let swapped = [&good[..a], &good[b..c], &good[a..b], &good[c..]].concat();
    for bytes in [removed, doubled, swapped] {
        let error = open(&ForgetfulFile::of(bytes)).unwrap_err();
        assert!(matches!(error, Error::Damaged { entry: 3 | 4, .. }), "{error}");
    }
    // A cut at the border of two entries cannot be seen here: the coordinator knows the position.
    assert_eq!(floor(&open(&ForgetfulFile::of(good[..b].to_vec())).unwrap()), 2);
}

#[test]
fn a_full_disk_refuses_and_room_that_was_reserved_is_there() {
    let file = ForgetfulFile::default();
    let ledger = open(&file).unwrap();
    ledger.reserve(HOLD_ROOM).unwrap();
    file.set_room(Some(0));
    ledger.append(long(1)).unwrap();
    assert_eq!(ledger.reserve(2 * HOLD_ROOM).unwrap_err().code(), Code::DiskTooSmall);

    let file = ForgetfulFile::default();
    let ledger = open(&file).unwrap();
    file.set_room(Some(0));
    let mut token = 0;
    let full = loop {
        token += 1;
        if let Err(e) = ledger.append(long(token)) {
            break e;
        }
    };
    assert_eq!(full.code(), Code::DiskTooSmall);
    assert_eq!(floor(&ledger), token - 1, "what was not written is not believed");
    file.set_room(None);
    ledger.append(long(token)).unwrap();
    file.lose_power();
    assert_eq!(floor(&open(&file).unwrap()), token, "a full disk that was mended is no damage");
}

#[test]
fn after_a_failed_sync_nothing_is_believed_until_it_is_read_again() {
    let file = ForgetfulFile::default();
    let ledger = open(&file).unwrap();
    file.fail_sync();
    assert!(ledger.append(promised(1)).is_err());
    assert!(matches!(ledger.append(promised(1)).unwrap_err(), Error::Poisoned { .. }));
    assert_eq!(floor(&ledger), 0);
    file.lose_power();
    open(&file).unwrap().append(promised(1)).unwrap();
}

#[test]
fn illegal_entries_are_not_written_and_strangers_ledgers_not_used() {
    let file = ForgetfulFile::default();
    let ledger = open(&file).unwrap();
    let second = Body::Made { ledger: "x".parse().unwrap(), host: "host43".parse().unwrap() };
    assert!(matches!(ledger.append(second).unwrap_err(), Error::Illegal(_)));
    assert_eq!(ledger.position(), 1);
    let other = "host44".parse().unwrap();
    let error = Ledger::open_on(Box::new(file), Path::new("/s/ledger"), &other).unwrap_err();
    assert!(matches!(error, Error::Stranger { .. }), "{error}");
}

#[test]
fn newer_forms_are_refused_with_their_number() {
    let file = ForgetfulFile::default();
    drop(open(&file).unwrap());
    let mut bytes = file.bytes();
    bytes[8] = 2;
    let error = open(&ForgetfulFile::of(bytes)).unwrap_err();
    assert!(matches!(error, Error::Newer { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn only_one_hand_works_on_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let server = folder.path().join("server");
    std::fs::create_dir(&server).unwrap();
    let missing = folder.path().join("missing");
    let held = Locks::take(folder.path(), [server.as_path(), missing.as_path()]).unwrap();
    assert_eq!(held.count(), 2);
    let other = tempfile::tempdir().unwrap();
    for (state, installation) in [(folder.path(), other.path()), (other.path(), server.as_path())] {
        let error = Locks::take(state, [installation]).unwrap_err();
        assert_eq!(error.code(), Code::AgentLocked);
    }
    drop(held);
    Locks::take(folder.path(), [server.as_path()]).unwrap();
}

#[test]
fn a_real_file_is_written_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let host = "host43".parse().unwrap();
    let id = {
        let ledger = Ledger::open(folder.path(), &host).unwrap();
        ledger.reserve(HOLD_ROOM).unwrap();
        ledger.append(long(1)).unwrap();
        ledger.id().clone()
    };
    assert_eq!(peek(folder.path()).unwrap().floor.0, 1);
    let again = Ledger::open(folder.path(), &host).unwrap();
    assert_eq!((again.id(), floor(&again)), (&id, 1));
    // Beside a host agent that works on it, and where there is none.
    assert_eq!(peek(folder.path()).unwrap().floor.0, 1);
    assert_eq!(peek(&folder.path().join("none")).unwrap().position, 0);
}

#[test]
fn reports_are_given_again_from_any_position() {
    use grayfin_agent_core::entry::{Answer, Order, Task};
    let file = ForgetfulFile::default();
    let ledger = open(&file).unwrap();
    let state = grayfin_types::step::SequenceState::Closed;
    let total = RECENT as u64 + 20;
    for number in 1..=total {
        let order = Box::new(Order {
            authority: Authority {
                group: "g".to_owned(),
                incarnation: Incarnation(1),
                term: Term(1),
            },
            cluster: "trade".parse().unwrap(),
            number: grayfin_types::OrderNumber(number),
            token: Token(number),
            rollout: "r".parse().unwrap(),
            task: Task::Close,
        });
        let answer = Answer::yes(Some(state.clone()));
        ledger.append(Body::Ordered { order, answer, boot_id: "b".to_owned() }).unwrap();
    }
    for ledger in [ledger, open(&file).unwrap()] {
        let (all, upto) = ledger.reports_after(0, usize::MAX).unwrap();
        assert_eq!((all.len() as u64, upto), (total, total + 1));
        let (some, upto) = ledger.reports_after(5, 3).unwrap();
        let places: Vec<_> = some.iter().map(|r| r.position).collect();
        assert_eq!((places.as_slice(), upto), (&[6, 7, 8][..], 8));
        let (last, _) = ledger.reports_after(total, 9).unwrap();
        assert_eq!(last.len(), 1);
        assert!(ledger.reports_after(total + 1, 9).unwrap().0.is_empty());
    }
}

#[test]
fn the_running_hash_tells_an_old_copy_that_grew_again_and_is_found_again() {
    let file = ForgetfulFile::default();
    let ledger = open(&file).unwrap();
    ledger.append(promised(1)).unwrap();
    let copy = ForgetfulFile::of(file.bytes());
    for token in 2..=5 {
        ledger.append(promised(token)).unwrap();
    }
    let known = ledger.mark(None);
    assert_eq!((known.position, known.chain.len()), (6, 32));
    assert_eq!(open(&ForgetfulFile::of(file.bytes())).unwrap().mark(None), known);
    // The copy grows beyond the known length, with other promises.
    let old = open(&copy).unwrap();
    assert_eq!(old.mark(Some(2)), ledger.mark(Some(2)), "so far they are one");
    for token in 3..=8 {
        old.append(promised(token)).unwrap();
    }
    assert!(old.position() > known.position);
    assert_ne!(old.mark(Some(6)), known);
    assert_eq!(ledger.mark(Some(7)).chain, "", "nothing stands there");
    let reports = ledger.reports_after(0, 9).unwrap().0;
    assert!(reports.iter().all(|r| r.chain == ledger.mark(Some(r.position)).chain));
}

#[test]
fn entries_are_written_in_the_oldest_form_that_has_them() {
    let file = ForgetfulFile::default();
    let ledger = open(&file).unwrap();
    let version = |file: &ForgetfulFile| {
        let bytes = file.bytes();
        let last = (0..bytes.len()).rev().find(|at| bytes[*at] == b'{' && bytes[*at - 1] < 9);
        bytes[last.unwrap() - 1]
    };
    ledger.append(promised(1)).unwrap();
    assert_eq!(version(&file), 1, "an older host agent reads it");
    let Body::Promised { authority, .. } = promised(1) else { unreachable!() };
    let readmit = grayfin_types::ledger::Readmit {
        act: "a".to_owned(),
        floor: Token(9),
        closes: None,
        orders: [].into(),
        forget: true,
    };
    ledger.append(Body::Readmitted { readmit, authority }).unwrap();
    assert_eq!((version(&file), floor(&open(&file).unwrap())), (2, 9));
}
