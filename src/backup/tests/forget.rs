use jiff::tz::TimeZone;

use super::*;
use crate::backup::forget::{ForgetOptions, forget};
use crate::backup::retention::Policy;

/// A machine that was brought back from the words is another one: what it made before is counted, so that somebody can be told.
#[tokio::test]
async fn what_other_machines_made_is_counted_and_left_alone() {
    let desk = Node::new().await;
    desk.back_up(files(1, 3, 0)).await;
    desk.back_up(files(2, 3, 0)).await;
    let anew = Membership::create(&keys(0), "desk").expect("a name");
    let anew = Node::with(desk.depot().clone(), anew);
    let own = anew.back_up(files(3, 3, 0)).await;
    let counts = async |options: ForgetOptions| {
        let options = ForgetOptions {
            dry_run: true,
            ..options
        };
        let forgot = forget(&anew.archive, &anew.member, &options, &TimeZone::UTC).await;
        let forgot = forgot.expect("it judges");
        (forgot.kept.len(), forgot.forgotten.len(), forgot.others)
    };
    let rule = || ForgetOptions {
        policy: Policy {
            last: 1,
            ..Policy::default()
        },
        ..ForgetOptions::default()
    };
    assert_eq!(counts(rule()).await, (1, 0, 2));
    let tagged = ForgetOptions {
        tag: Some("none has it".to_owned()),
        ..rule()
    };
    assert_eq!(counts(tagged).await, (0, 0, 0));
    let all = ForgetOptions {
        all_machines: true,
        ..rule()
    };
    let (kept, forgotten, others) = counts(all).await;
    assert_eq!((kept + forgotten, others), (3, 0));
    assert!(forgotten > 0);
    // Whoever names snapshots judges nobody.
    let named = ForgetOptions {
        names: vec![own.id().to_hex()],
        ..ForgetOptions::default()
    };
    assert_eq!(counts(named).await, (0, 1, 0));
}
