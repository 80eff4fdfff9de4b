//! Every request reaches its mailbox's site, or its client is told what to do.

use http::Method;

use crate::harness::House;

#[tokio::test(flavor = "multi_thread")]
async fn ana_is_served_by_the_local_pool() {
    let house = House::start().await;
    let answer = house.get("ana", "/owa/").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.server().starts_with("cas-lis-"), "{answer:?}");
    assert_eq!(answer.user(), "ana");
}

#[tokio::test(flavor = "multi_thread")]
async fn bruno_meets_the_same_porto_server_however_he_writes_his_name() {
    let house = House::start().await;
    let first = house.get("bruno", "/owa/").await.server().to_owned();
    assert!(first.starts_with("cas-opo-"), "{first}");
    for name in ["CONTOSO\\bruno", "contoso\\BRUNO", "bruno@contoso.com", "Bruno@CONTOSO.com", "BRUNO"] {
        for target in ["/owa/", "/EWS/Exchange.asmx", "/Microsoft-Server-ActiveSync?Cmd=Sync&User=bruno"] {
            let answer = house.ask(name, Method::POST, target).await;
            assert_eq!(answer.server(), first, "{name} {target} {answer:?}");
            assert_eq!(answer.user(), "bruno");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn carla_gets_a_link_her_device_a_451_and_her_ews_madrid_itself() {
    let house = House::start().await;
    let page = house.get("carla@contoso.com", "/owa/").await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("href=\"https://mail.madrid.contoso.com/owa"), "{page:?}");
    let device = house
        .ask("carla", Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Sync&User=carla&DeviceId=d&DeviceType=t")
        .await;
    assert_eq!(device.status, 451);
    assert_eq!(device.header("X-MS-Location"), "https://mail.madrid.contoso.com/Microsoft-Server-ActiveSync");
    let ews = house.ask("carla", Method::POST, "/EWS/Exchange.asmx").await;
    assert_eq!((ews.status.as_u16(), ews.server()), (200, "cas-mad-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn duarte_and_elsa_reach_their_2003_back_ends() {
    let house = House::start().await;
    for (user, server) in [("duarte", "ex03-opo"), ("elsa", "ex03-lis")] {
        for target in [format!("/exchange/{user}/"), "/public/".into(), "/exchweb/img/logo.gif".into()] {
            assert_eq!(house.get(user, &target).await.server(), server, "{target}");
        }
        let device = house.ask(user, Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Sync").await;
        assert_eq!(device.server(), server);
        let owa = house.get(user, "/owa/").await;
        assert_eq!((owa.status.as_u16(), owa.header("Location")), (302, "/exchange/"));
        let ews = house.ask(user, Method::POST, "/EWS/Exchange.asmx").await;
        assert_eq!(ews.status, 500);
        assert!(ews.body.contains("ErrorNoDestinationCASDueToVersionMismatch"), "{ews:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filipe_gil_and_helena_are_refused_and_told_why() {
    let house = House::start().await;
    for (user, words, code) in [
        ("filipe", "without a Client Access Server", "ErrorProxyServiceDiscoveryFailed"),
        ("gil", "Integrated Windows authentication", "ErrorNoDestinationCASDueToKerberosRequirements"),
        ("helena", "no mailbox of this name", "ErrorNonExistentMailbox"),
    ] {
        let owa = house.get(user, "/owa/").await;
        assert_eq!(owa.status, 403);
        assert!(owa.body.contains(words), "{owa:?}");
        let device = house.ask(user, Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Sync").await;
        assert_eq!(device.status, 403);
        let ews = house.ask(user, Method::POST, "/EWS/Exchange.asmx").await;
        assert_eq!(ews.status, 500);
        assert!(ews.body.contains(code), "{ews:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_mailbox_lives_is_not_told_for_a_wrong_password_or_for_none() {
    let house = House::start().await;
    for user in ["carla", "filipe", "gil", "helena", "duarte", "nobody"] {
        for (method, target) in [
            (Method::GET, "/owa/".to_owned()),
            (Method::POST, format!("/Microsoft-Server-ActiveSync?Cmd=Sync&User={user}")),
            (Method::GET, format!("/owa/{user}@contoso.com/")),
        ] {
            let mut client = house.client().await;
            let wrong = client.ask(method.clone(), &target).basic(user, "wrong").send().await;
            assert_eq!(wrong.status, 401, "{user} {target} {wrong:?}");
            let told = format!("{:?} {}", wrong.headers, wrong.body).to_lowercase();
            for secret in ["madrid", "faro", "braga", "location"] {
                assert!(!told.contains(secret), "{user} {target} learns of {secret}: {wrong:?}");
            }
            let anonymous = house.client().await.ask(method, &target).send().await;
            assert_eq!(anonymous.status, 401, "{user} {target}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_names_nobody_is_challenged_by_the_local_pool() {
    let house = House::start().await;
    let answer = house.client().await.get("/owa/").send().await;
    assert_eq!(answer.status, 401);
    assert!(answer.server().starts_with("cas-lis-"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_mailbox_routes_where_it_is_not_the_users_own() {
    let house = House::start().await;
    let explicit = house.get("ana", "/owa/bruno@contoso.com/").await;
    assert!(explicit.server().starts_with("cas-opo-"), "{explicit:?}");
    let mut client = house.client().await;
    let anchored = client
        .ask(Method::POST, "/EWS/Exchange.asmx")
        .basic("ana", "Pass-word1")
        .header("X-AnchorMailbox", "bruno@contoso.com")
        .send()
        .await;
    assert!(anchored.server().starts_with("cas-opo-"), "{anchored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_lead_where_exchange_has_them_and_nowhere_else() {
    let house = House::start().await;
    let root = house.client().await.get("/").send().await;
    assert_eq!((root.status.as_u16(), root.header("Location")), (302, "/owa/"));
    let legacy = house.get("ana", "/exchange/ana/").await;
    assert_eq!((legacy.status.as_u16(), legacy.header("Location")), (302, "/owa/"));
    for closed in ["/PowerShell", "/exadmin/", "/iisstart.htm", "/owa2/"] {
        assert_eq!(house.get("ana", closed).await.status, 404, "{closed}");
    }
    for local in ["/Autodiscover/Autodiscover.xml", "/OAB/"] {
        assert!(house.get("bruno", local).await.server().starts_with("cas-lis-"), "{local}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opened_path_goes_to_the_local_pool() {
    let house = House::with("routing.open_paths = [\"PowerShell\"]").await;
    let answer = house.get("ana", "/powershell/").await;
    assert!(answer.server().starts_with("cas-lis-"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_reads_otherwise_behind_is_refused() {
    let house = House::start().await;
    for path in ["/owa/../PowerShell/", "/owa/..%2fPowerShell/", "/owa/%252e%252e/PowerShell/", "//owa/", "/owa\\..\\x"]
    {
        let raw = crate::connections::raw(
            house.plain(),
            format!("GET {path} HTTP/1.1\r\nHost: mail.contoso.com\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await;
        assert!(raw.starts_with("HTTP/1.1 400 "), "{path}: {raw}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_site_is_down_is_told_to_the_proven_only() {
    let house = House::start().await;
    for server in ["cas-opo-1", "cas-opo-2"] {
        house.contoso.server(server).stop().await;
    }
    for target in ["/owa/", "/EWS/Exchange.asmx", "/Microsoft-Server-ActiveSync?Cmd=Sync"] {
        let wrong = house.client().await.ask(Method::POST, target).basic("bruno", "wrong").send().await;
        let nobody = house.client().await.ask(Method::POST, target).basic("nobody", "wrong").send().await;
        assert_eq!((wrong.status, &wrong.body), (nobody.status, &nobody.body), "{target}");
        assert_eq!(wrong.status, 401);
    }
    let anonymous = house.client().await.get("/owa/bruno@contoso.com/").send().await;
    assert_eq!(anonymous.status, 401);
    assert!(anonymous.server().starts_with("cas-lis-"), "the local pool challenges: {anonymous:?}");
    assert_eq!(house.get("bruno", "/owa/").await.status, 503, "bruno himself is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_challenge_offers_the_same_and_names_no_server() {
    let house = House::start().await;
    let offers = |answer: &crate::harness::Answer| {
        assert_eq!(answer.status, 401, "{answer:?}");
        let values = answer.headers.get_all("WWW-Authenticate").iter();
        values.map(|value| value.to_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    let local = offers(&house.client().await.get("/owa/").send().await);
    assert!(local.iter().any(|offer| offer == "NTLM"), "{local:?}");
    assert!(local.iter().all(|offer| !offer.contains("cas-")), "{local:?}");
    for user in ["ana", "bruno", "carla", "gil", "nobody"] {
        let wrong = house.client().await.get("/owa/").basic(user, "wrong").send().await;
        assert_eq!(offers(&wrong), local, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_challenge_for_a_hidden_mailbox_comes_from_the_same_server_as_for_none() {
    let house = House::start().await;
    let none = house.client().await.get("/owa/nobody@contoso.com/").send().await.server().to_owned();
    for hidden in ["carla", "filipe", "gil", "helena"] {
        let answer = house.client().await.get(&format!("/owa/{hidden}@contoso.com/")).send().await;
        assert_eq!((answer.status.as_u16(), answer.server()), (401, none.as_str()), "{hidden}");
    }
}
