//! The rules as tables: each row carries the sentence it implements and is compared with the whole decision. Then the
//! rules as properties, over organisations that nobody would build. Sources (S1 ..) as in [`super::reasons`].
#![allow(clippy::expect_used)] // a test may fail by panicking

mod differences;
mod organisation;
mod properties;

use organisation::*;

use super::*;

#[test]
fn a_mailbox_of_the_local_site_is_served_by_the_local_pool() {
    for protocol in [Protocol::Owa, Protocol::ActiveSync, Protocol::Ews] {
        contoso().decides([(
            "the First CAS serves mailboxes of its own site directly, ExternalURL or not (S1, S2)",
            ask(protocol),
            On("mbx-lis"),
            proxied(LISBON, protocol, Rule::LocalSite),
        )]);
    }
}

#[test]
fn a_server_of_the_local_site_needs_none_of_what_a_second_cas_needs() {
    let bare = |cas: New| cas.with_directories(|directory| Some(VirtualDirectory { internal_url: None, ..directory }));
    for change in [New::basic_only, New::plain_http, bare] {
        contoso().change("cas-lis-1", change).change("cas-lis-2", change).decides([(
            "it is the First CAS itself: nothing is proxied to it in the article's sense (S1)",
            ask(Protocol::Owa),
            On("mbx-lis"),
            proxied(LISBON, Protocol::Owa, Rule::LocalSite),
        )]);
    }
}

#[test]
fn an_internet_facing_site_is_redirected_to_where_the_client_can_follow() {
    contoso().decides([
        (
            "OWA users see a web page that contains a link to the correct Client Access server (S1)",
            ask(Protocol::Owa),
            On("mbx-mad"),
            Decision::LinkPage(url("https://mail.madrid.contoso.com/owa"), Rule::OwaRedirect),
        ),
        (
            "for ActiveSync the First CAS returns an HTTP error code 451 (S1), whether the device said its version or not",
            ask(Protocol::ActiveSync),
            On("mbx-mad"),
            Decision::MovedDevice(madrid_activesync(), Rule::ActiveSyncRedirect),
        ),
        (
            "... and however old it is, as Exchange 2007 did (S7)",
            device(25),
            On("mbx-mad"),
            Decision::MovedDevice(madrid_activesync(), Rule::ActiveSyncRedirect),
        ),
        (
            "Exchange Web Services cannot use redirection (S1), so ExternalURL does not matter to them (S5)",
            ask(Protocol::Ews),
            On("mbx-mad"),
            proxied(MADRID, Protocol::Ews, Rule::ProxyToSite),
        ),
    ]);
}

#[test]
fn redirection_looks_at_external_url_alone() {
    contoso().change("cas-mad-1", New::basic_only).decides([
        (
            "the user logs on to the other server directly, by whatever it offers (S5, S24a)",
            ask(Protocol::Owa),
            On("mbx-mad"),
            Decision::LinkPage(url("https://mail.madrid.contoso.com/owa"), Rule::OwaRedirect),
        ),
        (
            "... but what is proxied needs Integrated Windows authentication (S1)",
            ask(Protocol::Ews),
            On("mbx-mad"),
            Decision::Refuse(Refusal::NoIntegratedAuthentication),
        ),
    ]);
}

#[test]
fn a_device_that_cannot_follow_a_451_is_proxied_where_the_policy_says_so() {
    let organisation = contoso().under(|policy| policy.activesync_redirect_from = Some(EasVersion(140)));
    let proxied = proxied(MADRID, Protocol::ActiveSync, Rule::ProxyToSite);
    organisation.clone().decides([
        ("12.1 is unreliable with 451 (S7, S8)", device(121), On("mbx-mad"), proxied.clone()),
        ("who has not said a version has not shown that it follows", ask(Protocol::ActiveSync), On("mbx-mad"), proxied),
        (
            "14.0 and later follow (S9)",
            device(140),
            On("mbx-mad"),
            Decision::MovedDevice(madrid_activesync(), Rule::ActiveSyncRedirect),
        ),
    ]);
    organisation.change("cas-mad-1", New::basic_only).decides([(
        "a device too old for the 451 whose site cannot be proxied to is refused, by what the proxying lacks",
        device(121),
        On("mbx-mad"),
        Decision::Refuse(Refusal::NoIntegratedAuthentication),
    )]);
}

