//! Plans are derived from seed and index alone.

use gravity_faults::Kind;
use gravity_faults::plan::Plan;

#[test]
fn a_seed_and_an_index_give_the_same_plan_again_and_others_another() {
    let text = |seed, index| format!("{:?}", Plan::new(seed, index, &[]));
    for index in 0..50 {
        assert_eq!(text(7, index), text(7, index));
        assert_ne!(text(7, index), text(8, index));
    }
}

#[test]
fn every_kind_has_a_name_of_its_own() {
    for kind in Kind::ALL {
        assert_eq!(Kind::named(kind.name()), Some(kind));
    }
    assert_eq!(Kind::named("list"), None);
}
