//! The differences between two topologies, sentence by sentence.

use super::{
    super::{
        differences::differences,
        protocol::VirtualDirectoryKind,
        topology::{AuthenticationMethods, SiteLink, Topology, TopologyParts, VirtualDirectory},
        version::Version,
    },
    organisation::{contoso, url},
};

/// Contoso's topology, and what it is after a change, in sentences.
fn told(change: impl FnOnce(&mut TopologyParts)) -> Vec<String> {
    differences(&contoso().topology_after(databases_and_subnets), &changed(change))
}

fn changed(change: impl FnOnce(&mut TopologyParts)) -> Topology {
    contoso().topology_after(|parts| {
        databases_and_subnets(parts);
        change(parts);
    })
}

fn databases_and_subnets(parts: &mut TopologyParts) {
    parts.databases = vec![("cn=sales,cn=x".into(), "mbx-opo".into()), ("cn=it,cn=x".into(), "mbx-lis".into())];
    parts.subnets = vec![("10.2.0.0/16".parse().expect("a network"), "Porto".into())];
}

fn server<'p>(parts: &'p mut TopologyParts, name: &str) -> &'p mut super::Server {
    parts.servers.iter_mut().find(|server| server.name == name).expect("a server of that name")
}

fn owa<'p>(parts: &'p mut TopologyParts, name: &str) -> &'p mut Option<VirtualDirectory> {
    &mut server(parts, name).virtual_directories[VirtualDirectoryKind::Owa as usize]
}

#[test]
fn nothing_is_said_of_what_is_the_same() {
    assert_eq!(told(|_| {}), Vec::<String>::new());
    assert_eq!(told(|parts| parts.servers.reverse()), Vec::<String>::new());
}

#[test]
fn servers_come_go_move_and_grow() {
    type Row = (fn(&mut TopologyParts), &'static [&'static str]);
    let rows: [Row; 10] = [
        (|parts| parts.servers.retain(|it| it.name != "cas-opo-2"), &["cas-opo-2 left Porto"]),
        (
            |parts| {
                let new = super::Server { name: "cas-opo-3".into(), ..server(parts, "cas-opo-1").clone() };
                parts.servers.insert(0, new);
            },
            &["cas-opo-3 joined Porto"],
        ),
        (|parts| parts.servers.retain(|it| it.name != "ex03-opo"), &["ex03-opo left the organisation"]),
        (|parts| server(parts, "mbx-opo").site_name = Some("Lisbon".into()), &["mbx-opo moved from Porto to Lisbon"]),
        (|parts| server(parts, "mbx-opo").site_name = None, &["mbx-opo is in no site any more; it was in Porto"]),
        (
            |parts| server(parts, "cas-lis-1").version = Version { major: 14, minor: 3, build: 123 },
            &["cas-lis-1 was upgraded from 8.3.83 to 14.3.123"],
        ),
        (|parts| server(parts, "cas-bra-1").client_access = false, &["cas-bra-1 is no Client Access Server any more"]),
        (|parts| server(parts, "mbx-bra").client_access = true, &["mbx-bra is a Client Access Server now"]),
        (
            |parts| server(parts, "mbx-bra").fqdn = "mbx-bra.braga.contoso.com".into(),
            &["mbx-bra: the full name changed from mbx-bra.contoso.com to mbx-bra.braga.contoso.com"],
        ),
        (
            // Its database went with it, which is said once.
            |parts| parts.servers.retain(|it| it.name != "mbx-opo"),
            &["mbx-opo left Porto"],
        ),
    ];
    for (change, sentences) in rows {
        assert_eq!(told(change), sentences);
    }
}

#[test]
fn a_virtual_directorys_urls_and_authentication_methods_are_named() {
    let external = |text: &str| Some(url(text));
    assert_eq!(
        told(|parts| {
            owa(parts, "cas-mad-1").as_mut().expect("it has one").external_url =
                external("https://correo.contoso.com/owa");
        }),
        ["cas-mad-1: the ExternalURL of /owa changed from https://mail.madrid.contoso.com/owa to \
             https://correo.contoso.com/owa"]
    );
    assert_eq!(
        told(|parts| owa(parts, "cas-mad-1").as_mut().expect("it has one").external_url = None),
        ["cas-mad-1: the ExternalURL of /owa was removed; it was https://mail.madrid.contoso.com/owa"]
    );
    assert_eq!(
        told(|parts| {
            owa(parts, "cas-opo-1").as_mut().expect("it has one").external_url =
                external("https://opo.contoso.com/owa");
        }),
        ["cas-opo-1: the ExternalURL of /owa was set to https://opo.contoso.com/owa"]
    );
    assert_eq!(told(|parts| *owa(parts, "cas-opo-1") = None), ["cas-opo-1 has no /owa any more"]);
    assert_eq!(
        told(|parts| {
            owa(parts, "cas-bra-1").as_mut().expect("it has one").internal_authentication =
                AuthenticationMethods(1 | 2 | 16 | 1 << 20);
        }),
        ["cas-bra-1: the authentication methods of /owa changed from Basic to Basic, Ntlm, WindowsIntegrated, 1048576"]
    );
}

#[test]
fn sites_databases_links_and_subnets_are_told_in_this_order_each_by_name() {
    let sentences = told(|parts| {
        parts.sites.push("Évora".into());
        parts.sites.retain(|site| site != "Braga");
        parts.databases = vec![("cn=sales,cn=x".into(), "mbx-lis".into()), ("cn=new,cn=x".into(), "mbx-opo".into())];
        parts.site_links[0].cost = 70;
        parts.site_links.push(SiteLink { sites: vec!["Lisbon".into(), "Évora".into()], cost: 100 });
        parts.subnets.push(("10.9.0.0/16".parse().expect("a network"), "Lisbon".into()));
        parts.subnets[0].1 = "Madrid".into();
    });
    assert_eq!(
        sentences,
        [
            "the site Braga is gone",
            "the site Évora is new",
            "the database `it` of mbx-lis is gone",
            "the database `new` on mbx-opo is new",
            "the database `sales` moved from mbx-opo to mbx-lis",
            "the cost of the site link of Lisbon and Porto changed from 100 to 70",
            "the site link of Lisbon and Évora is new, at a cost of 100",
            "the subnet 10.2.0.0/16 moved from Porto to Madrid",
            "the subnet 10.9.0.0/16 of Lisbon is new",
        ]
    );
}
