//! A month of a ring in a virtual mesh: the policies of owners and of holders, without a network.
//!
//! Machines come and go, some go for good and are replaced by empty ones. Figures are printed with `--nocapture`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::policy::{self, Action, Copy, Job, Limits, PeerName, Stage};
use crate::id::BlockId;
use crate::time::Timestamp;
use crate::upkeep::holder::circle::{self, Heard, Subject};

const STEP: Duration = Duration::from_secs(15 * 60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const START: Timestamp = Timestamp(1_800_000_000_000);
const COPIES: u32 = 3;
/// Steps between two rounds in which holders ask each other.
const TALK_EVERY: u64 = 4;

/// How machines behave.
#[derive(Clone, Copy)]
struct Life {
    machines: usize,
    /// Mean time that one is on, and off.
    on: Duration,
    off: Duration,
    /// The part of them that is gone for good each week.
    deaths_per_week: f64,
    days: u64,
}

const MESH: Life = Life {
    machines: 9,
    on: Duration::from_secs(2 * 3600),
    off: Duration::from_secs(3 * 3600),
    deaths_per_week: 0.02,
    days: 30,
};

/// Chance that can be had again: SplitMix64.
struct Dice(u64);

impl Dice {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A time whose mean this is.
    fn time(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.unit()).ln())
    }
}

/// What came of it.
#[derive(Debug, Default, Clone, Copy)]
struct Figures {
    machines_lost: u64,
    backups: u64,
    /// Backups of which nothing is left anywhere, and those of which no copy is left while their owner still has them.
    lost: u64,
    bare: u64,
    /// Copies on machines that were lost, and copies that were made but for the first ones.
    copies_lost: u64,
    repairs: u64,
    /// Of those, made by holders.
    passed: u64,
    /// The longest that a backup whose owner lives had too few living copies; and one whose owner is gone.
    longest_short: Duration,
    longest_orphan: Duration,
}

struct Machine {
    is_on: bool,
    turns: Timestamp,
    disk: BTreeSet<BlockId>,
    job: Job,
    circle: BTreeMap<Subject, circle::Kept>,
}

struct Mesh {
    life: Life,
    dice: Dice,
    now: Timestamp,
    steps: u64,
    machines: BTreeMap<PeerName, Machine>,
    named: u32,
    /// Copies under way: backup and who is to get it.
    transfers: BTreeSet<(BlockId, PeerName)>,
    /// Backups that had all their copies once, and since when they have too few.
    whole: BTreeMap<BlockId, Option<Timestamp>>,
    figures: Figures,
}

fn root_of(owner: &PeerName) -> BlockId {
    let mut digest = [0; 48];
    digest[..owner.len()].copy_from_slice(owner);
    BlockId::from_sha384(digest)
}

fn subject_of(owner: &PeerName) -> Subject {
    let mut key = [0; 32];
    key[..owner.len()].copy_from_slice(owner);
    (key, root_of(owner))
}

impl Mesh {
    fn new(life: Life, seed: u64) -> Self {
        let mut mesh = Self {
            life,
            dice: Dice(seed),
            now: START,
            steps: 0,
            machines: BTreeMap::new(),
            named: 0,
            transfers: BTreeSet::new(),
            whole: BTreeMap::new(),
            figures: Figures::default(),
        };
        (0..life.machines).for_each(|_| mesh.add());
        mesh
    }

    fn add(&mut self) {
        self.named += 1;
        let name = self.named.to_be_bytes().to_vec();
        let job = Job {
            copies: COPIES,
            bytes: 1,
            ..Job::default()
        };
        let machine = Machine {
            is_on: true,
            turns: self.now.after(self.dice.time(self.life.on)),
            disk: BTreeSet::new(),
            job,
            circle: BTreeMap::new(),
        };
        self.machines.insert(name, machine);
        self.figures.backups += 1;
    }

    fn online(&self, but: &PeerName) -> BTreeMap<PeerName, u64> {
        let on = self
            .machines
            .iter()
            .filter(|(name, machine)| machine.is_on && *name != but);
        on.map(|(name, _)| (name.clone(), 1000)).collect()
    }

    fn step(&mut self) {
        self.now = self.now.after(STEP);
        self.steps += 1;
        self.turn_and_die();
        let names: Vec<_> = self.machines.keys().cloned().collect();
        for name in &names {
            let online = self.online(name);
            if self.machines[name].is_on && !online.is_empty() {
                self.own(name, &online);
                self.hold(name, &online);
            }
        }
        self.transfer();
        self.count();
    }

    fn turn_and_die(&mut self) {
        let survives =
            (1.0 - self.life.deaths_per_week).powf(STEP.as_secs_f64() / WEEK.as_secs_f64());
        let mut dead = Vec::new();
        for (name, machine) in &mut self.machines {
            if self.dice.unit() > survives {
                dead.push(name.clone());
            } else if machine.turns <= self.now {
                machine.is_on = !machine.is_on;
                let mean = if machine.is_on {
                    self.life.on
                } else {
                    self.life.off
                };
                machine.turns = self.now.after(self.dice.time(mean));
            }
        }
        for name in dead {
            let machine = self.machines.remove(&name).expect("it was there");
            self.figures.machines_lost += 1;
            self.figures.copies_lost += machine.disk.len() as u64;
            self.transfers.retain(|(_, to)| *to != name);
            self.add();
        }
    }