#[test]
fn a_site_without_internet_presence_is_proxied_to() {
    for protocol in [Protocol::Owa, Protocol::ActiveSync, Protocol::Ews] {
        contoso().decides([(
            "without Internet-facing CAS in the mailbox's site the request is proxied to the Second CAS (S1)",
            ask(protocol),
            On("mbx-opo"),
            proxied(PORTO, protocol, Rule::ProxyToSite),
        )]);
    }
}

#[test]
fn one_usable_server_is_enough_and_the_pool_is_it_alone() {
    let organisation = contoso().change("cas-opo-1", New::basic_only);
    organisation.decides([(
        "more than one Second CAS is considered before giving up (S18)",
        ask(Protocol::Owa),
        On("mbx-opo"),
        proxied(PORTO, Protocol::Owa, Rule::ProxyToSite),
    )]);
    assert_eq!(organisation.members(PORTO, Protocol::Owa, E2007), ["cas-opo-2"]);
}

#[test]
fn what_a_site_lacks_is_named_in_the_order_authentication_ssl_version() {
    for protocol in [Protocol::Owa, Protocol::ActiveSync, Protocol::Ews] {
        let refused = |sentence, organisation: Organisation, home, refusal| {
            organisation.decides([(sentence, ask(protocol), On(home), Decision::Refuse(refusal))]);
        };
        let porto = |change: fn(New) -> New| contoso().change("cas-opo-1", change).change("cas-opo-2", change);
        refused(
            "a Mailbox server in a site without CAS: no users can connect (S1)",
            contoso(),
            "mbx-far",
            Refusal::NoClientAccessServer,
        );
        refused(
            "proxying does not support virtual directories that use Basic authentication (S1)",
            contoso(),
            "mbx-bra",
            Refusal::NoIntegratedAuthentication,
        );
        refused(
            "no server of the site has the virtual directory",
            porto(|cas| cas.with_directories(|_| None)),
            "mbx-opo",
            Refusal::NoVirtualDirectory,
        );
        refused(
            "a virtual directory without InternalURL has no address to proxy to",
            porto(|cas| cas.with_directories(|directory| Some(VirtualDirectory { internal_url: None, ..directory }))),
            "mbx-opo",
            Refusal::NoInternalUrl,
        );
        refused(
            "an http InternalURL is refused unless AllowProxyingWithoutSSL (S11)",
            porto(New::plain_http),
            "mbx-opo",
            Refusal::NoSsl,
        );
        refused(
            "none is of an acceptable version (S18)",
            porto(|cas| cas.version(14)),
            "mbx-opo",
            Refusal::NoAcceptableVersion,
        );
        refused(
            "the server that came furthest says what is missing: authentication, then SSL (S18)",
            contoso().change("cas-opo-1", New::basic_only).change("cas-opo-2", New::plain_http),
            "mbx-opo",
            Refusal::NoSsl,
        );
        refused(
            "... then version (S18)",
            contoso().change("cas-opo-1", New::plain_http).change("cas-opo-2", |cas| cas.version(14)),
            "mbx-opo",
            Refusal::NoAcceptableVersion,
        );
    }
}

#[test]
fn plain_http_to_a_second_cas_is_a_policy() {
    let porto = contoso().change("cas-opo-1", New::plain_http).change("cas-opo-2", New::plain_http);
    porto.under(|policy| policy.allow_http_internal_url = true).decides([(
        "AllowProxyingWithoutSSL permits plain HTTP (S11)",
        ask(Protocol::Owa),
        On("mbx-opo"),
        proxied(PORTO, Protocol::Owa, Rule::ProxyToSite),
    )]);
}

