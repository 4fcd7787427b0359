use super::*;
use futures::future::poll_fn;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt};
use libp2p::core::transport::Boxed;
use libp2p::quic;

type Any = Boxed<(PeerId, StreamMuxerBox)>;

/// A node's transport: this one, or libp2p's.
struct Node {
    peer: PeerId,
    transport: Any,
}

impl Node {
    fn ours(limits: &Limits) -> (Self, Unread, Budget) {
        let key = Keypair::generate_ed25519();
        let unread = Unread::new(limits);
        let quic = Quic::new(&key, limits, &unread).expect("set up");
        let budget = quic.setup.budget.clone();
        let transport = quic
            .map(|(peer, muxer), endpoint| (peer, StreamMuxerBox::new(muxer.with(&endpoint))))
            .boxed();
        let peer = key.public().to_peer_id();
        (Self { peer, transport }, unread, budget)
    }

    fn libp2ps() -> Self {
        let key = Keypair::generate_ed25519();
        let transport = quic::tokio::Transport::new(quic::Config::new(&key))
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed();
        let peer = key.public().to_peer_id();
        Self { peer, transport }
    }

    async fn event(&mut self) -> TransportEvent<<Any as Transport>::ListenerUpgrade, io::Error> {
        poll_fn(|cx| Pin::new(&mut self.transport).poll(cx)).await
    }

    /// Listens on a free port of loopback.
    async fn listen(&mut self) -> (ListenerId, Multiaddr) {
        let id = ListenerId::next();
        let any = "/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address");
        self.transport.listen_on(id, any).expect("it listens");
        match self.event().await {
            TransportEvent::NewAddress { listen_addr, .. } => (id, listen_addr),
            other => unreachable!("no address: {other:?}"),
        }
    }

    /// Takes the next connection.
    async fn accept(&mut self) -> io::Result<(PeerId, StreamMuxerBox)> {
        loop {
            if let TransportEvent::Incoming { upgrade, .. } = self.event().await {
                return upgrade.await;
            }
        }
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        role: Role,
        port_use: PortUse,
    ) -> <Any as Transport>::Dial {
        let opts = DialOpts { role, port_use };
        self.transport
            .dial(address, opts)
            .expect("it can be dialled")
    }
}

async fn open(muxer: &mut StreamMuxerBox) -> libp2p::core::muxing::SubstreamBox {
    let opened = poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await;
    opened.expect("a stream")
}

async fn take(muxer: &mut StreamMuxerBox) -> libp2p::core::muxing::SubstreamBox {
    let taken = poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await;
    taken.expect("a stream")
}

/// Sends bytes over a new stream and reads what comes back.
async fn ask(muxer: &mut StreamMuxerBox, sent: &[u8]) -> Vec<u8> {
    let mut stream = open(muxer).await;
    stream.write_all(sent).await.expect("written");
    stream.close().await.expect("closed");
    stream.close().await.expect("closed again");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("read");
    answer
}

/// Takes a stream and sends back what it reads, the last byte first.
async fn answer(muxer: &mut StreamMuxerBox) {
    let mut stream = take(muxer).await;
    let mut asked = Vec::new();
    stream.read_to_end(&mut asked).await.expect("read");
    asked.reverse();
    stream.write_all(&asked).await.expect("written");
    stream.close().await.expect("closed");
    // Until the other side has everything.
    let _ = poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await;
}

/// One node dials the other, and each learns who the other is and gets what it sent.
async fn meet(mut dialler: Node, mut listener: Node) {
    let (_, address) = listener.listen().await;
    let (there, here) = (listener.peer, dialler.peer);
    let dial = dialler.dial(address, Role::Dialer, PortUse::New);
    let answers = async {
        let (peer, mut muxer) = listener.accept().await.expect("accepted");
        assert_eq!(peer, here);
        answer(&mut muxer).await;
    };
    let asks = async {
        let (peer, mut muxer) = dial.await.expect("connected");
        assert_eq!(peer, there);
        // More than the first windows.
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut back = ask(&mut muxer, &sent).await;
        back.reverse();
        assert!(back == sent, "what was sent comes back");
        poll_fn(|cx| muxer.poll_close_unpin(cx))
            .await
            .expect("closed");
    };
    tokio::select! {
        () = asks => {}
        () = async { answers.await; std::future::pending::<()>().await } => {}
    }
}

#[tokio::test]
async fn two_of_ours_speak_with_each_other() {
    let limits = Limits::default();
    meet(Node::ours(&limits).0, Node::ours(&limits).0).await;
}

#[tokio::test]
async fn it_dials_what_libp2ps_transport_listens_on() {
    meet(Node::ours(&Limits::default()).0, Node::libp2ps()).await;
}

#[tokio::test]
async fn it_is_dialled_by_libp2ps_transport() {
    meet(Node::libp2ps(), Node::ours(&Limits::default()).0).await;
}

/// Both sides of a hole punch, with each of the two implementations in either role.
#[tokio::test]
async fn a_dial_as_listener_waits_for_the_peer_and_gets_its_connection() {
    let limits = Limits::default();
    for (mut waits, mut comes) in [
        (Node::ours(&limits).0, Node::ours(&limits).0),
        (Node::ours(&limits).0, Node::libp2ps()),
        (Node::libp2ps(), Node::ours(&limits).0),
    ] {
        let (_, here) = waits.listen().await;
        let (_, there) = comes.listen().await;
        let target = there.with_p2p(comes.peer).expect("no peer yet");
        let waiting = waits.dial(target.clone(), Role::Listener, PortUse::New);
        let opts = DialOpts {
            role: Role::Listener,
            port_use: PortUse::New,
        };
        let twice = waits.transport.dial(target, opts);
        assert!(twice.is_err(), "it is waited for already");
        let coming = comes.dial(here, Role::Dialer, PortUse::Reuse);
        let polls = async {
            loop {
                // Inbound connections are for those that wait.
                let event = waits.event().await;
                assert!(
                    !matches!(event, TransportEvent::Incoming { .. }),
                    "{event:?}"
                );
            }
        };
        let both = futures::future::try_join(waiting, coming);
        let ((peer, _inbound), (other, _outbound)) = tokio::select! {
            both = both => both.expect("they meet"),
            () = polls => unreachable!("it does not end"),
        };
        assert_eq!((peer, other), (comes.peer, waits.peer));
    }
}