    /// What an owner's machine does.
    fn own(&mut self, name: &PeerName, online: &BTreeMap<PeerName, u64>) {
        let (root, now, limits) = (root_of(name), self.now, Limits::default());
        let machine = self.machines.get_mut(name).expect("it is there");
        for (peer, copy) in &mut machine.job.held {
            match online.contains_key(peer) {
                true => (copy.missed, copy.unproven) = (Duration::ZERO, copy.unproven + STEP),
                false => copy.missed += STEP,
            }
        }
        let facts = policy::Facts {
            jobs: [(root, machine.job.clone())].into(),
            online: online.clone(),
            sites: BTreeMap::new(),
            secret: [1; 32],
        };
        let actions = policy::choose(now, &facts, &limits);
        for action in actions {
            let (Action::Ask(_, peer)
            | Action::Poll(_, peer)
            | Action::Renew(_, peer)
            | Action::Audit(_, peer)
            | Action::Release(_, peer)
            | Action::Forget(_, peer)) = &action;
            let peer = peer.clone();
            let mut job =
                std::mem::take(&mut self.machines.get_mut(name).expect("it is there").job);
            let has = self
                .machines
                .get(&peer)
                .is_some_and(|holder| holder.disk.contains(&root));
            let is_over = |copy: &Copy| copy.minimum_until <= now;
            match action {
                Action::Ask(..) => {
                    job.held.insert(peer.clone(), fresh(now));
                    if !has {
                        self.transfers.insert((root, peer.clone()));
                    }
                }
                Action::Poll(..) | Action::Audit(..) | Action::Renew(..) => {
                    let is_renewed = matches!(action, Action::Renew(..));
                    let copy = job.held.get_mut(&peer).expect("it was asked");
                    if has {
                        (copy.seen, copy.unproven) = (now, Duration::ZERO);
                        if copy.stage == Stage::Held {
                            copy.audited = Some(now);
                        }
                        copy.stage = Stage::Held;
                        if is_renewed {
                            (copy.until, copy.minimum_until) =
                                (now.after(90 * DAY), now.after(30 * DAY));
                        }
                    } else if copy.stage == Stage::Held {
                        copy.stage = Stage::Failed;
                    }
                }
                Action::Release(..) => {
                    assert!(
                        job.held.get(&peer).is_some_and(is_over),
                        "the holder refuses"
                    );
                    let holder = self.machines.get_mut(&peer).expect("it is online");
                    holder.disk.remove(&root);
                    holder.circle.remove(&subject_of(name));
                    job.held.remove(&peer);
                    assert!(policy::reached(&job, now, &limits) >= COPIES);
                }
                Action::Forget(..) => drop(job.held.remove(&peer)),
            }
            if let Some(holder) = self.machines.get_mut(&peer)
                && let Some(kept) = holder.circle.get_mut(&subject_of(name))
            {
                kept.owner = Heard::now(now);
            }
            self.machines.get_mut(name).expect("it is there").job = job;
        }
    }

    /// What a holder does.
    fn hold(&mut self, name: &PeerName, online: &BTreeMap<PeerName, u64>) {
        let (now, limits) = (self.now, circle::Limits::default());
        let talks = self.steps.is_multiple_of(TALK_EVERY);
        let mut circle =
            std::mem::take(&mut self.machines.get_mut(name).expect("it is there").circle);
        for (subject, kept) in &mut circle {
            kept.owner.missed += STEP;
            kept.others
                .values_mut()
                .for_each(|heard| heard.missed += STEP);
            for peer in online.keys().filter(|_| talks) {
                if self.machines[peer].disk.contains(&subject.1) {
                    kept.others.insert(peer.clone(), Heard::now(now));
                    kept.asked.remove(peer);
                } else {
                    kept.others.remove(peer);
                }
            }
            kept.short_since = match circle::is_short(kept, now, &limits) {
                true => kept.short_since.or(Some(now)),
                false => None,
            };
        }
        let mut facts = circle::Facts {
            local: name.clone(),
            kept: circle,
            online: online.clone(),
        };
        let passes = circle::choose(now, &facts, &limits);
        for (subject, peer) in passes {
            let kept = facts.kept.get_mut(&subject).expect("it is kept");
            let asked = kept.asked.entry(peer.clone()).or_insert(now);
            if now.since(*asked) > limits.patience {
                *asked = now;
            }
            if !self.machines[&peer].disk.contains(&subject.1) {
                let is_new = self.transfers.insert((subject.1, peer));
                self.figures.passed += u64::from(is_new);
            }
        }
        self.machines.get_mut(name).expect("it is there").circle = facts.kept;
    }

