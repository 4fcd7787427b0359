//! Who may ask: the checks that every request passes before a route sees it, and the token check of the API.
//!
//! `Host` says which origin a request is for: the node's own, with the API and all routes, or that
//! of one bundle, which has nothing but the bundle.
//!
//! A web page of some other site, open in a browser on this machine, can send requests here. The
//! page is kept out by three checks: the `Host` must be a loopback name with our port (a name of
//! its own that resolves to 127.0.0.1 is refused), an `Origin` must be ours, and what the browser
//! marks as coming from another site may only be a link that the user follows. A link from another
//! site is answered with a question, and nothing is fetched for it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, Request, header};

use super::labels;
use crate::client::discovery::Token;

/// Content security policy of everything that is not stored content: nothing may be loaded or run.
/// `allow-same-origin` has browsers say of its links that they come from here.
pub(super) const NOTHING: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; sandbox allow-same-origin";
/// Content security policy of stored content: it may look as it likes, with parts from here only; nothing runs and nothing
/// is sent. Without scripts `allow-same-origin` gives no power; it lets a page load its own fonts and images.
pub(super) const STORED: &str = "default-src 'self' data: blob:; style-src 'self' 'unsafe-inline' data:; \
     script-src 'none'; connect-src 'none'; object-src 'none'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'self'; sandbox allow-same-origin allow-popups allow-top-navigation-by-user-activation";

/// Content security policy of a bundle at an origin of its own: its scripts run, and everything it
/// loads or sends is from and to this origin.
pub(super) const SITE: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; \
     object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'";
/// Abilities of the browser that no bundle is offered.
pub(super) const ABILITIES: &str = "camera=(), microphone=(), geolocation=(), display-capture=(), \
     usb=(), serial=(), hid=(), bluetooth=(), midi=(), payment=()";
/// The name below which bundles have origins. Browsers look for it on their own machine (RFC 6761).
const LOCALHOST: &str = "localhost";

/// Origin that a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The node's own.
    Node,
    /// That of the bundle or name with this label.
    Site(String),
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The `Host` is missing or not ours.
    Host,
    /// The `Origin` is not ours, or the browser says that another site asks.
    Site,
    /// The token is missing or wrong.
    Token,
    /// The session of a browser is over, or was never one.
    Session,
}

/// Checks what every request must fulfil, and tells the origin that it is for. `ours` is where the
/// server listens.
pub(super) fn check<B>(request: &Request<B>, ours: SocketAddr) -> Result<Place, Refusal> {
    let headers = request.headers();
    let host = only(headers, header::HOST.as_str()).ok_or(Refusal::Host)?;
    let place = place_of(host, ours).ok_or(Refusal::Host)?;
    // A request line may carry a whole URL; it must not name another host than the header.
    if let Some(authority) = request.uri().authority()
        && place_of(authority.as_str(), ours).as_ref() != Some(&place)
    {
        return Err(Refusal::Host);
    }
    if headers.contains_key(header::ORIGIN) {
        let origin = only(headers, header::ORIGIN.as_str())
            .and_then(|origin| origin.strip_prefix("http://"))
            .ok_or(Refusal::Site)?;
        if place_of(origin, ours).as_ref() != Some(&place) {
            return Err(Refusal::Site);
        }
    }
    check_fetch_site(headers)?;
    // A worker at the node's own origin would stand between people and all that is shown there.
    // Raw blocks are refused to workers with the status that their specification names.
    let is_raw = request.uri().path().starts_with("/ipfs/");
    if place == Place::Node && !is_raw && headers.contains_key("service-worker") {
        return Err(Refusal::Site);
    }
    Ok(place)
}

/// The authority of the origin with a label, when its name leads to where the server listens.
pub(super) fn site_authority(label: &str, ours: SocketAddr) -> Option<String> {
    let is_usual = ours.ip() == Ipv4Addr::LOCALHOST || ours.ip() == Ipv6Addr::LOCALHOST;
    is_usual.then(|| format!("{label}.{LOCALHOST}:{}", ours.port()))
}

/// Whether the API may be used: the token is there, once.
pub(super) fn check_token(headers: &HeaderMap, token: &Token) -> Result<(), Refusal> {
    let presented = only(headers, header::AUTHORIZATION.as_str())
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or(Refusal::Token)?;
    if token.matches(presented.as_bytes()) {
        Ok(())
    } else {
        Err(Refusal::Token)
    }
}

/// Fetch metadata (W3C): browsers say where a request comes from. Other programs don't send these headers.
fn check_fetch_site(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(site) = headers.get("sec-fetch-site") else {
        return Ok(());
    };
    if site == "same-origin" || site == "none" {
        return Ok(());
    }
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
    if is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document") {
        Ok(())
    } else {
        Err(Refusal::Site)
    }
}