#[test]
fn an_exchange_2003_mailbox_is_served_by_its_own_back_end_in_any_site() {
    for home in ["ex03-lis", "ex03-opo"] {
        let back_end = || Decision::BackEnd(contoso().server(home), Rule::BackEnd2003);
        let not_there = || Decision::Refuse(Refusal::NotOnThisVersion);
        contoso().decides([
            (
                "the First CAS proxies /exchange straight to the 2003 back-end server, same site or not (S1)",
                path(Protocol::LegacyOwa, "/exchange/duarte/"),
                On(home),
                back_end(),
            ),
            ("... and /public", path(Protocol::LegacyOwa, "/public/"), On(home), back_end()),
            ("... and /exchweb", path(Protocol::LegacyOwa, "/exchweb/img/logo.gif"), On(home), back_end()),
            (
                "... and ActiveSync, even if the site has a CAS (S1, S3)",
                ask(Protocol::ActiveSync),
                On(home),
                back_end(),
            ),
            (
                "/owa finds no 2003 mailbox (S15); its Outlook Web Access is at /exchange",
                ask(Protocol::Owa),
                On(home),
                Decision::SameHost("/exchange/", Rule::OwaTo2003),
            ),
            ("/ecp follows /owa", ask(Protocol::Ecp), On(home), Decision::SameHost("/exchange/", Rule::OwaTo2003)),
            ("the article: POP3 is proxied to a 2003 back-end (S1)", ask(Protocol::Pop3), On(home), back_end()),
            ("... and IMAP4", ask(Protocol::Imap4), On(home), back_end()),
            ("there are no Web Services on 2003", ask(Protocol::Ews), On(home), not_there()),
            ("there is no MAPI over HTTP on 2003", ask(Protocol::Mapi), On(home), not_there()),
        ]);
    }
}

#[test]
fn who_has_no_mailbox_is_refused_by_every_protocol_that_needs_one() {
    for protocol in
        [Protocol::Owa, Protocol::LegacyOwa, Protocol::Ecp, Protocol::ActiveSync, Protocol::Ews, Protocol::Mapi]
    {
        contoso().decides([
            ("nobody of that name", ask(protocol), Unknown, Decision::Refuse(Refusal::UnknownUser)),
            ("two entries of that name", ask(protocol), Ambiguous, Decision::Refuse(Refusal::AmbiguousName)),
            ("a person without mailbox", ask(protocol), WithoutMailbox, Decision::Refuse(Refusal::NoMailbox)),
        ]);
    }
}

#[test]
fn while_nobody_is_named_the_local_pool_challenges() {
    for protocol in [Protocol::Owa, Protocol::LegacyOwa, Protocol::ActiveSync, Protocol::Ews] {
        contoso().decides([(
            "the First CAS is where clients log on (S1)",
            ask(protocol),
            Nobody,
            proxied(LISBON, protocol, Rule::LocalChallenge),
        )]);
    }
    contoso().decides([(
        "a directory that no local server has cannot challenge",
        ask(Protocol::Ecp),
        Nobody,
        Decision::Refuse(Refusal::NotServedLocally),
    )]);
}

#[test]
fn services_without_a_mailbox_are_always_local() {
    for protocol in [Protocol::Autodiscover, Protocol::Oab, Protocol::OutlookAnywhere, Protocol::Opened] {
        for whose in [Nobody, Unknown, WithoutMailbox, On("mbx-mad"), On("mbx-far"), On("ex03-opo")] {
            contoso().decides([(
                "Autodiscover, OAB and RPC are not proxied between sites (S41c, S50)",
                ask(protocol),
                whose,
                proxied(LISBON, protocol, Rule::LocalService),
            )]);
        }
    }
}

