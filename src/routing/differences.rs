//! What has changed between two topologies, as a person would say it: "cas-opo-2 left Porto".

use std::collections::{BTreeMap, BTreeSet};

use super::{
    protocol::Protocol,
    topology::{Server, Topology, VirtualDirectory},
};

/// Every difference, one sentence each; none if and only if the two are equal. In the same order whatever the order they
/// were read in: sites, servers, databases, links, subnets, each by name.
pub fn differences(old: &Topology, new: &Topology) -> Vec<String> {
    let mut said = Vec::new();
    let sites = matched(old.sites().iter().map(|site| &site.name), new.sites().iter().map(|site| &site.name), |name| {
        name.to_lowercase()
    });
    let mut gone_sites = BTreeSet::new();
    let mut new_sites = BTreeSet::new();
    for pair in sites {
        match pair {
            Pair::Gone(name) => {
                gone_sites.insert(name.as_str());
                said.push(format!("the site {name} is gone"));
            }
            Pair::New(name) => {
                new_sites.insert(name.as_str());
                said.push(format!("the site {name} is new"));
            }
            Pair::Both(old, new) if old != new => said.push(format!("the site {old} is called {new} now")),
            Pair::Both(..) => {}
        }
    }

    // What belongs to a server or site that came or went came or went with it: that is said once.
    let mut gone_servers = BTreeSet::new();
    let mut new_servers = BTreeSet::new();
    for pair in matched(old.servers().iter(), new.servers().iter(), |server| server.name.to_lowercase()) {
        match pair {
            Pair::Gone(server) => {
                gone_servers.insert(server.name.as_str());
                said.push(format!("{} left {}", server.name, site_of(server)));
            }
            Pair::New(server) => {
                new_servers.insert(server.name.as_str());
                said.push(format!("{} joined {}", server.name, site_of(server)));
            }
            Pair::Both(old, new) => of_server(old, new, &mut said),
        }
    }
    databases(old, new, &gone_servers, &new_servers, &mut said);
    site_links(old, new, &mut said);
    subnets(old, new, &gone_sites, &new_sites, &mut said);
    said
}

fn site_of(server: &Server) -> &str {
    server.site_name.as_deref().unwrap_or("the organisation")
}

/// The differences of one server.
fn of_server(old: &Server, new: &Server, said: &mut Vec<String>) {
    let name = &new.name;
    if old.name != new.name {
        said.push(format!("{} is called {name} now", old.name));
    }
    match (&old.site_name, &new.site_name) {
        (Some(from), Some(to)) if from.to_lowercase() != to.to_lowercase() => {
            said.push(format!("{name} moved from {from} to {to}"));
        }
        (None, Some(to)) => said.push(format!("{name} is in {to} now; it was in no site")),
        (Some(from), None) => said.push(format!("{name} is in no site any more; it was in {from}")),
        (Some(_), Some(_)) | (None, None) => {}
    }
    if old.version != new.version {
        let how = if old.version < new.version { "was upgraded" } else { "went back" };
        said.push(format!("{name} {how} from {} to {}", old.version, new.version));
    }
    match (old.client_access, new.client_access) {
        (false, true) => said.push(format!("{name} is a Client Access Server now")),
        (true, false) => said.push(format!("{name} is no Client Access Server any more")),
        (true, true) | (false, false) => {}
    }
    let text = |text: &str| if text.is_empty() { None } else { Some(text.to_owned()) };
    changed(said, name, "the full name", text(&old.fqdn).as_ref(), text(&new.fqdn).as_ref());
    changed(said, name, "the legacyExchangeDN", text(&old.legacy_dn).as_ref(), text(&new.legacy_dn).as_ref());
    for protocol in Protocol::ALL {
        let (old, new) = (old.virtual_directory(protocol), new.virtual_directory(protocol));
        of_virtual_directory(name, protocol.directory_path(), old, new, said);
    }
}

fn of_virtual_directory(
    server: &str,
    path: &str,
    old: Option<&VirtualDirectory>,
    new: Option<&VirtualDirectory>,
    said: &mut Vec<String>,
) {
    let (old, new) = match (old, new) {
        (None, None) => return,
        (None, Some(_)) => return said.push(format!("{server} has a {path} now")),
        (Some(_), None) => return said.push(format!("{server} has no {path} any more")),
        (Some(old), Some(new)) => (old, new),
    };
    let what = |what: &str| format!("the {what} of {path}");
    changed(said, server, &what("InternalURL"), old.internal_url.as_ref(), new.internal_url.as_ref());
    changed(said, server, &what("ExternalURL"), old.external_url.as_ref(), new.external_url.as_ref());
    let (old, new) = (old.internal_authentication, new.internal_authentication);
    if old != new {
        said.push(format!("{server}: the authentication methods of {path} changed from {old} to {new}"));
    }
}

