//! The gates whose removal loses least, by dynamic programming over the table of bytes.
//!
//! After the two-stage view of depth compression (Kim et al., arXiv 2301.12187; LayerMerge, arXiv 2406.12837):
//! measure first what each part is worth, then solve for the best set exactly.

use super::limits::Limits;
use crate::train::gates::GateCosts;
use std::mem::take;

/// More partial sets than this are thinned out. No network has so many gates that it comes to that.
const MOST_SETS: usize = 1 << 20;

/// The gates to keep: those that may not go, and of the others the set within the limits of the
/// largest total importance. Where importances add up, no set loses less.
pub(in crate::train) fn choose(
    costs: &GateCosts,
    importances: &[f64],
    limits: &Limits,
) -> Vec<bool> {
    let (mut kept, searched) = (costs.fixed(), costs.searched());
    let gates: Vec<usize> = (0..kept.len()).filter(|&gate| searched[gate]).collect();
    let item = |&gate: &usize| Item { bytes: costs.saving(gate), importance: importances[gate] };
    let items: Vec<Item> = gates.iter().map(item).collect();
    for chosen in best_set(&items, limits.bytes - costs.smallest(), limits.gates) {
        kept[gates[chosen]] = true;
    }
    kept
}

/// What keeping a gate costs and is worth.
#[derive(Clone, Copy, Debug)]
struct Item {
    bytes: f64,
    importance: f64,
}

/// A set of items: its sums, and how it came about.
#[derive(Clone, Copy)]
struct Set {
    bytes: f64,
    importance: f64,
    last: Option<usize>,
}

/// An item added to a set, that one's own last addition being `before`.
struct Addition {
    item: usize,
    before: Option<usize>,
}

/// The positions of the items that together are worth most, of at most `most` items and `room` bytes.
///
/// Item by item, every set so far is kept unless another one of as many items is worth as much for
/// no more bytes (Nemhauser and Ullmann, 1969).
fn best_set(items: &[Item], room: f64, most: usize) -> Vec<usize> {
    // Where the number of items does not matter, all sets compete with each other.
    let counted = most < items.len();
    let empty = Set { bytes: 0.0, importance: 0.0, last: None };
    let mut fronts: Vec<Vec<Set>> = vec![vec![]; if counted { most + 1 } else { 1 }];
    fronts[0].push(empty);
    let mut additions: Vec<Addition> = vec![];
    for (number, item) in items.iter().enumerate() {
        // From the largest sets down, so that no item is added twice.
        for count in (0..fronts.len()).rev() {
            let fits = |set: &&Set| set.bytes + item.bytes <= room;
            let mut grown = vec![];
            for set in fronts[count].iter().filter(fits) {
                additions.push(Addition { item: number, before: set.last });
                grown.push(Set {
                    bytes: set.bytes + item.bytes,
                    importance: set.importance + item.importance,
                    last: Some(additions.len() - 1),
                });
            }
            if let Some(front) = fronts.get_mut(if counted { count + 1 } else { count }) {
                front.append(&mut grown);
                *front = undominated(take(front), room);
            }
        }
    }
    let best = fronts.iter().flatten().max_by(|a, b| {
        let by_bytes = || b.bytes.total_cmp(&a.bytes);
        a.importance.total_cmp(&b.importance).then_with(by_bytes)
    });
    let mut last = best.and_then(|set| set.last);
    let mut chosen = vec![];
    while let Some(addition) = last.and_then(|position| additions.get(position)) {
        chosen.push(addition.item);
        last = addition.before;
    }
    chosen
}

/// The sets that no other one beats in both sums, fewest bytes first.
fn undominated(mut sets: Vec<Set>, room: f64) -> Vec<Set> {
    sets.sort_by(|a, b| {
        let by_importance = || b.importance.total_cmp(&a.importance);
        a.bytes.total_cmp(&b.bytes).then_with(by_importance)
    });
    let mut best = f64::NEG_INFINITY;
    sets.retain(|set| {
        let is_better = set.importance > best;
        best = best.max(set.importance);
        is_better
    });
    if sets.len() > MOST_SETS {
        // The most important one of each of many equal steps of bytes.
        let step = |set: &Set| (set.bytes / room * MOST_SETS as f64 / 2.0) as usize;
        sets.reverse();
        sets.dedup_by_key(|set| step(set));
        sets.reverse();
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::SearchedGates;
    use copriv_ir::{Architecture, Gates, Network};
    use proptest::prelude::*;

    fn items() -> impl Strategy<Value = Vec<Item>> {
        // Whole numbers, so that sums are exact and sets tie.
        let item = (0u32..60, -5i32..40).prop_map(|(bytes, importance)| Item {
            bytes: bytes.into(),
            importance: importance.into(),
        });
        proptest::collection::vec(item, 0..11)
    }

    fn sums(items: &[Item], chosen: impl Iterator<Item = usize>) -> (f64, f64) {
        chosen.fold((0.0, 0.0), |(bytes, importance), item| {
            (bytes + items[item].bytes, importance + items[item].importance)
        })
    }

    proptest! {
        #[test]
        fn no_set_within_the_limits_is_worth_more(
            items in items(),
            room in 0u32..400,
            most in 0usize..12,
        ) {
            let room = f64::from(room);
            let chosen = best_set(&items, room, most);
            let (bytes, importance) = sums(&items, chosen.iter().copied());
            prop_assert!(bytes <= room && chosen.len() <= most);
            let all = (0u32..1 << items.len()).filter(|set| set.count_ones() as usize <= most);
            let best = all
                .map(|set| sums(&items, (0..items.len()).filter(move |item| set >> item & 1 == 1)))
                .filter(|(bytes, _)| *bytes <= room)
                .fold(f64::NEG_INFINITY, |best, (_, importance)| best.max(importance));
            prop_assert_eq!(importance, best);
        }
    }

    #[test]
    fn a_network_is_solved_within_its_bytes() {
        let network = Network::new(Architecture::MobileNetV2, 1.0, 100, 32).expect("a usual size");
        let costs = GateCosts::new(&network, SearchedGates::Blocks, &Gates::all_kept(19));
        let importances: Vec<f64> = (0..19).map(|gate| f64::from(gate * 7 % 11) + 0.1).collect();
        let largest = costs.bytes(&[true; 19]).total();
        for share in [0.0, 0.3, 0.5, 0.8, 1.0] {
            let bytes = costs.smallest() + share * (largest - costs.smallest()) + 1.0;
            let limits = Limits { bytes, ..Limits::NONE };
            let kept = choose(&costs, &importances, &limits);
            assert!(kept[0] && kept[18] && costs.bytes(&kept).total() <= bytes);
            let count = kept.iter().filter(|&&kept| kept).count();
            assert_eq!((count == 19, count == 2), (share == 1.0, share == 0.0), "{share}");
        }
        // A gate that does harm goes whatever it costs.
        let mut harmful = importances.clone();
        harmful[5] = -0.01;
        let limits = Limits::NONE;
        let kept = choose(&costs, &harmful, &limits);
        assert_eq!(kept.iter().position(|&kept| !kept), Some(5));
        assert_eq!(kept.iter().filter(|&&kept| kept).count(), 18);
    }
}