/// Whether a browser says that another site leads here: a link there, or a page that opened a
/// window.
pub(super) fn is_led_by_another_site(headers: &HeaderMap) -> bool {
    headers
        .get("sec-fetch-site")
        .is_some_and(|site| site != "same-origin" && site != "none")
}

/// Whether a browser goes to this address, and so shows and keeps it.
pub(super) fn is_navigation(headers: &HeaderMap) -> bool {
    headers
        .get("sec-fetch-mode")
        .is_some_and(|mode| mode == "navigate")
}

/// The value of a header that is there exactly once and is text.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values
        .next()
        .is_none()
        .then(|| value.to_str().ok())
        .flatten()
}

/// The origin that `authority` (`host[:port]`) names with our port, if it is one of ours.
fn place_of(authority: &str, ours: SocketAddr) -> Option<Place> {
    if let Ok(address) = authority.parse::<SocketAddr>() {
        let is_ours = address.ip().is_loopback() && address.port() == ours.port();
        return is_ours.then_some(Place::Node);
    }
    let (host, port) = match authority.rsplit_once(':') {
        // The colon is one of an IPv6 address without a port.
        Some((host, _)) if host.starts_with('[') && !host.ends_with(']') => (authority, "80"),
        Some((host, port)) => (host, port),
        None => (authority, "80"),
    };
    if !port.bytes().all(|b| b.is_ascii_digit()) || port.parse() != Ok(ours.port()) {
        return None;
    }
    if let Some((label, name)) = host.split_once('.')
        && name.eq_ignore_ascii_case(LOCALHOST)
    {
        let label = label.to_ascii_lowercase();
        return labels::is_site_label(&label).then_some(Place::Site(label));
    }
    let named = host.eq_ignore_ascii_case(LOCALHOST)
        || host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    named.then_some(Place::Node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: ([u8; 4], u16) = ([127, 0, 0, 1], 4385);

    fn request(headers: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("valid")
    }

    fn checked(headers: &[(&'static str, &str)]) -> Result<(), Refusal> {
        let place = check(&request(headers), OURS.into())?;
        assert_eq!(place, Place::Node, "{headers:?}");
        Ok(())
    }

    /// A label of the right form, and the host with it.
    fn site() -> (String, String) {
        let label = "ab".repeat(26);
        (label.clone(), format!("{label}.localhost:4385"))
    }

    #[test]
    fn only_loopback_names_with_our_port_are_hosts() {
        for host in [
            "127.0.0.1:4385",
            "localhost:4385",
            "LocalHost:4385",
            "[::1]:4385",
            "127.0.0.2:4385",
        ] {
            assert_eq!(checked(&[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "",
            "localhost",
            "127.0.0.1",
            "127.0.0.1:4386",
            "example.org:4385",
            "localhost.example.org:4385",
            "192.0.2.1:4385",
            "[::2]:4385",
            "localhost:",
            "localhost:+4385",
            "user@localhost:4385",
            "127.0.0.1:4385:4385",
            "[::1]",
            "0.0.0.0:4385",
            ":4385",
        ] {
            assert_eq!(checked(&[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(checked(&[]), Err(Refusal::Host));
        let twice = [("host", "localhost:4385"), ("host", "localhost:4385")];
        assert_eq!(checked(&twice), Err(Refusal::Host));
        let port80 = SocketAddr::from(([127, 0, 0, 1], 80));
        for host in ["localhost", "127.0.0.1", "[::1]", "localhost:80"] {
            let found = check(&request(&[("host", host)]), port80);
            assert_eq!(found, Ok(Place::Node), "{host}");
        }
    }

    #[test]
    fn a_whole_url_must_name_us_too() {
        let with = |uri: &str| {
            let request = Request::builder().uri(uri).header("host", "localhost:4385");
            check(&request.body(()).expect("valid"), OURS.into())
        };
        assert_eq!(with("http://localhost:4385/"), Ok(Place::Node));
        assert_eq!(with("http://example.org/"), Err(Refusal::Host));
        let other = format!("http://{}/", site().1);
        assert_eq!(
            with(&other),
            Err(Refusal::Host),
            "an origin of ours, and another"
        );
    }

    #[test]
    fn foreign_origins_are_refused() {
        let with = |origin: &str| checked(&[("host", "localhost:4385"), ("origin", origin)]);
        assert_eq!(with("http://localhost:4385"), Ok(()));
        assert_eq!(with("http://127.0.0.1:4385"), Ok(()));
        for origin in [
            "null",
            "http://example.org",
            "https://localhost:4385",
            "http://localhost:4386",
            "http://localhost",
            "http://localhost:4385.example.org",
            "",
        ] {
            assert_eq!(with(origin), Err(Refusal::Site), "{origin}");
        }
    }

    #[test]
    fn a_host_with_a_label_is_an_origin_of_its_own() {
        let (label, host) = site();
        for host in [host.clone(), host.to_uppercase()] {
            let place = check(&request(&[("host", &host)]), OURS.into());
            assert_eq!(place, Ok(Place::Site(label.clone())), "{host}");
        }
        for wrong in [
            format!("x.{host}"),
            format!("{label}.localhost"),
            format!("{label}.localhost:80"),
            format!("{label}.localhost.:4385"),
            format!("{label}.example.org:4385"),
            format!("{label}.127.0.0.1:4385"),
            "api.localhost:4385".to_owned(),
            ".localhost:4385".to_owned(),
            format!("a{host}"),
            format!("1{}", &host[1..]),
        ] {
            let found = check(&request(&[("host", &wrong)]), OURS.into());
            assert_eq!(found, Err(Refusal::Host), "{wrong}");
        }
    }

    /// Neither the node's origin nor that of another bundle counts as a bundle's own, and no
    /// bundle's as the node's.
    #[test]
    fn origins_of_ours_are_strangers_to_each_other() {
        let (_, host) = site();
        let (node, own) = ("localhost:4385", host.as_str());
        let other = host.replace("ab", "ba");
        let with = |host: &str, origin: &str| {
            let origin = format!("http://{origin}");
            check(
                &request(&[("host", host), ("origin", &origin)]),
                OURS.into(),
            )
        };
        assert!(with(own, own).is_ok());
        for (host, origin) in [(own, other.as_str()), (own, node), (node, own)] {
            assert_eq!(with(host, origin), Err(Refusal::Site), "{host} {origin}");
        }
        let null = [("host", own), ("origin", "null")];
        assert_eq!(check(&request(&null), OURS.into()), Err(Refusal::Site));
    }

    #[test]
    fn service_workers_stay_at_the_origins_of_bundles() {
        let (label, host) = site();
        let with = |host: &str| {
            let headers = [("host", host), ("service-worker", "script")];
            check(&request(&headers), OURS.into())
        };
        assert_eq!(with("localhost:4385"), Err(Refusal::Site));
        assert_eq!(with(&host), Ok(Place::Site(label)));
    }

    #[test]
    fn other_sites_may_link_but_not_embed() {
        let with = |site: &str, mode: &str, dest: &str| {
            checked(&[
                ("host", "localhost:4385"),
                ("sec-fetch-site", site),
                ("sec-fetch-mode", mode),
                ("sec-fetch-dest", dest),
            ])
        };
        assert_eq!(with("none", "navigate", "document"), Ok(()));
        assert_eq!(with("same-origin", "no-cors", "image"), Ok(()));
        assert_eq!(with("cross-site", "navigate", "document"), Ok(()));
        for (site, mode, dest) in [
            ("cross-site", "no-cors", "image"),
            ("same-site", "no-cors", "script"),
            ("cross-site", "navigate", "iframe"),
            ("cross-site", "cors", "empty"),
            ("strange", "no-cors", "empty"),
        ] {
            assert_eq!(
                with(site, mode, dest),
                Err(Refusal::Site),
                "{site} {mode} {dest}"
            );
        }
    }

    #[test]
    fn the_token_must_be_there_and_right() {
        let token = Token::random();
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().expect("valid"));
            }
            check_token(&headers, &token)
        };
        let text: String =
            serde_json::from_value(serde_json::to_value(&token).expect("json")).expect("text");
        assert_eq!(with(&[&format!("Bearer {text}")]), Ok(()));
        assert_eq!(with(&[]), Err(Refusal::Token));
        for wrong in ["Bearer ", "Bearer 00", "Basic abc", text.as_str()] {
            assert_eq!(with(&[wrong]), Err(Refusal::Token), "{wrong}");
        }
        let twice = format!("Bearer {text}");
        assert_eq!(with(&[&twice, &twice]), Err(Refusal::Token));
    }

    proptest! {
        #[test]
        fn no_host_but_loopback_passes(host in "[a-z0-9.:@\\[\\]-]{0,30}") {
            if place_of(&host, OURS.into()).is_some() {
                prop_assert!(host.starts_with("localhost:") || host.starts_with("127.") || host.starts_with('['), "{}", host);
                prop_assert!(host.ends_with("4385"), "{}", host);
            }
        }
    }
}
