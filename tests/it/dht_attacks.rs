//! Attacks on the DHT by peers of another making: what they tell others to dial, and what they
//! fill.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

use crate::attacker::{Attacker, Message, Nature, all_bytes, dht, number, peer_of};
use crate::lan::{Lan, ip};
use crate::process::Node;

/// Dials that may fail of what one peer tells, and the time after which another one may.
const SHARE: u64 = 16;
const AGAIN: Duration = Duration::from_secs(6);

const GET_PROVIDERS: u64 = 3;
const FIND_NODE: u64 = 4;

/// An id that nobody has.
const NOWHERE: &str = "text:nobody has this";

/// Services that are none of libernet's business. Each closes a connection as soon as it comes.
struct Services {
    addresses: Vec<Multiaddr>,
    hit: Arc<Mutex<HashSet<usize>>>,
}

impl Services {
    fn start(count: usize, at: Ipv4Addr) -> Self {
        let hit = Arc::new(Mutex::default());
        let addresses = (0..count).map(|number| {
            let listener = TcpListener::bind((at, 0)).expect("a port");
            let port = listener.local_addr().expect("it is bound").port();
            let hit: Arc<Mutex<HashSet<usize>>> = Arc::clone(&hit);
            // The thread ends with the test.
            thread::spawn(move || {
                while listener.accept().is_ok() {
                    let mut hit = hit.lock().unwrap_or_else(PoisonError::into_inner);
                    hit.insert(number);
                }
            });
            format!("/ip4/{at}/tcp/{port}").parse().expect("an address")
        });
        Self {
            addresses: addresses.collect(),
            hit,
        }
    }