#[test]
fn a_local_site_without_client_access_server_serves_nothing_of_its_own() {
    let organisation = contoso().local(FARO);
    for (protocol, whose) in
        [(Protocol::Owa, Nobody), (Protocol::Autodiscover, On("mbx-mad")), (Protocol::OutlookAnywhere, Nobody)]
    {
        organisation.decides([(
            "there is no pool to challenge or to serve",
            ask(protocol),
            whose,
            Decision::Refuse(Refusal::NotServedLocally),
        )]);
    }
    organisation.decides([
        (
            "a mailbox of the local site has no CAS either",
            ask(Protocol::Owa),
            On("mbx-far"),
            Decision::Refuse(Refusal::NoClientAccessServer),
        ),
        (
            "other sites are still proxied to",
            ask(Protocol::Owa),
            On("mbx-opo"),
            proxied(PORTO, Protocol::Owa, Rule::ProxyToSite),
        ),
        (
            "... and redirected to",
            ask(Protocol::Owa),
            On("mbx-lis"),
            Decision::LinkPage(url("https://mail.contoso.com/owa"), Rule::OwaRedirect),
        ),
    ]);
}

#[test]
fn the_bare_host_name_leads_to_owa_for_everybody() {
    for whose in [Nobody, Unknown, WithoutMailbox, On("mbx-mad"), On("ex03-lis")] {
        contoso().decides([(
            "/ -> /owa, whoever asks",
            ask(Protocol::Root),
            whose,
            Decision::SameHost("/owa/", Rule::RootToOwa),
        )]);
    }
}

#[test]
fn the_legacy_paths_of_a_later_mailbox_end_at_owa_or_in_the_local_pool() {
    for home in ["mbx-lis", "mbx-opo", "mbx-mad"] {
        contoso().decides([
            (
                "/exchange of a 2007 mailbox ends at /owa (S15, S16)",
                path(Protocol::LegacyOwa, "/EXCHANGE/bruno/"),
                On(home),
                Decision::SameHost("/owa/", Rule::LegacyToOwa),
            ),
            (
                "/public stays with the local CAS (S15)",
                path(Protocol::LegacyOwa, "/public/"),
                On(home),
                proxied(LISBON, Protocol::LegacyOwa, Rule::LocalService),
            ),
            (
                "... and so does /exchweb",
                path(Protocol::LegacyOwa, "/exchweb/img/logo.gif"),
                On(home),
                proxied(LISBON, Protocol::LegacyOwa, Rule::LocalService),
            ),
        ]);
    }
}

#[test]
fn ecp_follows_owa() {
    for home in ["mbx-lis", "mbx-opo", "mbx-mad", "mbx-far"] {
        contoso().decides([(
            "Exchange 2007 has no /ecp; its users' options are in /owa (S60)",
            ask(Protocol::Ecp),
            On(home),
            Decision::SameHost("/owa/", Rule::EcpToOwa),
        )]);
    }
    contoso_of_version(14).decides([
        (
            "2010, ExternalURL: redirected as OWA (S60)",
            ask(Protocol::Ecp),
            On("mbx-mad"),
            Decision::LinkPage(url("https://mail.madrid.contoso.com/ecp"), Rule::OwaRedirect),
        ),
        (
            "2010, none: proxied as OWA (S60)",
            ask(Protocol::Ecp),
            On("mbx-opo"),
            of(E2010, proxied(PORTO, Protocol::Ecp, Rule::ProxyToSite)),
        ),
        (
            "nobody is named: as OWA",
            ask(Protocol::Ecp),
            Nobody,
            of(E2010, proxied(LISBON, Protocol::Ecp, Rule::LocalChallenge)),
        ),
    ]);
}

