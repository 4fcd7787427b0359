use jiff::tz::TimeZone;

use super::*;
use crate::backup::Choice;
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
        let going = (forgot.forgotten.len(), forgot.asked.len());
        (forgot.kept.len(), going, forgot.others)
    };
    let rule = || ForgetOptions {
        policy: Policy {
            last: 1,
            ..Policy::default()
        },
        ..ForgetOptions::default()
    };
    assert_eq!(counts(rule()).await, (1, (0, 0), 2));
    let tagged = ForgetOptions {
        choice: Choice {
            tags: vec!["none has it".to_owned()],
            ..Choice::default()
        },
        ..rule()
    };
    let refused = forget(&anew.archive, &anew.member, &tagged, &TimeZone::UTC).await;
    let refused = refused.expect_err("nothing is called so").to_string();
    assert!(refused.contains("no tag 'none has it'"), "{refused}");
    let all = ForgetOptions {
        all_machines: true,
        ..rule()
    };
    let (kept, (forgotten, asked), others) = counts(all).await;
    assert_eq!((kept + asked, forgotten, others), (3, 0, 0));
    assert!(asked > 0, "what others made is only asked for");
    // Whoever names snapshots judges nobody.
    let named = ForgetOptions {
        names: vec![own.id().to_hex()],
        ..ForgetOptions::default()
    };
    assert_eq!(counts(named).await, (0, (1, 0), 0));
}

/// The rules take neither the last snapshot of a group nor, by a tag that none has, anything.
#[tokio::test]
async fn a_typing_error_forgets_nothing_and_is_named() {
    let node = Node::new().await;
    node.back_up(files(1, 3, 0)).await;
    node.back_up(files(2, 3, 0)).await;
    let by_tag = ForgetOptions {
        policy: Policy {
            tags: vec!["nihgtly".to_owned()],
            ..Policy::default()
        },
        ..ForgetOptions::default()
    };
    let forgot = forget(&node.archive, &node.member, &by_tag, &TimeZone::UTC).await;
    let forgot = forgot.expect("it judges");
    assert!(forgot.forgotten.is_empty() && forgot.bare_paths.is_empty());
    assert_eq!(forgot.unknown_tags, ["nihgtly"]);
    assert_eq!(node.log().await.snapshots().len(), 2);
}

/// Snapshots of a run under a clock that was years ahead are neither the latest nor the newest.
#[tokio::test]
async fn the_log_says_which_snapshot_is_the_newest() {
    let node = Node::new().await;
    let mut made = Vec::new();
    for (number, started) in [(1u64, 1_000_000_000), (2, u64::MAX / 4), (3, 2_000_000_000)] {
        let (one, mut logged) = node.put(files(number, 3, 0)).await;
        logged.summary.started = Timestamp(started);
        node.change(move |log| log.add(logged)).await;
        made.push(one);
    }
    let found = node
        .archive
        .find(Search::Here, Duration::ZERO)
        .await
        .expect("finds");
    let latest = found.catalog.find("latest").expect("one");
    assert_eq!(latest.logged.snapshot.id, made[2].id());
    let last = ForgetOptions {
        policy: Policy {
            last: 1,
            ..Policy::default()
        },
        ..ForgetOptions::default()
    };
    let forgot = forget(&node.archive, &node.member, &last, &TimeZone::UTC).await;
    let kept: Vec<_> = forgot.expect("it judges").kept;
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].0.logged.snapshot.id, made[2].id());
}
