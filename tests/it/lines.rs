//! Lines as homes have them: slow ones, and those that lose packets. A forwarder on loopback stands
//! for the line.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::process::Node;
use crate::sample::noise;

/// Bytes that a line takes at once.
const PART_BYTES: usize = 1 << 10;

/// Passes bytes on at so many a second, until the connection or the test ends.
fn pass(mut from: TcpStream, mut to: TcpStream, bytes_per_s: usize, passed: &AtomicU64) {
    let mut part = [0; PART_BYTES];
    let began = Instant::now();
    let mut sent = 0;
    while let Ok(read @ 1..) = from.read(&mut part) {
        sent += read;
        let due = Duration::from_secs_f64(sent as f64 / bytes_per_s as f64);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        if to.write_all(&part[..read]).is_err() {
            break;
        }
        passed.fetch_add(read as u64, Ordering::Relaxed);
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// An address of this machine that is not one of loopback. A node that is seen there is told no
/// addresses of loopback, so that it knows no way but the line.
fn own_address() -> Option<IpAddr> {
    let found = if_addrs::get_if_addrs().ok()?;
    let mut addresses = found.iter().map(if_addrs::Interface::ip);
    addresses.find(|ip| ip.is_ipv4() && !ip.is_loopback())
}

/// A line for TCP from `near` to `target`: its address, and how many bytes have come over it.
fn slow_line(near: IpAddr, target: SocketAddr, bytes_per_s: usize) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind((near, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let passed = Arc::new(AtomicU64::new(0));
    let counted = passed.clone();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.expect("accepted");
            // What the system holds by itself would be a line of its own.
            let far = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            far.set_recv_buffer_size(8 << 10).expect("set");
            far.connect(&target.into()).expect("connected");
            let far = TcpStream::from(far);
            let (up, down) = (near.try_clone(), far.try_clone());
            let (up, down) = (up.expect("a handle"), down.expect("a handle"));
            let counted = counted.clone();
            std::thread::spawn(move || pass(up, far, bytes_per_s, &AtomicU64::new(0)));
            std::thread::spawn(move || pass(down, near, bytes_per_s, &counted));
        }
    });
    (address, passed)
}

/// A line for UDP that leads to `target` and loses one packet in `loses_one_in` each way.
fn lossy_line(target: SocketAddr, loses_one_in: u64) -> (SocketAddr, Arc<AtomicU64>) {
    let near = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a port"));
    let address = near.local_addr().expect("bound");
    let far = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a port"));
    far.connect(target).expect("connected");
    let lost = Arc::new(AtomicU64::new(0));
    let losses = move |seed: u64, lost: Arc<AtomicU64>| {
        let mut random = seed;
        move || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let is_lost = (random >> 33).is_multiple_of(loses_one_in);
            lost.fetch_add(u64::from(is_lost), Ordering::Relaxed);
            is_lost
        }
    };
    let (asker, knows) = std::sync::mpsc::sync_channel(1);
    let (to_far, from_near) = (far.clone(), near.clone());
    let mut loses = losses(1, lost.clone());
    std::thread::spawn(move || {
        let mut packet = [0; 2048];
        let mut is_known = false;
        while let Ok((len, from)) = from_near.recv_from(&mut packet) {
            if !std::mem::replace(&mut is_known, true) {
                asker.send(from).expect("the other thread waits");
            }
            if !loses() {
                let _ = to_far.send(&packet[..len]);
            }
        }
    });
    let mut loses = losses(2, lost.clone());
    std::thread::spawn(move || {
        let mut packet = [0; 2048];
        let asker: SocketAddr = knows.recv().expect("somebody asks first");
        while let Ok(len) = far.recv(&mut packet) {
            if !loses() {
                let _ = near.send_to(&packet[..len], asker);
            }
        }
    });
    (address, lost)
}

/// The port at which a node listens.
fn listens_at(node: &Node) -> SocketAddr {
    let mut parts = node.addresses[0].split('/').skip(2);
    let ip = parts.next().expect("an IP address");
    let port = parts.nth(1).expect("a port");
    format!("{ip}:{port}").parse().expect("a socket address")
}

/// Puts a file of random bytes into a node; gives its link.
fn put(node: &Node, dir: &Path, bytes: &[u8]) -> String {
    let file = dir.join("file");
    std::fs::write(&file, bytes).expect("written");
    let made = node.json(&["put", file.to_str().expect("UTF-8")]);
    made["link"].as_str().expect("a link").to_owned()
}

/// Gets a link and holds what comes against what was put.
fn get(node: &Node, dir: &Path, link: &str, bytes: &[u8]) {
    let out = dir.join("out");
    let got = node.json(&["get", link, "-o", out.to_str().expect("UTF-8")]);
    assert_eq!(got["bytes"], bytes.len(), "{got}");
    assert!(std::fs::read(&out).expect("it is there") == bytes);
}

/// The two ends may find a way beside the line while it goes on: what came before is not lost.
#[test]
fn a_file_comes_over_a_slow_line() {
    let Some(near) = own_address() else {
        eprintln!("skipped: this machine has no IPv4 address but those of loopback");
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let keeper = Node::start(&dir.path().join("keeper"), &[]);
    let bytes = noise(1, 256 << 10);
    let link = put(&keeper, dir.path(), &bytes);
    // 64 kbit/s: 33 seconds for the one block, if nothing else carries it.
    let (line, passed) = slow_line(near, listens_at(&keeper), 8_000);
    let address = format!("/ip4/{near}/tcp/{}/p2p/{}", line.port(), keeper.peer);
    let reader = Node::start(&dir.path().join("reader"), &[&address]);
    get(&reader, dir.path(), &link, &bytes);
    let passed = passed.load(Ordering::Relaxed);
    assert!(passed > 64 << 10, "much of it came over the line: {passed}");
    assert!(passed < 2 * bytes.len() as u64, "and once: {passed}");
    reader.stop();
    keeper.stop();
}

#[test]
fn a_file_comes_over_a_line_that_loses_packets() {
    let dir = tempfile::tempdir().expect("a directory");
    let listen = ["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
    let keeper = quic_node(&dir.path().join("keeper"), &listen);
    let bytes = noise(2, 6 << 20);
    let link = put(&keeper, dir.path(), &bytes);
    let (line, lost) = lossy_line(listens_at(&keeper), 50);
    let port = line.port();
    let address = format!("/ip4/127.0.0.1/udp/{port}/quic-v1/p2p/{}", keeper.peer);
    let flags = [&listen[..], &["--bootstrap", &address]].concat();
    let reader = quic_node(&dir.path().join("reader"), &flags);
    get(&reader, dir.path(), &link, &bytes);
    assert!(lost.load(Ordering::Relaxed) > 10, "packets were lost");
    reader.stop();
    keeper.stop();
}

/// A node that listens on what `flags` say alone.
fn quic_node(data: &Path, flags: &[&str]) -> Node {
    let mut command = crate::process::libernet();
    command.arg("--data-dir").arg(data);
    command.args(["up", "--json", "--http", "127.0.0.1:0", "--no-mdns"]);
    command.args(flags);
    Node::spawn(data, command)
}