#[test]
fn exchange_2010_follows_the_rules_of_2007() {
    contoso_of_version(14).decides([
        (
            "ExternalURL: page with a link, the default of 2010 (S24a)",
            ask(Protocol::Owa),
            On("mbx-mad"),
            Decision::LinkPage(url("https://mail.madrid.contoso.com/owa"), Rule::OwaRedirect),
        ),
        (
            "ExternalURL: 451 (S5, S9)",
            device(140),
            On("mbx-mad"),
            Decision::MovedDevice(madrid_activesync(), Rule::ActiveSyncRedirect),
        ),
        (
            "no ExternalURL: proxied (S5)",
            ask(Protocol::Owa),
            On("mbx-opo"),
            of(E2010, proxied(PORTO, Protocol::Owa, Rule::ProxyToSite)),
        ),
        (
            "Integrated Windows authentication is required of it too (S5)",
            ask(Protocol::Owa),
            On("mbx-bra"),
            Decision::Refuse(Refusal::NoIntegratedAuthentication),
        ),
        (
            "/exchange ends at /owa",
            ask(Protocol::LegacyOwa),
            On("mbx-opo"),
            Decision::SameHost("/owa/", Rule::LegacyToOwa),
        ),
    ]);
}

#[test]
fn exchange_2013_and_later_are_always_proxied() {
    for protocol in [Protocol::Owa, Protocol::Ecp, Protocol::ActiveSync, Protocol::Ews, Protocol::Mapi] {
        contoso_of_version(15).decides([(
            "2013 proxies by default; its exceptions are mailboxes of 2007 and 2010 (S25b)",
            ask(protocol),
            On("mbx-mad"),
            of(E2013, proxied(MADRID, protocol, Rule::ProxyToSite)),
        )]);
    }
}

#[test]
fn mail_is_proxied_to_2003_and_from_2010_on_and_of_2007_told_its_own_server() {
    for protocol in [Protocol::Pop3, Protocol::Imap4] {
        let told = |host: &str| Decision::ConnectTo(host.to_owned(), Rule::OwnSiteServer);
        contoso().decides([
            ("the local site serves its own", ask(protocol), On("mbx-lis"), proxied(LISBON, protocol, Rule::LocalSite)),
            (
                "2007 does not proxy between its servers (S1); the server's own name where users know no other",
                ask(protocol),
                On("mbx-opo"),
                told("cas-opo-1.contoso.com"),
            ),
            (
                "... and the name that users know where there is one",
                ask(protocol),
                On("mbx-mad"),
                told("mail.madrid.contoso.com"),
            ),
            (
                "by which authentication its web services are reached is nothing to these protocols",
                ask(protocol),
                On("mbx-bra"),
                told("cas-bra-1.contoso.com"),
            ),
            (
                "nobody could serve it there either",
                ask(protocol),
                On("mbx-far"),
                Decision::Refuse(Refusal::NoClientAccessServer),
            ),
        ]);
        for (major, generation) in [(14, Generation::Exchange2010), (15, Generation::Exchange2013)] {
            let pool = Pool { site: PORTO, protocol, generation: Some(generation) };
            contoso_of_version(major).decides([(
                "2010 and later proxy to the mailbox's site (S5, S25b)",
                ask(protocol),
                On("mbx-opo"),
                Decision::Proxy(pool, Rule::ProxyToSite),
            )]);
        }
    }
}

#[test]
fn mapi_over_http_is_for_mailboxes_of_2013_and_later() {
    for (major, home) in [(8, "mbx-lis"), (8, "mbx-opo"), (14, "mbx-lis"), (14, "mbx-opo")] {
        contoso_of_version(major).decides([(
            "MAPI over HTTP came with 2013 SP1",
            ask(Protocol::Mapi),
            On(home),
            Decision::Refuse(Refusal::NotOnThisVersion),
        )]);
    }
}

