use super::fault::arm;
use super::*;
use std::collections::HashSet;
use std::fs;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn plan(name: &str) -> Digest {
    Digest::of([name.as_bytes()])
}

const PEER: StoreId = StoreId::from_bytes([9; 16]);

/// A record of the client's with a number and content that says it.
fn record(store: &Store, plan_name: &str, number: u64) -> (RecordInfo, Vec<u8>) {
    let payload = [&number.to_le_bytes()[..], b"secrets"].concat();
    let nonces = [[number as u8; 16], [2; 16]];
    let len = payload.len() as u64;
    let whose = (plan(plan_name), Party::Client);
    (RecordInfo::agree(whose, store.beside(PEER), number, nonces, len), payload)
}

fn open(folder: &Path) -> Store {
    Store::open(folder, Party::Client).expect("opens")
}

/// A store with records of numbers 0, 1, ...
fn filled(folder: &Path, count: u64) -> Store {
    let store = open(folder);
    for number in 0..count {
        let (info, payload) = record(&store, "plan", number);
        store.keep(&info, &payload).expect("is kept");
    }
    store
}

fn claim_number(store: &Store) -> Result<Option<u64>, StoreError> {
    let claimed = store.claim_next(plan("plan"), PEER)?;
    Ok(claimed.map(|claimed| {
        let (burnt, payload) = claimed.into_parts();
        assert_eq!(payload[..8], burnt.number().to_le_bytes());
        burnt.number()
    }))
}

#[test]
fn records_come_back_once_in_order() {
    let folder = folder();
    let store = filled(folder.path(), 3);
    assert_eq!(store.reserve(PEER, 0).expect("works"), 3);
    assert_eq!(store.reserve(PEER, 0).expect("works"), 4, "given out once");
    assert_eq!(store.reserve(PEER, 9).expect("works"), 9);
    let listed: Vec<u64> = store.records().expect("lists").iter().map(|info| info.number).collect();
    assert_eq!(listed, [0, 1, 2]);
    for number in 0..3 {
        assert_eq!(claim_number(&store).expect("works"), Some(number));
    }
    assert_eq!(claim_number(&store).expect("works"), None);
    assert!(record_paths(folder.path()).expect("lists").is_empty(), "they are deleted");
    assert_eq!(open(folder.path()).reserve(PEER, 0).expect("works"), 3, "numbers are not reused");
    assert!(matches!(store.reserve(PEER, u64::MAX), Err(StoreError::OutOfNumbers { .. })));
}

