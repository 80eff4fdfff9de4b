//! Whom a request is from: the other end of its connection, or whom a trusted proxy names.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::HeaderMap;
use pingora_proxy::Session;

use super::{in_force::InForce, is_tls};
use crate::config::Listener;

/// The client, as everything takes it that asks for its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sender {
    pub(super) ip: Option<IpAddr>,
    /// Whether it speaks https: to us, or to the trusted proxy that says so.
    pub(super) is_tls: bool,
    /// Whether a trusted proxy has passed the request on, and so may have said more about it.
    pub(super) is_passed_on: bool,
}

impl InForce {
    pub(super) fn sender(&self, session: &Session) -> Sender {
        let peer = session.client_addr().and_then(|address| address.as_inet()).map(SocketAddr::ip);
        let direct = Sender { ip: peer.map(|ip| ip.to_canonical()), is_tls: is_tls(session), is_passed_on: false };
        if self.config.listeners.iter().all(|listener| listener.trusted_proxies.is_empty()) {
            return direct;
        }
        let came_to = session.server_addr().and_then(|address| address.as_inet());
        match came_to.and_then(|came_to| self.listener(came_to)) {
            // A balancer that speaks for itself there may pass a client's own fields on, so none of them is believed.
            Some(listener) if !listener.proxy_protocol => {
                direct.or_whom_it_names(listener, &session.req_header().headers)
            }
            Some(_) | None => direct,
        }
    }
}

impl Sender {
    /// Every trusted proxy appends whom it had the request from, so the last that is no trusted proxy is the client; what
    /// stands before is what that one says of itself.
    fn or_whom_it_names(self, listener: &Listener, headers: &HeaderMap) -> Sender {
        let Some(peer) = self.ip.filter(|peer| listener.trusts(*peer)) else { return self };
        let mut ip = peer;
        let fields = headers.get_all("X-Forwarded-For").iter().rev();
        for named in fields.flat_map(|field| field.as_bytes().rsplit(|byte| *byte == b',')) {
            let Some(named) = std::str::from_utf8(named).ok().and_then(|named| address(named.trim())) else { break };
            ip = named;
            if !listener.trusts(ip) {
                break;
            }
        }
        // Several proxies in a row each append, or the first says it; the last is the one that we know.
        let proto = headers.get_all("X-Forwarded-Proto").iter().next_back().and_then(|field| field.to_str().ok());
        let proto = proto.and_then(|proto| proto.rsplit(',').next()).map(str::trim);
        Sender {
            ip: Some(ip),
            is_tls: proto.map_or(self.is_tls, |proto| proto.eq_ignore_ascii_case("https")),
            is_passed_on: true,
        }
    }
}

/// Everybody who shares a network is one client: in IPv6 the one /64 that a household or a telephone has.
pub(super) fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// An address as proxies write it: alone, or with a port, and then an IPv6 address in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse().ok().map(|with_port: SocketAddr| with_port.ip());
    text.parse().ok().or_else(with_port).or_else(bare).map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may fail by panicking
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn seen(peer: &str, fields: &[(&'static str, &'static str)]) -> (String, bool, bool) {
        let listener = Listener {
            address: "127.0.0.1:0".parse().expect("an address"),
            tls: None,
            redirect_to_https: None,
            proxy_protocol: false,
            trusted_proxies: ["10.0.0.0/8", "2001:db8:1::/48"].map(|it| it.parse().expect("a network")).to_vec(),
            logon_form: false,
            mail: None,
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
            headers.append(HeaderName::from_static(name), value);
        }
        let direct = Sender { ip: Some(peer.parse().expect("an address")), is_tls: false, is_passed_on: false };
        let Sender { ip, is_tls, is_passed_on } = direct.or_whom_it_names(&listener, &headers);
        (ip.expect("an address").to_string(), is_tls, is_passed_on)
    }

    #[test]
    fn the_last_address_that_is_no_trusted_proxys_is_the_clients() {
        for (fields, client) in [
            (&[][..], "10.0.0.1"),
            (&[("x-forwarded-for", "198.51.100.7")], "198.51.100.7"),
            (&[("x-forwarded-for", "6.6.6.6, 198.51.100.7, 10.0.0.2")], "198.51.100.7"),
            (&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "198.51.100.7,10.0.0.2")], "198.51.100.7"),
            (&[("x-forwarded-for", "6.6.6.6,10.0.0.3"), ("x-forwarded-for", "10.0.0.2")], "6.6.6.6"),
            (&[("x-forwarded-for", "198.51.100.7:40000")], "198.51.100.7"),
            (&[("x-forwarded-for", "[2001:db8::7]:40000")], "2001:db8::7"),
            (&[("x-forwarded-for", "[2001:db8::7]")], "2001:db8::7"),
            (&[("x-forwarded-for", "2001:db8::7, 2001:db8:1::5")], "2001:db8::7"),
            (&[("x-forwarded-for", "::ffff:198.51.100.7")], "198.51.100.7"),
            // What cannot be read ends it: the one before said so.
            (&[("x-forwarded-for", "6.6.6.6, unknown, 10.0.0.2")], "10.0.0.2"),
            (&[("x-forwarded-for", "6.6.6.6,")], "10.0.0.1"),
            (&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "für wen?")], "10.0.0.1"),
            (&[("x-forwarded-for", "6.6.6.6, größer, 10.0.0.2")], "10.0.0.2"),
        ] {
            assert_eq!(seen("10.0.0.1", fields).0, client, "{fields:?}");
        }
    }

    #[test]
    fn nobody_else_is_believed() {
        let lies = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https")];
        assert_eq!(seen("198.51.100.7", &lies), ("198.51.100.7".into(), false, false));
    }

    #[test]
    fn a_trusted_proxy_says_whether_the_client_came_by_https() {
        for (value, is_tls) in [("https", true), ("HTTPS", true), ("http", false), ("http, https", true), ("", false)] {
            assert_eq!(seen("10.0.0.1", &[("x-forwarded-proto", value)]).1, is_tls, "{value}");
        }
    }
}