    fn transfer(&mut self) {
        for (root, to) in self.transfers.clone() {
            let has = |machine: &Machine| machine.is_on && machine.disk.contains(&root);
            let owner = self.machines.iter().find(|(name, _)| root_of(name) == root);
            let owner_is_on = owner.is_some_and(|(_, machine)| machine.is_on);
            let from = owner_is_on || self.machines.values().any(has);
            if !from || !self.machines[&to].is_on {
                continue;
            }
            self.transfers.remove(&(root, to.clone()));
            let mut owners = (1..=self.named).map(|n| subject_of(&n.to_be_bytes().to_vec()));
            let subject = owners.find(|subject| subject.1 == root);
            let subject = subject.expect("it is somebody's");
            let kept = circle::Kept {
                copies: COPIES,
                bytes: 1,
                owner: Heard::now(self.now),
                asker: Some(subject.0[..4].to_vec()),
                others: BTreeMap::new(),
                asked: BTreeMap::new(),
                refused: BTreeMap::new(),
                short_since: None,
            };
            let holder = self.machines.get_mut(&to).expect("it is there");
            holder.disk.insert(root);
            holder.circle.insert(subject, kept);
            if self.whole.contains_key(&root) {
                self.figures.repairs += 1;
            }
            // Who is there polls each second, and so sees it arrive.
            let owner = subject.0[..4].to_vec();
            if let Some(owner) = self.machines.get_mut(&owner).filter(|owner| owner.is_on)
                && let Some(copy) = owner.job.held.get_mut(&to)
            {
                (copy.stage, copy.seen, copy.unproven) = (Stage::Held, self.now, Duration::ZERO);
            }
        }
    }

    /// Looks at what there really is.
    fn count(&mut self) {
        for owner in 1..=self.named {
            let owner = owner.to_be_bytes().to_vec();
            let root = root_of(&owner);
            let living = self
                .machines
                .values()
                .filter(|m| m.disk.contains(&root))
                .count();
            let lives = self.machines.contains_key(&owner);
            if living >= COPIES as usize {
                self.whole.insert(root, None);
            } else if let Some(short) = self.whole.get_mut(&root) {
                let since = self.now.since(*short.get_or_insert(self.now));
                let longest = match lives {
                    true => &mut self.figures.longest_short,
                    false => &mut self.figures.longest_orphan,
                };
                *longest = since.max(*longest);
                if living == 0 {
                    self.figures.bare += u64::from(lives);
                    self.figures.lost += u64::from(!lives);
                    self.whole.remove(&root);
                }
            }
        }
    }
}

fn fresh(now: Timestamp) -> Copy {
    Copy {
        stage: Stage::Asked,
        since: now,
        seen: now,
        missed: Duration::ZERO,
        unproven: Duration::ZERO,
        audited: None,
        until: now.after(90 * DAY),
        minimum_until: now.after(30 * DAY),
    }
}

fn run(life: Life, seeds: u64) -> Figures {
    let mut sum = Figures::default();
    for seed in 0..seeds {
        let mut mesh = Mesh::new(life, seed);
        for _ in 0..life.days * 96 {
            mesh.step();
        }
        let one = mesh.figures;
        sum.machines_lost += one.machines_lost;
        sum.backups += one.backups;
        sum.lost += one.lost;
        sum.bare += one.bare;
        sum.copies_lost += one.copies_lost;
        sum.repairs += one.repairs;
        sum.passed += one.passed;
        sum.longest_short = sum.longest_short.max(one.longest_short);
        sum.longest_orphan = sum.longest_orphan.max(one.longest_orphan);
    }
    sum
}

/// Copies made again for each one that was lost: 1 is the floor of two transfers (one out, one in) of what a machine held in its lifetime.
fn ratio(figures: &Figures) -> f64 {
    figures.repairs as f64 / figures.copies_lost.max(1) as f64
}

#[test]
fn a_month_of_nine_machines_loses_nothing_and_copies_little() {
    let figures = run(MESH, 6);
    println!(
        "{figures:#?}\ncopies made again for each lost one: {:.2}",
        ratio(&figures)
    );
    assert_eq!((figures.lost, figures.bare), (0, 0));
    assert!(figures.copies_lost > 5, "enough happened");
    assert!(ratio(&figures) <= 2.0, "{}", ratio(&figures));
    assert!(
        figures.longest_short < 6 * DAY,
        "{:?}",
        figures.longest_short
    );
    assert!(
        figures.longest_orphan < 6 * DAY,
        "{:?}",
        figures.longest_orphan
    );
}

/// Five times as many losses: holders make up for owners that are gone.
#[test]
fn backups_outlive_their_owners_machines() {
    let life = Life {
        deaths_per_week: 0.1,
        ..MESH
    };
    let figures = run(life, 3);
    println!(
        "{figures:#?}\ncopies made again for each lost one: {:.2}",
        ratio(&figures)
    );
    assert_eq!((figures.lost, figures.bare), (0, 0));
    assert!(figures.passed > 3, "holders passed leases on");
    assert!(ratio(&figures) <= 2.0, "{}", ratio(&figures));
    assert!(
        figures.longest_orphan < 6 * DAY,
        "{:?}",
        figures.longest_orphan
    );
}
