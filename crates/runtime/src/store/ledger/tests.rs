use super::super::fault::arm;
use super::*;
use std::collections::HashSet;
use std::fs;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn series(name: &str) -> SeriesId {
    SeriesId::of([name.as_bytes()])
}

#[test]
fn a_number_is_burnt_once_for_ever() {
    let folder = folder();
    let ledger = Ledger::open(folder.path()).expect("opens");
    let (a, b) = (series("a"), series("b"));
    let burnt = ledger.burn(a, 7).expect("burns").expect("for the first time");
    assert_eq!(burnt.number(), 7);
    let again = Ledger::open(folder.path()).expect("opens");
    assert_eq!(again.id(), ledger.id());
    for ledger in [&ledger, &again] {
        assert_eq!(ledger.burn(a, 7).expect("works"), None);
        assert!(ledger.is_burnt(a, 7).expect("works"));
        assert!(!ledger.is_burnt(b, 7).expect("works"));
    }
    assert_eq!(again.next(a).expect("works"), Some(8));
    assert_eq!(again.next(b).expect("works"), Some(0));
    assert!(ledger.burn(b, u64::MAX).expect("burns").is_some());
    assert_eq!(again.next(b).expect("works"), None, "there is none after the highest");
}

#[test]
fn the_file_stays_short_and_loses_nothing() {
    let folder = folder();
    let ledger = Ledger::open(folder.path()).expect("opens");
    // Every third number stays unburnt until the end.
    let numbers = (0..150_u64).filter(|number| number % 3 != 1);
    let numbers: Vec<u64> = numbers.chain((0..50).map(|third| 3 * third + 1)).collect();
    for (index, &number) in numbers.iter().enumerate() {
        assert!(ledger.burn(series("a"), number).expect("burns").is_some());
        let len = fs::metadata(folder.path().join(NAME)).expect("is there").len() as usize;
        assert!(len / ENTRY <= SLACK + 2 * 51 + 1, "{len} bytes after {index}");
    }
    assert!(numbers.iter().all(|&number| ledger.burn(series("a"), number).expect("ok").is_none()));
    let len = fs::metadata(folder.path().join(NAME)).expect("is there").len() as usize;
    assert!(len / ENTRY <= SLACK + 2 * 51, "{len} bytes");
}

#[test]
fn a_torn_end_is_forgotten_and_all_other_damage_refused() {
    let folder = folder();
    let ledger = Ledger::open(folder.path()).expect("opens");
    for number in 0..3 {
        ledger.burn(series("a"), number).expect("burns");
    }
    let path = folder.path().join(NAME);
    let whole = fs::read(&path).expect("reads");
    let entries = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("writes");
        let ledger = Ledger::open(folder.path()).ok()?;
        let burnt = (0..3).filter(|&n| ledger.is_burnt(series("a"), n).expect("opened"));
        Some(burnt.count())
    };
    for len in 0..whole.len() {
        let expected = (len >= ENTRY).then(|| len / ENTRY - 1);
        assert_eq!(entries(&whole[..len]), expected, "{len} bytes");
    }
    let zeros = [&whole[..3 * ENTRY], &[0; ENTRY]].concat();
    assert_eq!(entries(&zeros), Some(2));
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        assert_eq!(entries(&flipped), None, "byte {at}");
    }
    // After a torn entry the list goes on where it was whole.
    assert_eq!(entries(&whole[..3 * ENTRY + 20]), Some(2));
    assert!(ledger.burn(series("a"), 2).expect("burns").is_some());
    assert_eq!(fs::read(&path).expect("reads"), whole);
}

#[test]
fn a_crash_anywhere_burns_no_number_twice() {
    for place in Place::ALL {
        for nth in 0..3 {
            let folder = folder();
            let mut burnt = HashSet::new();
            arm(Some((place, nth)));
            // More than what makes the file be written anew.
            for number in 0..SLACK as u64 + 8 {
                let Ok(ledger) = Ledger::open(folder.path()) else { break };
                let Ok(proof) = ledger.burn(series("a"), number) else { break };
                assert!(burnt.insert(proof.expect("for the first time").number()));
            }
            arm(None);
            let ledger = Ledger::open(folder.path()).expect("recovers");
            for number in 0..SLACK as u64 + 8 {
                let proof = ledger.burn(series("a"), number).expect("burns");
                assert!(proof.is_none_or(|proof| burnt.insert(proof.number())), "{place:?} {nth}");
            }
        }
    }
}

#[test]
fn threads_never_share_a_number() {
    let folder = folder();
    let burn = || {
        let ledger = Ledger::open(folder.path()).expect("opens");
        let burnt = (0..20).filter_map(|number| ledger.burn(series("a"), number).expect("works"));
        burnt.map(|burnt| burnt.number()).collect::<Vec<_>>()
    };
    let mut numbers: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(burn)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>(), "each is burnt by one of them");
}
