//! Sessions of browsers: one-time codes that begin them, cookies and keys that prove them.
//!
//! `libernet web` asks for a code with the token and opens `/login?code=..` with it. The code is
//! good once and for minutes. The answer sets a cookie and leads to `/#key=..`, where the page
//! takes the key into the storage of its origin and out of the address. Every request to the API
//! then needs both.
//!
//! - The **cookie** (`HttpOnly`, `SameSite=Strict`) can't be read by any script. But browsers send
//!   it to every port of the host, so that other local servers may see it.
//! - The **key** goes in the header [`KEY_HEADER`]. Other websites can't send such a header, and
//!   storage belongs to one port. Whoever has only one of the two has nothing.
//!
//! Sessions live in memory, as hashes, and end with the node. Both tables have a bound; the oldest
//! gives way. Deliberately absent: names, passwords, several rights.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::guard::{self, Refusal};
use super::{Shared, page};
use crate::crypto::{hash, random};

/// Header that carries a session's key.
pub(super) const KEY_HEADER: &str = "x-libernet-session";
/// Time for which a code is good.
const CODE_LIFE: Duration = Duration::from_secs(5 * 60);
/// Time after its last use for which a session is good.
const SESSION_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Codes that wait to be used.
const MAX_CODES: usize = 16;
/// Sessions at once.
const MAX_SESSIONS: usize = 32;
/// Purpose of the hashes that are kept in place of secrets.
const SECRET_CONTEXT: &str = "libernet 2026-12 local web: hash of a secret";

/// Hash of a secret.
type Mark = [u8; 32];

fn mark(secret: &str) -> Mark {
    hash::derive_key(SECRET_CONTEXT, secret.as_bytes())
}

fn secret() -> Zeroizing<String> {
    Zeroizing::new(HEXLOWER.encode(&*random::bytes::<32>()))
}

struct Code {
    mark: Mark,
    until: Instant,
}

struct Session {
    cookie: Mark,
    key: Mark,
    used: Instant,
}

#[derive(Default)]
struct Tables {
    codes: VecDeque<Code>,
    sessions: Vec<Session>,
}

/// Secrets of a new session.
pub(super) struct Opened {
    cookie: Zeroizing<String>,
    key: Zeroizing<String>,
}

/// The codes and sessions of one server.
#[derive(Clone, Default)]
pub(super) struct Sessions(Arc<Mutex<Tables>>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Each change is whole before the lock is given back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new code.
    pub(super) fn invite(&self) -> Zeroizing<String> {
        let code = secret();
        let mut tables = self.lock();
        while tables.codes.len() >= MAX_CODES {
            tables.codes.pop_front();
        }
        tables.codes.push_back(Code {
            mark: mark(&code),
            until: Instant::now() + CODE_LIFE,
        });
        code
    }

    /// Begins a session for a code, which is used up; `None` for one that is not good.
    pub(super) fn open(&self, code: &str) -> Option<Opened> {
        let (code, now) = (mark(code), Instant::now());
        let mut tables = self.lock();
        let place = tables.codes.iter().position(|one| one.mark == code)?;
        let found = tables.codes.remove(place)?;
        if found.until < now {
            return None;
        }
        let opened = Opened {
            cookie: secret(),
            key: secret(),
        };
        tables
            .sessions
            .retain(|one| now.duration_since(one.used) < SESSION_LIFE);
        if tables.sessions.len() >= MAX_SESSIONS {
            let oldest = tables.sessions.iter().enumerate();
            let oldest = oldest.min_by_key(|(_, one)| one.used).map(|(at, _)| at);
            oldest.map(|at| tables.sessions.remove(at));
        }
        tables.sessions.push(Session {
            cookie: mark(&opened.cookie),
            key: mark(&opened.key),
            used: now,
        });
        Some(opened)
    }

    /// Whether a session has this cookie and this key.
    fn knows(&self, cookie: &str, key: &str) -> bool {
        let (cookie, key, now) = (mark(cookie), mark(key), Instant::now());
        let mut tables = self.lock();
        let mut sessions = tables.sessions.iter_mut();
        let Some(session) = sessions.find(|one| one.cookie == cookie && one.key == key) else {
            return false;
        };
        if now.duration_since(session.used) >= SESSION_LIFE {
            return false;
        }
        session.used = now;
        true
    }

    /// Ends the session that has this cookie.
    fn end(&self, cookie: &str) {
        let cookie = mark(cookie);
        self.lock().sessions.retain(|one| one.cookie != cookie);
    }
}

/// Name of the cookie. Browsers keep one jar for all ports of a host, so the name has the port.
fn cookie_name(ours: SocketAddr) -> String {
    format!("libernet-{}", ours.port())
}

/// The session's cookie among those that a browser sent; none when there are several.
fn cookie_of(headers: &HeaderMap, ours: SocketAddr) -> Option<&str> {
    let name = cookie_name(ours);
    let mut found = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(other, _)| *other == name)
        .map(|(_, value)| value);
    let cookie = found.next()?;
    found.next().is_none().then_some(cookie)
}

/// Whether a request may use the API: it has the token, or comes from a page of this very origin
/// with the two secrets of a session.
pub(super) fn check(headers: &HeaderMap, shared: &Shared) -> Result<(), Refusal> {
    if headers.contains_key(header::AUTHORIZATION) {
        return guard::check_token(headers, &shared.options.token);
    }
    let Some(key) = guard::only(headers, KEY_HEADER) else {
        return Err(Refusal::Token);
    };
    if !is_of_this_origin(headers) {
        return Err(Refusal::Site);
    }
    let cookie = cookie_of(headers, shared.address).ok_or(Refusal::Session)?;
    match shared.sessions.knows(cookie, key) {
        true => Ok(()),
        false => Err(Refusal::Session),
    }
}