/// A value of a server that was set, removed or changed.
fn changed<T: PartialEq + ToString>(
    said: &mut Vec<String>,
    server: &str,
    what: &str,
    old: Option<&T>,
    new: Option<&T>,
) {
    let how = match (old.map(T::to_string), new.map(T::to_string)) {
        (Some(old), Some(new)) if old != new => format!("changed from {old} to {new}"),
        (None, Some(new)) => format!("was set to {new}"),
        (Some(old), None) => format!("was removed; it was {old}"),
        (Some(_), Some(_)) | (None, None) => return,
    };
    said.push(format!("{server}: {what} {how}"));
}

fn databases(
    old: &Topology,
    new: &Topology,
    gone_servers: &BTreeSet<&str>,
    new_servers: &BTreeSet<&str>,
    said: &mut Vec<String>,
) {
    let of = |topology: &Topology| -> Vec<(String, String)> {
        topology.databases().map(|(dn, server)| (dn.to_owned(), topology.server(server).name.clone())).collect()
    };
    for pair in matched(of(old), of(new), |(dn, _)| dn.clone()) {
        match pair {
            Pair::Gone((dn, server)) if !gone_servers.contains(server.as_str()) => {
                said.push(format!("{} of {server} is gone", database(&dn)));
            }
            Pair::New((dn, server)) if !new_servers.contains(server.as_str()) => {
                said.push(format!("{} on {server} is new", database(&dn)));
            }
            Pair::Both((dn, from), (_, to)) if from.to_lowercase() != to.to_lowercase() => {
                said.push(format!("{} moved from {from} to {to}", database(&dn)));
            }
            Pair::Gone(_) | Pair::New(_) | Pair::Both(..) => {}
        }
    }
}

/// `cn=sales,cn=...` is the database `sales`. A comma in its name is escaped, and cuts it short; that is good enough to
/// be understood.
fn database(dn: &str) -> String {
    let name = dn.split(',').next().and_then(|rdn| rdn.split_once('=')).map_or(dn, |(_, name)| name);
    format!("the database `{name}`")
}

fn site_links(old: &Topology, new: &Topology, said: &mut Vec<String>) {
    let of =
        |topology: &Topology| topology.site_links().iter().map(super::topology::SiteLink::in_order).collect::<Vec<_>>();
    for pair in matched(of(old), of(new), |link| link.sites.join("\n")) {
        let joins = |sites: &[String]| format!("the site link of {}", and(sites));
        match pair {
            Pair::Gone(link) => said.push(format!("{} is gone", joins(&link.sites))),
            Pair::New(link) => said.push(format!("{} is new, at a cost of {}", joins(&link.sites), link.cost)),
            Pair::Both(old, new) if old.cost != new.cost => {
                said.push(format!("the cost of {} changed from {} to {}", joins(&new.sites), old.cost, new.cost));
            }
            Pair::Both(..) => {}
        }
    }
}

fn and(names: &[String]) -> String {
    match names {
        [] => "no site".to_owned(),
        [only] => only.clone(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}

fn subnets(
    old: &Topology,
    new: &Topology,
    gone_sites: &BTreeSet<&str>,
    new_sites: &BTreeSet<&str>,
    said: &mut Vec<String>,
) {
    let of = |topology: &Topology| -> Vec<_> {
        topology.subnets().iter().map(|(net, site)| (*net, topology.site(*site).name.clone())).collect()
    };
    for pair in matched(of(old), of(new), |(net, _)| *net) {
        match pair {
            Pair::Gone((net, site)) if !gone_sites.contains(site.as_str()) => {
                said.push(format!("the subnet {net} of {site} is gone"));
            }
            Pair::New((net, site)) if !new_sites.contains(site.as_str()) => {
                said.push(format!("the subnet {net} of {site} is new"));
            }
            Pair::Both((net, from), (_, to)) if from.to_lowercase() != to.to_lowercase() => {
                said.push(format!("the subnet {net} moved from {from} to {to}"));
            }
            Pair::Gone(_) | Pair::New(_) | Pair::Both(..) => {}
        }
    }
}

/// A thing in the old topology, the new one, or both.
enum Pair<T> {
    Gone(T),
    New(T),
    Both(T, T),
}

/// Pairs what has the same key, in the order of the keys. Several with one key, which a directory does not have but a
/// reading may, are paired in their own order; so equal collections give only pairs of equals.
fn matched<T: Ord, K: Ord>(
    old: impl IntoIterator<Item = T>,
    new: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> Vec<Pair<T>> {
    let mut by_key: BTreeMap<K, (Vec<T>, Vec<T>)> = BTreeMap::new();
    for thing in old {
        by_key.entry(key(&thing)).or_default().0.push(thing);
    }
    for thing in new {
        by_key.entry(key(&thing)).or_default().1.push(thing);
    }
    let mut pairs = Vec::new();
    for (mut old, mut new) in by_key.into_values() {
        old.sort_unstable();
        new.sort_unstable();
        let (mut old, mut new) = (old.into_iter(), new.into_iter());
        loop {
            pairs.push(match (old.next(), new.next()) {
                (Some(old), Some(new)) => Pair::Both(old, new),
                (Some(old), None) => Pair::Gone(old),
                (None, Some(new)) => Pair::New(new),
                (None, None) => break,
            });
        }
    }
    pairs
}
