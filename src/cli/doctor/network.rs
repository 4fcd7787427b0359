//! Checks of the node and its ways to others.

use super::Check;
use super::facts::{Facts, Told};
use crate::cli::show;

/// Checks of the node and its ways to others, in the order in which they are shown.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![node(facts)];
    match &facts.node {
        Some(told) => {
            checks.push(reachable(told, is_wider(facts)));
            checks.push(nat(told));
            checks.push(port_mapping(told));
            checks.push(ipv6(told));
        }
        None => {
            let words = [
                (
                    "reachable",
                    "whether others reach this machine from outside",
                ),
                ("nat", "the kind of router before it"),
                ("port_mapping", "whether the router passes a port on"),
                ("ipv6", "whether it has an address of the internet in IPv6"),
            ];
            let of = |(id, what): (&'static str, &str)| {
                Check::unknown(id, format!("only a running node knows {what}"))
            };
            checks.extend(words.map(of));
        }
    }
    checks.push(mdns(facts));
    checks.push(ways(facts));
    checks.push(meeting_point(facts));
    checks.extend(facts.node.iter().filter_map(twin));
    checks
}

/// Whether more is wanted than the local network: somebody joined the mesh, or set a way into it.
fn is_wider(facts: &Facts) -> bool {
    let has_joined = |told: &Told| told.mesh.joined;
    !facts.config.bootstrap.is_empty() || facts.node.as_ref().is_some_and(has_joined)
}

fn node(facts: &Facts) -> Check {
    if let Some(told) = &facts.node {
        let status = &told.status;
        let uptime = show::duration(std::time::Duration::from_secs(status.uptime_s));
        return Check::right(
            "node",
            format!("a node runs here, process {}, for {uptime}", status.pid),
        );
    }
    let disk = &facts.disk;
    let dir = facts.dir.display();
    if !disk.is_there {
        return Check::unknown("node", format!("there is no data directory {dir}"))
            .with_advice("`libernet init` makes one, or say where it is: --data-dir DIR");
    }
    let has_schedule = disk.sets.iter().any(|(_, is_scheduled)| *is_scheduled);
    let needs_it = match (disk.rings.is_empty(), has_schedule) {
        (false, _) => "members of a ring count on it",
        (true, true) => "sets have a schedule",
        (true, false) => return Check::right("node", "no node runs, and nothing here needs one"),
    };
    Check::wrong(
        "node",
        format!("no node runs on {dir}, and {needs_it}"),
        "`libernet up` runs one; `libernet mesh operator` prints a unit that starts it with the machine",
    )
}

fn reachable(told: &Told, is_wider: bool) -> Check {
    const ID: &str = "reachable";
    let reach = &told.status.reach;
    let at = reach.addresses.first().map(String::as_str).unwrap_or("-");
    if told.status.addresses.is_empty() {
        return Check::wrong(
            ID,
            "no: this node listens on no address",
            "`libernet up` says why at its start; `libernet config show` shows the setting listen",
        );
    }
    match reach.reachable.as_str() {
        "public" => Check::right(ID, format!("yes: somebody outside has reached this node at {at}")),
        "relay" => Check::right(ID, format!("through a relay alone, at {at}")).with_advice(
            "backups and files work so, slower: forwarding port 4384 (TCP and UDP) in the router to this machine makes it direct",
        ),
        "no" if is_wider => Check::wrong(
            ID,
            "no: nobody outside gets through to this node, and no relay keeps a way open",
            "forward port 4384 (TCP and UDP) in the router to this machine, or switch UPnP or NAT-PMP on there; \
             let it through this machine's firewall",
        ),
        "no" => Check::right(
            ID,
            "not from outside; no way into the mesh is set, so that only the local network is used",
        ),
        _ => Check::unknown(
            ID,
            "nobody outside has tried to reach this node, which takes peers on the internet",
        ),
    }
}

fn nat(told: &Told) -> Check {
    const ID: &str = "nat";
    let reach = &told.status.reach;
    match reach.nat.as_str() {
        "none" => Check::right(ID, "none: others see an address that this machine has"),
        "cone" => Check::right(
            ID,
            "a router that shows all others the same port: direct connections have a good chance",
        ),
        "symmetric" if reach.reachable == "no" => Check::wrong(
            ID,
            "a router that shows each other one another port: two of that kind never meet directly",
            "forward port 4384 (TCP and UDP) in the router to this machine",
        ),
        "symmetric" => Check::right(
            ID,
            "a router that shows each other one another port: two of that kind need a relay between them",
        ),
        "some" => Check::unknown(
            ID,
            "there is a router, and too few have seen this node to say more",
        ),
        _ => Check::unknown(ID, "nobody outside has seen this node"),
    }
}