/// Whether a page of the very host and port that is asked sends the request, as far as the browser
/// says so. Pages at other names of this server are other origins.
fn is_of_this_origin(headers: &HeaderMap) -> bool {
    let is_same_site = headers
        .get("sec-fetch-site")
        .is_none_or(|site| site == "same-origin");
    let host = guard::only(headers, header::HOST.as_str());
    let is_same_host = match headers.contains_key(header::ORIGIN) {
        false => true,
        true => {
            let origin = guard::only(headers, header::ORIGIN.as_str());
            origin.and_then(|origin| origin.strip_prefix("http://")) == host
        }
    };
    is_same_site && is_same_host
}

#[derive(Deserialize)]
pub(super) struct LoginQuery {
    code: String,
}

/// `GET /login?code=..`: begins a session and leads to the dashboard.
pub(super) async fn login(
    State(shared): State<Shared>,
    query: Result<Query<LoginQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    // A browser that only looks ahead must not use the code up.
    let looks_ahead = headers.contains_key("sec-purpose") || headers.contains_key("purpose");
    let is_led = guard::is_led_by_another_site(&headers);
    let opened = match query {
        Ok(Query(query)) if !looks_ahead && !is_led => shared.sessions.open(&query.code),
        _ => None,
    };
    let Some(opened) = opened else {
        return page::message(
            StatusCode::FORBIDDEN,
            "This address does not log in",
            "It is good once and for five minutes. Run <code>libernet web</code> again: it opens \
             the dashboard with a new one.",
        );
    };
    let cookie = format!(
        "{}={}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict",
        cookie_name(shared.address),
        *opened.cookie,
        SESSION_LIFE.as_secs()
    );
    let place = format!("/#key={}", *opened.key);
    let mut response = StatusCode::SEE_OTHER.into_response();
    for (name, value) in [(header::SET_COOKIE, cookie), (header::LOCATION, place)] {
        let value = HeaderValue::try_from(value).expect("hex and a fixed text");
        response.headers_mut().insert(name, value);
    }
    response
}

/// `POST /logout`: ends the session and has the browser forget it.
pub(super) async fn logout(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    if let Err(refusal) = check(&headers, &shared) {
        return super::error::refused(refusal);
    }
    if let Some(cookie) = cookie_of(&headers, shared.address) {
        shared.sessions.end(cookie);
    }
    let gone = format!(
        "{}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict",
        cookie_name(shared.address)
    );
    let mut response = StatusCode::NO_CONTENT.into_response();
    let gone = HeaderValue::try_from(gone).expect("a port and a fixed text");
    response.headers_mut().insert(header::SET_COOKIE, gone);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_code_is_good_once_and_for_minutes() {
        let sessions = Sessions::default();
        let code = sessions.invite();
        assert!(sessions.open("00").is_none());
        let opened = sessions.open(&code).expect("good");
        assert!(sessions.open(&code).is_none(), "a second time");
        assert!(sessions.knows(&opened.cookie, &opened.key));
        let late = sessions.invite();
        tokio::time::advance(CODE_LIFE + Duration::from_secs(1)).await;
        assert!(sessions.open(&late).is_none(), "too late");
        assert!(sessions.knows(&opened.cookie, &opened.key));
    }

    #[tokio::test(start_paused = true)]
    async fn both_secrets_of_one_session_are_needed_and_it_ends_unused() {
        let sessions = Sessions::default();
        let open = || sessions.open(&sessions.invite()).expect("good");
        let (a, b) = (open(), open());
        assert!(!sessions.knows(&a.cookie, &b.key));
        assert!(!sessions.knows(&b.cookie, &a.key));
        assert!(!sessions.knows(&a.key, &a.cookie));
        assert!(!sessions.knows("", ""));
        sessions.end(&a.cookie);
        assert!(!sessions.knows(&a.cookie, &a.key));
        tokio::time::advance(SESSION_LIFE - Duration::from_secs(1)).await;
        assert!(sessions.knows(&b.cookie, &b.key), "used again in time");
        tokio::time::advance(SESSION_LIFE).await;
        assert!(!sessions.knows(&b.cookie, &b.key));
    }

    #[tokio::test(start_paused = true)]
    async fn the_tables_have_bounds_and_the_oldest_gives_way() {
        let sessions = Sessions::default();
        let first = sessions.invite();
        for _ in 0..MAX_CODES {
            sessions.invite();
        }
        assert_eq!(sessions.lock().codes.len(), MAX_CODES);
        assert!(sessions.open(&first).is_none());
        let first = sessions.open(&sessions.invite()).expect("good");
        for _ in 0..MAX_SESSIONS {
            tokio::time::advance(Duration::from_secs(1)).await;
            sessions.open(&sessions.invite()).expect("good");
        }
        assert_eq!(sessions.lock().sessions.len(), MAX_SESSIONS);
        assert!(!sessions.knows(&first.cookie, &first.key));
    }

    #[test]
    fn one_cookie_of_our_name_counts() {
        let ours = SocketAddr::from(([127, 0, 0, 1], 4385));
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::COOKIE, value.parse().expect("valid"));
            }
            cookie_of(&headers, ours).map(str::to_owned)
        };
        let found = Some("ab".to_owned());
        assert_eq!(with(&["libernet-4385=ab"]), found);
        assert_eq!(with(&["x=1; libernet-4385=ab; libernet-4386=cd"]), found);
        assert_eq!(with(&["libernet-4385=ab", "libernet-4385=cd"]), None);
        assert_eq!(with(&["libernet-4385=ab; libernet-4385=ab"]), None);
        assert_eq!(with(&["libernet-43850=ab"]), None);
        assert_eq!(with(&[]), None);
    }
}