#[tokio::test]
async fn a_listener_that_is_removed_says_so_and_is_gone() {
    let (mut node, ..) = Node::ours(&Limits::default());
    let (id, _) = node.listen().await;
    assert!(node.transport.remove_listener(id));
    let TransportEvent::ListenerClosed {
        listener_id,
        reason,
    } = node.event().await
    else {
        unreachable!("it says that it is closed");
    };
    assert_eq!(listener_id, id);
    assert!(reason.is_ok());
    let nothing = poll_fn(|cx| Pin::new(&mut node.transport).poll(cx));
    assert!(nothing.now_or_never().is_none());
    assert!(!node.transport.remove_listener(id));
}

#[tokio::test]
async fn what_is_no_address_of_quic_is_not_dialled() {
    let (mut node, ..) = Node::ours(&Limits::default());
    for address in [
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/127.0.0.1/udp/1",
        "/ip4/127.0.0.1/udp/1/quic",
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "/ip4/0.0.0.0/udp/1/quic-v1",
        "/ip4/127.0.0.1/udp/1/quic-v1/p2p-circuit",
    ] {
        let opts = DialOpts {
            role: Role::Dialer,
            port_use: PortUse::New,
        };
        let dialled = node.transport.dial(address.parse().expect("parsed"), opts);
        let is_refused = matches!(dialled, Err(TransportError::MultiaddrNotSupported(_)));
        assert!(is_refused, "{address}");
    }
}

/// Connects two of ours: the dialler's muxer, the listener's, and what the listener counts.
async fn pair(limits: &Limits) -> (Node, StreamMuxerBox, StreamMuxerBox, Unread, Budget) {
    let (mut dialler, _, _) = Node::ours(limits);
    let (mut listener, unread, budget) = Node::ours(limits);
    let (_, address) = listener.listen().await;
    let dial = dialler.dial(address, Role::Dialer, PortUse::New);
    let both = futures::future::try_join(dial, listener.accept()).await;
    let ((_, near), (_, far)) = both.expect("connected");
    (listener, near, far, unread, budget)
}

#[tokio::test]
async fn what_a_peer_sends_unasked_is_bounded_by_its_window() {
    let (_node, mut near, _far, _, budget) = pair(&Limits::default()).await;
    assert_eq!(budget.granted(), FIRST_WINDOW_BYTES);
    let mut sent = 0;
    let mut streams = Vec::new();
    let flood = async {
        for _ in 0..STREAMS {
            let mut stream = open(&mut near).await;
            let mut left = FIRST_WINDOW_BYTES;
            while left > 0 {
                let written = stream.write(&[7; 1024]).await.expect("it lives");
                left = left.saturating_sub(written);
                sent += written;
            }
            streams.push(stream);
        }
    };
    // What fits into the sender's own buffer is taken; the rest is never.
    let flooded = tokio::time::timeout(Duration::from_secs(3), flood).await;
    assert!(flooded.is_err(), "the peer takes no more than its window");
    assert!(
        sent as u64 <= FIRST_SENDING_BYTES + FIRST_WINDOW_BYTES as u64,
        "{sent}"
    );
    assert_eq!(budget.granted(), FIRST_WINDOW_BYTES, "and it does not grow");
}

#[tokio::test]
async fn before_a_peer_has_told_who_it_is_few_of_its_streams_are_handed_out() {
    let limits = Limits {
        streams_before_identify: 3,
        ..Limits::default()
    };
    let (_node, mut near, mut far, unread, _) = pair(&limits).await;
    let mut opened = Vec::new();
    for _ in 0..5 {
        let mut stream = open(&mut near).await;
        stream.write_all(b"x").await.expect("written");
        opened.push(stream);
    }
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(take(&mut far).await);
    }
    {
        let mut next = Box::pin(take(&mut far));
        let waits = tokio::time::timeout(Duration::from_millis(200), &mut next).await;
        assert!(waits.is_err(), "the fourth waits");
    }
    taken.pop();
    let _fourth = take(&mut far).await;
    drop(unread);
}

#[tokio::test]
async fn windows_grow_with_streams_of_ones_own_and_are_given_back() {
    let (_node, mut near, mut far, _, budget) = pair(&Limits::default()).await;
    let mut streams = Vec::new();
    let mut last = budget.granted();
    for _ in 0..20 {
        let (mine, _) = futures::join!(open(&mut far), async {});
        streams.push(mine);
        assert!(budget.granted() >= last);
        last = budget.granted();
    }
    assert!(last > 4 << 20, "{last}");
    drop(streams);
    assert_eq!(
        budget.granted(),
        last,
        "what was granted can't be taken back"
    );
    poll_fn(|cx| far.poll_close_unpin(cx))
        .await
        .expect("closed");
    drop(far);
    assert_eq!(budget.granted(), 0);
    let _ = poll_fn(|cx| near.poll_inbound_unpin(cx)).await;
}
