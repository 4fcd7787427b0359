//! What a server that helps others needs: a unit for systemd, and lines for the firewall. They are
//! printed, never installed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use serde_json::json;

use crate::cli::backup::systemd_quoted;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::output;

/// A port that others must get through to, and `tcp` or `udp`.
type Port = (u16, &'static str);

/// Prints them.
///
/// # Errors
/// For settings that are wrong, and when no address is listened on that others could reach.
pub(super) fn print(context: &Context) -> Result<(), Failure> {
    let config = context.config(BTreeMap::new())?;
    let ports = ports(&config.listen);
    if ports.is_empty() {
        return Err(Failure::usage(
            "the setting listen names no fixed port that others can reach",
        )
        .with_hint("take the setting out of the settings file: the default is port 4384 everywhere"));
    }
    let program = std::env::current_exe()
        .map_err(|error| Failure::io("this program can't find itself", &error))?;
    let service = service(&program, &context.data_dir);
    let firewall: Vec<String> = ports
        .iter()
        .map(|(port, protocol)| {
            format!("nft add rule inet filter input {protocol} dport {port} accept")
        })
        .collect();
    if context.json {
        let ports: Vec<_> = ports
            .iter()
            .map(|(port, protocol)| json!({ "port": port, "protocol": protocol }))
            .collect();
        return output::json(&json!({
            "service": service,
            "firewall": firewall,
            "ports": ports,
        }));
    }
    let text = format!(
        "# /etc/systemd/system/libernet.service\n{service}\n# The firewall, where nftables has a table inet filter \
         with a chain input:\n{}\n",
        firewall.join("\n")
    );
    output::stdout(text.as_bytes())?;
    context.notice(
        "put the first part into that file, then: systemctl daemon-reload && systemctl enable --now libernet; \
         `libernet status` says \"public\" once somebody outside has reached the node, and from then on it relays for \
         others within limits",
    );
    Ok(())
}

/// Ports that addresses to listen on name, other than those of this machine alone.
fn ports(listen: &[String]) -> BTreeSet<Port> {
    let addresses = listen
        .iter()
        .filter_map(|text| text.parse::<Multiaddr>().ok());
    let ports = addresses.filter_map(|address| {
        let mut parts = address.iter();
        let is_loopback = match parts.next()? {
            Protocol::Ip4(ip) => ip.is_loopback(),
            Protocol::Ip6(ip) => ip.is_loopback(),
            _ => return None,
        };
        let port = match parts.next()? {
            Protocol::Tcp(port) => (port, "tcp"),
            Protocol::Udp(port) => (port, "udp"),
            _ => return None,
        };
        (!is_loopback && port.0 != 0).then_some(port)
    });
    ports.collect()
}

/// The unit: the program, the data directory, and nothing else.
fn service(program: &Path, data_dir: &Path) -> String {
    let text = |path: &Path| systemd_quoted(&path.to_string_lossy());
    format!(
        "[Unit]\nDescription=libernet node\nWants=network-online.target\nAfter=network-online.target\n\n\
         [Service]\nExecStart={} --data-dir {} up\nRestart=on-failure\nRestartSec=10\nLimitNOFILE=65536\n\
         NoNewPrivileges=yes\nPrivateTmp=yes\nProtectSystem=full\n\n\
         [Install]\nWantedBy=multi-user.target\n",
        text(program),
        text(data_dir)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_ports_are_those_that_others_must_get_through_to() {
        let ports = |texts: &[&str]| {
            let listen: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            super::ports(&listen).into_iter().collect::<Vec<_>>()
        };
        let defaults = super::ports(&Config::default().listen);
        assert_eq!(
            defaults.into_iter().collect::<Vec<_>>(),
            [(4384, "tcp"), (4384, "udp")]
        );
        assert_eq!(
            ports(&["/ip4/0.0.0.0/tcp/7", "/ip6/::/udp/9/quic-v1"]),
            [(7, "tcp"), (9, "udp")]
        );
        for none in [
            "/ip4/127.0.0.1/tcp/7",
            "/ip6/::1/tcp/7",
            "/ip4/0.0.0.0/tcp/0",
            "x",
        ] {
            assert!(ports(&[none]).is_empty(), "{none}");
        }
    }

    #[test]
    fn the_unit_quotes_what_a_path_may_hold() {
        let unit = service(Path::new("/opt/a b/libernet"), Path::new("/srv/100%"));
        assert!(unit.contains("ExecStart=\"/opt/a b/libernet\" --data-dir \"/srv/100%%\" up\n"));
    }
}
