//! `libernet find`: who provides an identifier.

use std::ffi::OsStr;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show, target};
use crate::node::api::{Find, FindReply, Provider};

/// Providers asked for unless told otherwise.
const LIMIT: u64 = 20;
/// Seconds to look unless told otherwise.
const TIMEOUT_S: u64 = 20;

/// Find the nodes that announced an identifier, and whether they answer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet find LINK
  libernet find bafk...
  libernet find /sha384/38b0...
  libernet find 'text:the garden club'     # the SHA-384 of the words

With --json: {\"id\",\"local\",\"announced\":{\"port\",\"until\"},\"providers\":[{\"peer\",\"addresses\",\"reached\",\"has\",\"ms\",
\"port\",\"hosts\",\"port_confirmed\",\"port_ttl_s\"}]}. The port is that of another program on the provider's
host; hosts are that host's IP addresses as others see it. port_confirmed is false when only others
say so and the provider could not be asked. What listens there has to prove by itself who it is.

The exit code is 4 when nobody was found and this node doesn't have it either.")]
pub(super) struct Args {
    /// A block id, a link, any 96 hex digits, or text:WORDS (the SHA-384 of the words in Unicode's
    /// composed form, NFC).
    #[arg(value_name = "ID|LINK|text:WORDS")]
    id: String,
    /// Don't ask the providers whether they really have it.
    #[arg(long)]
    no_check: bool,
    /// Most providers to show.
    #[arg(long, default_value_t = LIMIT, value_parser = clap::value_parser!(u64).range(1..=1000))]
    limit: u64,
    /// Time to look for providers.
    #[arg(long, value_name = "TIME", default_value_t = TIMEOUT_S, value_parser = crate::time::seconds, allow_hyphen_values = true)]
    timeout: u64,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let request = Find {
        id: target::identifier(&args.id)?,
        limit: args.limit,
        check: !args.no_check,
        timeout_s: args.timeout,
    };
    let ways = target::ways(OsStr::new(&args.id))?;
    let reply = context
        .with_client_at(&ways, async |client, _| Ok(client.find(request).await?))
        .await?;
    if context.json {
        output::json(&reply)?;
    } else {
        output::stdout(text(&reply, context).as_bytes())?;
    }
    if !reply.providers.is_empty() || reply.local || reply.announced.is_some() {
        return Ok(Exit::Done);
    }
    context.notice(&format!(
        "nobody who announced {} was found within {} s",
        reply.id, args.timeout
    ));
    Ok(Exit::NotFound)
}

fn text(reply: &FindReply, context: &Context) -> String {
    let mut text = String::new();
    if reply.local {
        text.push_str("this node has it\n");
    }
    if let Some(own) = reply.announced {
        text.push_str(&format!("this node announces port {} under it\n", own.port));
    }
    let yes_no = |answer: Option<bool>| match answer {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    let has_ports = reply.providers.iter().any(|one| one.port.is_some());
    let mut head = vec!["peer", "reached", "has it", "ms", "addresses"];
    if has_ports {
        head.insert(4, "program");
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for provider in &reply.providers {
        let mut row = vec![
            context.id(&provider.peer).to_owned(),
            yes_no(provider.reached).to_owned(),
            yes_no(provider.has).to_owned(),
            provider.ms.to_string(),
        ];
        if has_ports {
            row.push(program(provider));
        }
        row.push(provider.addresses.join(" "));
        rows.push(row);
    }
    if rows.len() > 1 {
        for cell in rows.iter_mut().flatten() {
            *cell = show::printable(cell);
        }
        text.push_str(&show::table(&rows, &[3]));
    }
    text
}

/// Where a provider's program listens, as it is written in URLs, and whether only others say so.
fn program(provider: &Provider) -> String {
    let Some(port) = provider.port else {
        return "-".to_owned();
    };
    let hosts = provider.hosts.iter().map(|host| match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    });
    let places: Vec<String> = hosts.collect();
    let mut text = match places.is_empty() {
        true => format!("port {port}"),
        false => places.join(" "),
    };
    if provider.port_confirmed != Some(true) {
        text.push_str(" (unconfirmed)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlockId;

    #[test]
    fn a_table_of_providers() {
        let mut reply = FindReply {
            id: BlockId::from_sha384([0; 48]),
            local: true,
            announced: None,
            providers: Vec::new(),
        };
        let text = |reply: &FindReply| text(reply, &Context::for_tests());
        assert_eq!(text(&reply), "this node has it\n");
        reply.providers.push(Provider {
            peer: "12D3".to_owned(),
            addresses: vec!["/ip4/1.2.3.4/tcp/1".to_owned()],
            reached: Some(true),
            has: None,
            port: None,
            port_confirmed: None,
            hosts: Vec::new(),
            port_ttl_s: None,
            ms: 12,
        });
        assert!(
            text(&reply).ends_with("12D3  yes      -       12  /ip4/1.2.3.4/tcp/1\n"),
            "{}",
            text(&reply)
        );
        let provider = &mut reply.providers[0];
        provider.port = Some(80);
        provider.hosts = vec!["::1".to_owned()];
        let said = text(&reply);
        assert!(said.contains("  [::1]:80 (unconfirmed)  /ip4/"), "{said}");
        reply.providers[0].port_confirmed = Some(true);
        let said = text(&reply);
        assert!(said.contains("  [::1]:80  /ip4/"), "{said}");
    }
}