    fn hit(&self) -> usize {
        self.hit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    async fn wait_hit(&self) {
        crate::attacker::within(async {
            while self.hit() == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

/// Answers each question of the DHT with peers of other ids at the same addresses, as peers nearer
/// to the key and as providers of it.
fn tell(attacker: &Attacker, addresses: Vec<Multiaddr>) {
    attacker.answer_dht_with(move |_, question| {
        let kind = number(&question, 1);
        let named = || {
            let addresses = addresses.chunks(1);
            addresses.map(|one| dht::peer(PeerId::random(), one))
        };
        let closer: Vec<Message> = named().collect();
        let key = all_bytes(&question, 2).pop().unwrap_or_default();
        match kind {
            FIND_NODE => Some(dht::answer(kind, &key, &closer, &[])),
            GET_PROVIDERS => {
                let providers: Vec<Message> = named().collect();
                Some(dht::answer(kind, &key, &closer, &providers))
            }
            _ => None,
        }
    });
}

pub async fn listening(from: [u8; 4]) -> Attacker {
    Attacker::with(Nature {
        from: IpAddr::from(from),
        listens: true,
        ..Nature::default()
    })
    .await
}

fn address_of(attacker: &Attacker) -> String {
    let address = attacker.address.as_ref().expect("it listens");
    address.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_tells_makes_a_node_dial_few_addresses() {
    let services = Services::start(60, Ipv4Addr::LOCALHOST);
    let attacker = listening([127, 0, 0, 7]).await;
    tell(&attacker, services.addresses.clone());
    let data = tempfile::tempdir().expect("a directory");
    let began = Instant::now();
    let node = Node::start(data.path(), &[&address_of(&attacker)]);
    services.wait_hit().await;
    for _ in 0..3 {
        node.run(&["find", NOWHERE]);
    }
    let (hit, passed) = (services.hit() as u64, began.elapsed());
    let may_be = SHARE + passed.as_secs() / AGAIN.as_secs() + 1;
    assert!(hit <= may_be, "{hit} services were dialled in {passed:?}");
}

/// Listens in a network namespace, on ports that the system chooses, and says which, and when
/// somebody connects.
const LISTENER: &str = r#"
import socket, sys, threading
def listen(address):
    server = socket.create_server((address, 0))
    print(address, server.getsockname()[1], flush=True)
    def accept():
        while True:
            server.accept()[0].close()
            print("hit", address, flush=True)
    threading.Thread(target=accept, daemon=True).start()
for address in sys.argv[1:]:
    listen(address)
sys.stdin.read()
"#;

struct Listener {
    child: Child,
    lines: BufReader<ChildStdout>,
    addresses: Vec<Multiaddr>,
}

impl Listener {
    /// Nothing when there is no Python.
    fn start(namespace: &str, at: &[&str]) -> Option<Self> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace, "python3", "-c", LISTENER])
            .args(at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(child.stdout.take()?);
        let mut addresses = Vec::new();
        for _ in at {
            let mut line = String::new();
            lines.read_line(&mut line).ok()?;
            let (ip, port) = line.trim().split_once(' ')?;
            addresses.push(format!("/ip4/{ip}/tcp/{port}").parse().ok()?);
        }
        Some(Self {
            child,
            lines,
            addresses,
        })
    }

    /// Hits until now, each with the address that was connected to.
    fn hits(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        let lines = self.lines.lines().map_while(Result::ok).collect();
        let _ = self.child.wait();
        lines
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_on_the_network_tells_no_address_of_the_machine_itself() {
    let lan = match Lan::make("t", 1) {
        Ok(lan) => lan,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    // The attacker is in this process, so this namespace is on the network, too.
    let (here, port) = (lan.name("r"), "portr");
    let hub = lan.name("h");
    assert!(ip(&[
        "link", "add", &here, "type", "veth", "peer", "name", port, "netns", &hub
    ]));
    assert!(ip(&[
        "-n", &hub, "link", "set", port, "master", "br0", "up"
    ]));
    assert!(ip(&["addr", "add", "10.93.7.200/24", "dev", &here]));
    assert!(ip(&["link", "set", &here, "up"]));
    let local = Listener::start(&lan.host(0), &["127.0.0.1", "10.93.7.1"]);
    let Some(local) = local else {
        return eprintln!("skipped: there is no python3");
    };
    let attacker = listening([10, 93, 7, 200]).await;
    // One that may be told shows that the node dials what it is told.
    let control = Services::start(1, Ipv4Addr::new(10, 93, 7, 200));
    let mut told = local.addresses.clone();
    told.extend(control.addresses.clone());
    for never in [
        "/ip4/0.0.0.0/tcp/22",
        "/ip4/169.254.169.254/tcp/80",
        "/ip6/::1/tcp/22",
        "/ip6/::ffff:127.0.0.1/tcp/22",
        "/dns4/localhost/tcp/22",
    ] {
        told.push(never.parse().expect("an address"));
    }
    tell(&attacker, told);
    let data = tempfile::tempdir().expect("a directory");
    let node = lan.node(0, data.path());
    let connect = lan.json(
        0,
        data.path(),
        &["peers", "connect", &address_of(&attacker)],
    );
    assert!(connect["peer"].is_string(), "{connect}");
    for _ in 0..2 {
        lan.on(0, data.path())
            .args(["find", NOWHERE])
            .output()
            .expect("it runs");
    }
    control.wait_hit().await;
    node.stop();
    assert_eq!(local.hits(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_names_its_own_host_only() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Node::start(data.path(), &[]);
    let attacker = listening([127, 0, 0, 7]).await;
    let peer = peer_of(&node.addresses[0]);
    assert!(attacker.connect(&node.addresses[0]).await, "it is let in");
    let victim: Multiaddr = "/ip4/198.51.100.7/tcp/22".parse().expect("an address");
    let mut claimed = vec![
        victim.clone(),
        "/dns4/victim.example/tcp/22".parse().expect("one"),
    ];
    claimed.extend(attacker.address.clone());
    let me = dht::peer(attacker.peer, &claimed);
    let key = [&[0x20, 48][..], &[7; 48]].concat();
    assert!(
        attacker
            .tell_dht(peer, &[dht::add_provider(&key, &me)])
            .await
    );
    // Somebody else asks. Until the announcement is stored nobody is named.
    let other = Attacker::start().await;
    assert!(other.connect(&node.addresses[0]).await, "it is let in");
    let addresses = named(&other, peer, &key, attacker.peer).await;
    assert_eq!(addresses.len(), 1, "{addresses:?}");
    assert!(addresses[0].to_string().starts_with("/ip4/127.0.0.7/"));
}

/// Addresses of a provider, as the node tells them once it does.
pub async fn named(asker: &Attacker, node: PeerId, key: &[u8], provider: PeerId) -> Vec<Multiaddr> {
    crate::attacker::within(async {
        loop {
            let answer = asker.ask_dht(node, &dht::get_providers(key)).await;
            let providers = all_bytes(&answer.expect("an answer"), 9);
            let mut providers = providers.iter();
            let is_it = |one: &&Vec<u8>| all_bytes(one, 1) == [provider.to_bytes()];
            if let Some(found) = providers.find(is_it) {
                let addresses = all_bytes(found, 2).into_iter();
                return addresses
                    .map(|bytes| Multiaddr::try_from(bytes).expect("an address"))
                    .collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_with_long_addresses_keep_nobody_out_of_a_key() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Node::start(data.path(), &[]);
    let peer = peer_of(&node.addresses[0]);
    let key = [&[0x20, 48][..], &[8; 48]].concat();
    let mut greedy = Vec::new();
    for n in 0..9 {
        let attacker = listening([127, 0, 1 + n, 1]).await;
        assert!(attacker.connect(&node.addresses[0]).await, "it is let in");
        let mut claimed: Vec<Multiaddr> = (0..7)
            .map(|n| format!("/dns4/{}{n}/tcp/1", "a".repeat(240)))
            .map(|text| text.parse().expect("an address"))
            .collect();
        claimed.insert(0, attacker.address.clone().expect("it listens"));
        let me = dht::peer(attacker.peer, &claimed);
        assert!(
            attacker
                .tell_dht(peer, &[dht::add_provider(&key, &me)])
                .await
        );
        greedy.push(attacker);
    }
    let honest = listening([127, 0, 0, 9]).await;
    assert!(honest.connect(&node.addresses[0]).await, "it is let in");
    let me = dht::peer(honest.peer, honest.address.as_slice());
    assert!(honest.tell_dht(peer, &[dht::add_provider(&key, &me)]).await);
    // A restart shows what is on disk.
    node.stop();
    let node = Node::start(data.path(), &[]);
    let asker = Attacker::start().await;
    assert!(asker.connect(&node.addresses[0]).await, "it is let in");
    let peer = peer_of(&node.addresses[0]);
    named(&asker, peer, &key, honest.peer).await;
}