#[cfg(unix)]
#[test]
fn nobody_else_may_look() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = folder();
    let folder = parent.path().join("a/store");
    filled(&folder, 1);
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for path in paths(&folder).expect("lists") {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn a_crash_anywhere_uses_no_record_twice() {
    for place in Place::ALL {
        for nth in 0..6 {
            let folder = folder();
            filled(folder.path(), 2);
            let mut used = HashSet::new();
            arm(Some((place, nth)));
            let mut attempt = || {
                let store = Store::open(folder.path(), Party::Client)?;
                let (info, payload) = record(&store, "plan", 2);
                store.keep(&info, &payload)?;
                while let Some(number) = claim_number(&store)? {
                    assert!(used.insert(number));
                }
                Ok::<_, StoreError>(())
            };
            let died = attempt().is_err();
            arm(None);
            let store = open(folder.path());
            while let Some(number) = claim_number(&store).expect("recovers") {
                assert!(used.insert(number), "{place:?} {nth}: {number} twice");
            }
            assert!(died || used.len() == 3, "{place:?} {nth}");
            let left = paths(folder.path()).expect("lists");
            assert!(left.iter().all(|path| path.extension() != Some(OsStr::new(RECORD))));
        }
    }
}

#[test]
fn a_crash_while_a_record_is_written_leaves_it_whole_or_not_at_all() {
    for place in [Place::HalfWritten, Place::Written, Place::Synced, Place::Renamed] {
        let folder = folder();
        let store = filled(folder.path(), 1);
        let (info, payload) = record(&store, "plan", 1);
        // The header is one part, the payload another.
        arm(Some((place, 0)));
        store.keep(&info, &payload).expect_err("the test ends it");
        arm(None);
        let listed = open(folder.path()).records().expect("lists").len();
        assert_eq!(listed, if place == Place::Renamed { 2 } else { 1 }, "{place:?}");
        let unfinished = |path: &PathBuf| path.extension() == Some(OsStr::new(UNFINISHED));
        assert!(!paths(folder.path()).expect("lists").iter().any(unfinished), "{place:?}");
    }
}

#[test]
fn a_record_copied_back_is_refused() {
    let folder = folder();
    let store = filled(folder.path(), 2);
    let (info, _) = record(&store, "plan", 0);
    let copy = fs::read(store.path(info.id)).expect("reads");
    assert_eq!(claim_number(&store).expect("works"), Some(0));
    fs::write(store.path(info.id), &copy).expect("writes");
    let error = store.claim(info.plan, info.id, info.binding).expect_err("it was used");
    assert!(matches!(error, StoreError::Used { .. }), "{error}");
    fs::write(store.path(info.id), &copy).expect("writes");
    assert_eq!(claim_number(&store).expect("works"), Some(1), "it is not even considered");
    assert_eq!(store.records().expect("lists"), []);
    open(folder.path());
    assert!(!store.path(info.id).exists(), "it is cleared away");
    let (info, payload) = record(&store, "plan", 1);
    assert!(matches!(store.keep(&info, &payload), Err(StoreError::Used { .. })));
}

#[test]
fn what_is_foreign_is_refused() {
    let (ours, theirs) = (folder(), folder());
    let (store, other) = (filled(ours.path(), 1), filled(theirs.path(), 1));
    let (info, payload) = record(&store, "plan", 0);
    let claim = |info: &RecordInfo| store.claim(info.plan, info.id, info.binding).map(drop);
    let foreign = record(&other, "plan", 0).0;
    assert!(matches!(claim(&foreign), Err(StoreError::Unknown { .. })));
    fs::copy(other.path(foreign.id), store.path(foreign.id)).expect("copies");
    assert!(matches!(claim(&foreign), Err(StoreError::ForeignStore { .. })));
    let error = store.claim(plan("another"), info.id, info.binding).map(drop);
    assert!(matches!(error, Err(StoreError::ForeignPlan { .. })));
    let error = store.claim(info.plan, info.id, plan("another")).map(drop);
    assert!(matches!(error, Err(StoreError::Mismatch { .. })));
    assert!(claim(&info).is_ok(), "none of this used it up");

    let error = Store::open(theirs.path(), Party::Server).map(drop);
    assert!(matches!(error, Err(StoreError::ForeignParty { .. })), "{error:?}");
    fs::remove_file(theirs.path().join("ledger")).expect("deletes");
    let error = Store::open(theirs.path(), Party::Client).map(drop);
    assert!(matches!(error, Err(StoreError::NoLedger { .. })));
    assert!(matches!(Store::list(theirs.path()), Err(StoreError::NoStore { .. })));
    assert!(store.keep(&info, &payload).is_err());
}

#[test]
fn every_truncation_and_every_flipped_bit_is_noticed() {
    let folder = folder();
    let store = filled(folder.path(), 1);
    let (info, payload) = record(&store, "plan", 0);
    let path = store.path(info.id);
    let whole = fs::read(&path).expect("reads");
    assert_eq!(whole.len(), record::HEADER + payload.len());
    let damaged = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("writes");
        let read = RecordFile::open(&path).and_then(|record| record.payload(&path));
        matches!(read, Err(StoreError::Damaged { .. }))
    };
    for len in 0..whole.len() {
        assert!(damaged(&whole[..len]), "{len} bytes");
    }
    assert!(damaged(&[&whole[..], &[0]].concat()));
    for bit in 0..8 * whole.len() {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(damaged(&flipped), "bit {bit}");
    }
    // Where only the content is damaged, the record counts as used.
    let mut flipped = whole.clone();
    flipped[record::HEADER] ^= 1;
    fs::write(&path, flipped).expect("writes");
    assert!(matches!(claim_number(&store), Err(StoreError::Damaged { .. })));
    assert!(!path.exists());
    fs::write(&path, whole).expect("writes");
    assert_eq!(claim_number(&store).expect("works"), None);
}

#[test]
fn a_damaged_record_is_named_and_leaves_the_others_alone() {
    let folder = folder();
    let store = filled(folder.path(), 3);
    let path = store.path(record(&store, "plan", 1).0.id);
    fs::write(&path, b"no record").expect("writes");
    for store in [store, open(folder.path())] {
        let Contents { records, unreadable } = Store::list(folder.path()).expect("lists");
        assert_eq!(records.iter().map(|info| info.number).collect::<Vec<_>>(), [0, 2]);
        let [StoreError::Damaged { path: named, .. }] = &unreadable[..] else {
            panic!("{unreadable:?}")
        };
        assert_eq!(*named, path);
        assert_eq!(store.reserve(PEER, 0).expect("works"), 3);
    }
    let store = open(folder.path());
    assert_eq!(claim_number(&store).expect("works"), Some(0));
    assert_eq!(claim_number(&store).expect("works"), Some(2));
    assert_eq!(claim_number(&store).expect("works"), None);
}

#[cfg(unix)]
#[test]
fn a_record_that_goes_while_others_are_listed_is_not_missed() {
    let folder = folder();
    let store = filled(folder.path(), 1);
    let gone = folder.path().join("gone.record");
    std::os::unix::fs::symlink(folder.path().join("nowhere"), gone).expect("links");
    let Contents { records, unreadable } = Store::list(folder.path()).expect("lists");
    assert_eq!((records.len(), unreadable.len()), (1, 0));
    assert_eq!(claim_number(&store).expect("works"), Some(0));
}

#[test]
fn threads_never_share_a_record() {
    let folder = folder();
    filled(folder.path(), 12);
    let claim = || {
        let store = open(folder.path());
        std::iter::from_fn(|| claim_number(&store).expect("works")).collect::<Vec<_>>()
    };
    let mut numbers: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(claim)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (0..12).collect::<Vec<_>>());
}