#[test]
fn in_a_site_of_two_generations_a_mailbox_gets_its_own() {
    let newer = |cas: New| {
        cas.version(14).with_directories(|mut directory| {
            directory.external_url = Some(url("https://mail14.contoso.com/any"));
            Some(directory)
        })
    };
    let organisation = contoso()
        .change("cas-lis-2", newer)
        .change("cas-opo-2", |cas| cas.version(14))
        .add(cas("cas-mad-0", "Madrid").version(14).internet_facing("https://mail14.madrid.contoso.com"))
        .add(mailbox_server("mbx14-lis", "Lisbon").version(14))
        .add(mailbox_server("mbx14-mad", "Madrid").version(14));
    organisation.decides([
        (
            "a CAS cannot serve a mailbox newer than itself (S8)",
            ask(Protocol::Owa),
            On("mbx14-lis"),
            of(E2010, proxied(LISBON, Protocol::Owa, Rule::LocalSite)),
        ),
        (
            "... and CAS2010 cannot render 2007 mailboxes (S51a)",
            ask(Protocol::Owa),
            On("mbx-lis"),
            proxied(LISBON, Protocol::Owa, Rule::LocalSite),
        ),
        (
            "redirection uses the CAS that match the mailbox version (S8): 2007",
            ask(Protocol::Owa),
            On("mbx-mad"),
            Decision::LinkPage(url("https://mail.madrid.contoso.com/owa"), Rule::OwaRedirect),
        ),
        (
            "... and 2010",
            ask(Protocol::Owa),
            On("mbx14-mad"),
            Decision::LinkPage(url("https://mail14.madrid.contoso.com/owa"), Rule::OwaRedirect),
        ),
        (
            "who is not named yet may turn out to live on the newest version, which can also pass on older ones (S8)",
            ask(Protocol::Owa),
            Nobody,
            of(E2010, proxied(LISBON, Protocol::Owa, Rule::LocalChallenge)),
        ),
        (
            "the newest answers Autodiscover for all (S50)",
            ask(Protocol::Autodiscover),
            On("mbx-lis"),
            of(E2010, proxied(LISBON, Protocol::Autodiscover, Rule::LocalService)),
        ),
        (
            "the legacy paths are those of Exchange 2007 (S15)",
            ask(Protocol::LegacyOwa),
            Nobody,
            proxied(LISBON, Protocol::LegacyOwa, Rule::LocalChallenge),
        ),
    ]);
    assert_eq!(organisation.members(LISBON, Protocol::Owa, E2007), ["cas-lis-1"]);
    assert_eq!(organisation.members(LISBON, Protocol::Owa, E2010), ["cas-lis-2"]);
    contoso().add(mailbox_server("mbx14-lis", "Lisbon").version(14)).decides([(
        "a local site without a CAS new enough refuses",
        ask(Protocol::ActiveSync),
        On("mbx14-lis"),
        Decision::Refuse(Refusal::NoAcceptableVersion),
    )]);
}

#[test]
fn a_redirection_leads_to_https_only_unless_the_policy_allows_http() {
    let plain = contoso().change("cas-mad-1", |cas| cas.internet_facing("http://mail.madrid.contoso.com"));
    plain.decides([
        (
            "an http ExternalURL is not given to users; the site is proxied to",
            ask(Protocol::Owa),
            On("mbx-mad"),
            proxied(MADRID, Protocol::Owa, Rule::ProxyToSite),
        ),
        (
            "... nor to devices",
            ask(Protocol::ActiveSync),
            On("mbx-mad"),
            proxied(MADRID, Protocol::ActiveSync, Rule::ProxyToSite),
        ),
    ]);
    plain.under(|policy| policy.allow_http_external_url = true).decides([(
        "unless allowed",
        ask(Protocol::Owa),
        On("mbx-mad"),
        Decision::LinkPage(url("http://mail.madrid.contoso.com/owa"), Rule::OwaRedirect),
    )]);
    let script = contoso().change("cas-mad-1", |cas| {
        cas.with_directories(|directory| {
            Some(VirtualDirectory { external_url: Some(url("javascript:alert(1)")), ..directory })
        })
    });
    script.under(|policy| policy.allow_http_external_url = true).decides([(
        "no policy makes a script a link",
        ask(Protocol::Owa),
        On("mbx-mad"),
        proxied(MADRID, Protocol::Owa, Rule::ProxyToSite),
    )]);
}