fn port_mapping(told: &Told) -> Check {
    const ID: &str = "port_mapping";
    let reach = &told.status.reach;
    let is_public = reach.reachable == "public";
    let mapped = reach.mapped.join(", ");
    match reach.port_mapping.as_str() {
        "promised" if is_public => Check::right(ID, format!("the router passes {mapped} on")),
        "promised" => Check::unknown(
            ID,
            format!(
                "the router says that it passes {mapped} on, and nobody outside has come that way"
            ),
        ),
        "none" if is_public => {
            Check::right(ID, "the router promises nothing, and nothing is needed")
        }
        "none" if reach.reachable == "no" => Check::wrong(
            ID,
            "the router was asked to pass a port on, and promised nothing",
            "switch UPnP, NAT-PMP or PCP on in the router, or forward port 4384 (TCP and UDP) there by hand",
        ),
        "none" => Check::unknown(
            ID,
            "the router was asked to pass a port on and has promised nothing; whether that is needed has not shown",
        ),
        _ => Check::unknown(ID, "no router was asked"),
    }
}

fn ipv6(told: &Told) -> Check {
    const ID: &str = "ipv6";
    let global = told.status.addresses.iter().filter_map(|text| {
        let address: libp2p::Multiaddr = text.parse().ok()?;
        let is_v6 = text.starts_with("/ip6/");
        (is_v6 && crate::net::is_outside(&address)).then_some(text)
    });
    match global.count() {
        0 => Check::right(
            ID,
            "this node listens on no IPv6 address of the internet: others reach it over IPv4, if at all",
        ),
        _ => Check::right(
            ID,
            "this machine has an IPv6 address of the internet, and listens there",
        ),
    }
}

fn mdns(facts: &Facts) -> Check {
    const ID: &str = "mdns";
    if !facts.config.mdns {
        return Check::right(
            ID,
            "off by the setting mdns: nodes of the local network are not looked for",
        );
    }
    let Some(told) = &facts.node else {
        return Check::unknown(ID, "only a running node hears others on the local network");
    };
    let heard = told.peers.iter().filter(|peer| peer.source == "mdns");
    match heard.count() as u64 {
        0 => Check::unknown(
            ID,
            "no node of the local network was heard: there is none, or the network keeps them apart",
        )
        .with_advice(
            "where there is one: guest networks and some Wi-Fi access points pass no multicast on; --bootstrap ADDRESS needs none",
        ),
        heard => Check::right(
            ID,
            format!("{} of the local network heard and connected", show::count(heard, "node")),
        ),
    }
}

fn ways(facts: &Facts) -> Check {
    const ID: &str = "ways";
    let ways = show::count(facts.config.bootstrap.len() as u64, "bootstrap address");
    let Some(told) = &facts.node else {
        return Check::unknown(ID, format!("no node runs; {ways} set"));
    };
    let peers = show::count(told.peers.len() as u64, "peer");
    let has_rings = !told.rings.is_empty();
    match (told.peers.is_empty(), is_wider(facts) || has_rings) {
        (false, _) if told.status.bootstrapped => {
            Check::right(ID, format!("connected to {peers}, and in the DHT"))
        }
        (false, _) => Check::right(ID, format!("connected to {peers}; the DHT has not been joined yet")),
        (true, true) => Check::wrong(
            ID,
            format!("connected to nobody; {ways} set"),
            "is this machine online, and is another node? `libernet peers connect ADDRESS` tries one by hand",
        ),
        (true, false) => Check::right(ID, "connected to nobody, and no way into the mesh is set").with_advice(
            "`libernet ring create NAME` and `libernet ring join` connect machines that you trust; `libernet mesh join` joins the mesh",
        ),
    }
}

fn meeting_point(facts: &Facts) -> Check {
    const ID: &str = "meeting_point";
    let Some(told) = &facts.node else {
        return Check::unknown(ID, "only a running node is at a meeting point");
    };
    let mesh = &told.mesh;
    if mesh.meet == "off" {
        return Check::right(
            ID,
            "off by the setting meet: nobody is met through the public meeting point",
        );
    }
    if let Some(error) = &mesh.error {
        return Check::wrong(
            ID,
            format!("the public meeting point was of no use the last time: {error}"),
            "is this machine online, and does its network let UDP out? the node tries again by itself; `libernet config show` shows meet_bootstrap",
        );
    }
    match mesh.asked + mesh.announced {
        0 => Check::right(
            ID,
            "the public meeting point was not needed since the start",
        )
        .with_advice(
            "`libernet mesh join` lets other nodes of the mesh find this one there, and be found",
        ),
        _ => Check::right(
            ID,
            format!(
                "asked {} and announced {} at the public meeting point since the start",
                show::count(mesh.asked, "time"),
                show::count(mesh.announced, "time")
            ),
        ),
    }
}

fn twin(told: &Told) -> Option<Check> {
    let address = told.status.twin.as_ref()?;
    Some(Check::wrong(
        "twin",
        format!(
            "another node runs with this node's key, at {address}: the data directory was copied"
        ),
        "on the copy: stop the node, remove node.key, and start it again",
    ))
}
