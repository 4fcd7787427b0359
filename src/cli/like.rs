//! `libernet like`: ids that share their first bits with a given one.

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show, target};
use crate::node::api::{Like, LikeReply};
use crate::size::ByteSize;

/// Bits that ids share unless told otherwise, and at least and at most.
const BITS: u32 = 16;
const BITS_RANGE: std::ops::RangeInclusive<i64> = 12..=16;
/// Seconds to look unless told otherwise.
const TIMEOUT_S: u64 = 10;

/// Find ids that are like a given one: that share its first bits.
///
/// Looks in the store, asks connected peers, and those whom the DHT names. `libernet put --like`
/// makes a bundle that is found so. That an id is like another says nothing of what is in the
/// block, nor of who made it: anybody can make one within seconds.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet like 'text:the garden club'
  libernet like bafk... --bits 12        # more of them: one id in 4,096 is alike by chance

Best match first, at most 100. What peers tell is their word: `libernet block get ID` shows whether
the block exists. They tell only of blocks that they announce, and answer few questions a minute.
With --json: {\"id\",\"ids\":[{\"id\",\"bits\",\"bytes\",\"from\"}],\"asked\",\"answered\"}: from is a peer, or here.
The exit code is 4 when there is none.")]
pub(super) struct Args {
    /// A block id, a link, any 96 hex digits, or text:WORDS (the SHA-384 of the words in Unicode's
    /// composed form, NFC).
    #[arg(value_name = "ID|LINK|text:WORDS")]
    id: String,
    /// First bits that they share at least.
    #[arg(long, default_value_t = BITS, value_parser = clap::value_parser!(u32).range(BITS_RANGE))]
    bits: u32,
    /// Time to look.
    #[arg(long, value_name = "TIME", default_value_t = TIMEOUT_S, value_parser = crate::time::seconds)]
    timeout: u64,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let request = Like {
        id: target::identifier(&args.id)?,
        bits: args.bits,
        timeout_s: args.timeout,
    };
    let reply = context
        .with_client(async |client, _| Ok(client.like(request).await?))
        .await?;
    if context.json {
        output::json(&reply)?;
    } else {
        output::stdout(text(&reply, context).as_bytes())?;
        context.notice(&format!(
            "{} of {} answered",
            reply.answered,
            show::count(reply.asked, "peer")
        ));
    }
    if !reply.ids.is_empty() {
        return Ok(Exit::Done);
    }
    context.notice(&format!(
        "no id was found that shares {} bits with {}",
        args.bits, reply.id
    ));
    Ok(Exit::NotFound)
}

fn text(reply: &LikeReply, context: &Context) -> String {
    if reply.ids.is_empty() {
        return String::new();
    }
    let head = ["id", "bits", "size", "from"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    for one in &reply.ids {
        // A size is the word of a peer, and so is who it says it is.
        rows.push(vec![
            one.id.to_string(),
            one.bits.to_string(),
            ByteSize(one.bytes).to_string(),
            context.id(&one.from).to_owned(),
        ]);
    }
    show::table(&rows, &[1, 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlockId;
    use crate::node::api::LikeId;

    #[test]
    fn a_table_of_ids() {
        let id = BlockId::from_sha384([7; 48]);
        let mut reply = LikeReply {
            id,
            ids: Vec::new(),
            asked: 0,
            answered: 0,
        };
        let shown = |reply: &LikeReply| text(reply, &Context::for_tests());
        assert_eq!(shown(&reply), "");
        reply.ids.push(LikeId {
            id,
            bits: 384,
            bytes: 5,
            from: "here".to_owned(),
        });
        let said = shown(&reply);
        assert!(said.contains(&id.to_string()), "{said}");
        assert!(said.ends_with("here\n"), "{said}");
    }
}