#[test]
fn a_site_under_the_edges_own_name_is_proxied_to() {
    contoso().change("cas-mad-1", |cas| cas.internet_facing("https://MAIL.contoso.com:443")).decides([
        (
            "a link to the edge's own address would lead straight back here",
            ask(Protocol::Owa),
            On("mbx-mad"),
            proxied(MADRID, Protocol::Owa, Rule::ProxyToSite),
        ),
        (
            "... and so would a 451",
            ask(Protocol::ActiveSync),
            On("mbx-mad"),
            proxied(MADRID, Protocol::ActiveSync, Rule::ProxyToSite),
        ),
    ]);
    contoso().change("cas-mad-1", |cas| cas.internet_facing("https://mail.contoso.com:8443")).decides([(
        "another port is another door",
        ask(Protocol::Owa),
        On("mbx-mad"),
        Decision::LinkPage(url("https://mail.contoso.com:8443/owa"), Rule::OwaRedirect),
    )]);
    contoso()
        .change("cas-mad-1", |cas| cas.internet_facing("https://mail.contoso.com"))
        .add(cas("cas-mad-2", "Madrid").internet_facing("https://mail.madrid.contoso.com"))
        .decides([(
            "another CAS of the site may be Internet-facing on its own",
            ask(Protocol::Owa),
            On("mbx-mad"),
            Decision::LinkPage(url("https://mail.madrid.contoso.com/owa"), Rule::OwaRedirect),
        )]);
}

#[test]
fn for_activesync_an_internet_facing_server_beats_one_of_the_same_site_that_is_not() {
    let half = contoso().change("cas-lis-2", New::not_internet_facing);
    assert_eq!(half.members(LISBON, Protocol::ActiveSync, E2007), ["cas-lis-1"], "cas-lis-2 would answer 451 (S6)");
    assert_eq!(
        half.members(LISBON, Protocol::Owa, E2007),
        ["cas-lis-1", "cas-lis-2"],
        "found for ActiveSync only (S6)"
    );
    assert_eq!(contoso().members(PORTO, Protocol::ActiveSync, E2007), ["cas-opo-1", "cas-opo-2"], "none has the URL");

    let half_2013 = contoso_of_version(15).change("cas-lis-2", New::not_internet_facing);
    let both = half_2013.members(LISBON, Protocol::ActiveSync, E2013);
    assert_eq!(both, ["cas-lis-1", "cas-lis-2"], "2013 proxies, it sends no 451 (S25b)");

    let elsewhere = contoso()
        .add(cas("cas-mad-2", "Madrid"))
        .under(|policy| policy.activesync_redirect_from = Some(EasVersion(140)));
    elsewhere.decides([(
        "a device too old for the 451 must not get it from the Second CAS either",
        device(121),
        On("mbx-mad"),
        proxied(MADRID, Protocol::ActiveSync, Rule::ProxyToSite),
    )]);
    assert_eq!(elsewhere.members(MADRID, Protocol::ActiveSync, E2007), ["cas-mad-1"]);
    assert_eq!(
        elsewhere.change("cas-mad-1", New::basic_only).members(MADRID, Protocol::ActiveSync, E2007),
        ["cas-mad-2"],
        "a better server that cannot be used beats nobody"
    );
}

#[test]
fn a_neighbour_serves_a_site_without_client_access_server_only_where_the_policy_says_so() {
    // Faro's links: Lisbon 300, Braga 100, Porto by way of Braga 150.
    let allowed = contoso().under(|policy| policy.serve_from_neighbour_site = true);
    allowed.decides([
        (
            "the nearest site by link cost that can take the request: Braga, nearer, allows Basic only",
            ask(Protocol::Owa),
            On("mbx-far"),
            proxied(PORTO, Protocol::Owa, Rule::ProxyToNeighbour),
        ),
        (
            "a site with servers that lack something is refused, not served by a neighbour",
            ask(Protocol::Owa),
            On("mbx-bra"),
            Decision::Refuse(Refusal::NoIntegratedAuthentication),
        ),
    ]);
    allowed.clone().local(FARO).decides([(
        "the local site's mailboxes are no exception",
        ask(Protocol::Owa),
        On("mbx-far"),
        proxied(PORTO, Protocol::Owa, Rule::ProxyToNeighbour),
    )]);
    allowed.change("cas-opo-1", New::basic_only).change("cas-opo-2", New::basic_only).decides([(
        "the neighbour may be the local site",
        ask(Protocol::Owa),
        On("mbx-far"),
        proxied(LISBON, Protocol::Owa, Rule::ProxyToNeighbour),
    )]);
}

#[test]
fn what_the_directory_does_not_say_is_refused_by_name() {
    let refusal = Decision::Refuse;
    contoso()
        .add(mailbox_server("mbx-lost", "Atlantis"))
        .add(mailbox_server("mbx-odd", "Lisbon").version(9))
        .add(mailbox_server("mbx-nameless", "Lisbon").without_legacy_dn())
        .decides([
            ("home server not there", ask(Protocol::Owa), On("mbx-gone"), refusal(Refusal::HomeServerUnknown)),
            (
                "a mailbox without home server does not live on the server without legacyExchangeDN",
                ask(Protocol::Owa),
                Homeless,
                refusal(Refusal::HomeServerUnknown),
            ),
            ("home server in no known site", ask(Protocol::Owa), On("mbx-lost"), refusal(Refusal::SiteUnknown)),
            ("no Exchange of that version", ask(Protocol::Owa), On("mbx-odd"), refusal(Refusal::VersionUnknown)),
        ]);
}

#[test]
fn only_answers_that_give_a_mailbox_away_wait_for_a_proof() {
    let pool = Pool { site: LISBON, protocol: Protocol::Owa, generation: None };
    let told = [
        Decision::LinkPage(madrid_activesync(), Rule::OwaRedirect),
        Decision::MovedDevice(madrid_activesync(), Rule::ActiveSyncRedirect),
        Decision::SameHost("/exchange/", Rule::OwaTo2003),
        Decision::SameHost("/owa/", Rule::LegacyToOwa),
        Decision::SameHost("/owa/", Rule::EcpToOwa),
        Decision::ConnectTo("cas-opo-1.contoso.com".to_owned(), Rule::OwnSiteServer),
    ];
    let not_told = [
        Decision::SameHost("/owa/", Rule::RootToOwa),
        Decision::Proxy(pool, Rule::ProxyToSite),
        Decision::BackEnd(ServerId(0), Rule::BackEnd2003),
    ];
    assert!(told.iter().all(Decision::tells_about_mailbox));
    assert!(!not_told.iter().any(Decision::tells_about_mailbox));
    for refusal in Refusal::ALL {
        let silent = matches!(refusal, Refusal::NoneResponding | Refusal::NotServedLocally);
        assert_eq!(Decision::Refuse(refusal).tells_about_mailbox(), !silent, "{refusal:?}");
    }
}

#[test]
fn every_reason_has_a_name_of_its_own_and_a_sentence() {
    let reasons: Vec<(&str, &str)> = Rule::ALL
        .map(|rule| (rule.name(), rule.sentence()))
        .into_iter()
        .chain(Refusal::ALL.map(|refusal| (refusal.name(), refusal.sentence())))
        .collect();
    let distinct: std::collections::HashSet<_> = reasons.iter().flat_map(|(name, sentence)| [name, sentence]).collect();
    assert_eq!(distinct.len(), 2 * reasons.len());
    for (name, sentence) in reasons {
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        assert!(sentence.starts_with(char::is_uppercase) && sentence.ends_with('.'), "{sentence}");
    }
}

#[test]
fn a_verdict_speaks_of_the_virtual_directory_by_its_path() {
    assert_eq!(
        Verdict::IntegratedAuthenticationOff.sentence(Protocol::Owa),
        "Integrated Windows authentication is off on its /owa"
    );
    assert_eq!(Verdict::NoVirtualDirectory.sentence(Protocol::ActiveSync), "it has no /Microsoft-Server-ActiveSync");
}
