//! What the log tells, and what it never does.

use http::Method;

use crate::{
    harness::{House, credential},
    record,
};

#[tokio::test(flavor = "multi_thread")]
async fn one_line_a_request_tells_the_whole_story() {
    let house = House::start().await;
    let mut client = house.client().await;
    client.get("/owa/the-whole-story").basic("CONTOSO\\bruno", "Pass-word1").send().await;
    let line = record::line(&["firstcas::access", " path=/owa/the-whole-story "]).await;
    for part in [
        " client=127.0.0.1:",
        " method=GET ",
        " protocol=owa ",
        "bruno",
        " target=- ",
        " site=Porto ",
        " rule=",
        " cas=cas-opo-",
        " connection=shared ",
        " upstream=new ",
        " status=200 ",
        " bytes_in=0 ",
        " first_byte_ms=",
        " total_ms=",
        " error=- ",
    ] {
        assert!(line.contains(part), "{part:?} in {line}");
    }
    assert!(!line.contains(" rule=- "), "{line}");
    client.get("/owa/the-second-story").basic("bruno", "Pass-word1").send().await;
    let line = record::line(&["firstcas::access", " path=/owa/the-second-story "]).await;
    assert!(line.contains(" upstream=reused "), "{line}");

    client.get("/owa/a-pinned-story").header("Authorization", "NTLM TlRMTVNTUAABAAAA").send().await;
    let line = record::line(&["firstcas::access", " path=/owa/a-pinned-story "]).await;
    assert!(line.contains(" connection=pinned ") && line.contains(" status=401 "), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_and_a_redirect_name_their_rule_and_no_server() {
    let house = House::start().await;
    for (user, path, status, story) in [
        ("gil", "/owa/story-of-gil", 403, " site=Braga rule=- denial=no-integrated-authentication "),
        ("carla", "/owa/story-of-carla", 200, " site=Madrid rule=owa-redirect denial=- "),
    ] {
        house.get(user, path).await;
        let line = record::line(&["firstcas::access", &format!(" path={path} ")]).await;
        assert!(line.contains(&format!(" status={status} ")) && line.contains(" cas=- "), "{line}");
        assert!(line.contains(&format!(" proven={user}@contoso.com ")) && line.contains(story), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_no_token_no_cookie_no_query_is_ever_written() {
    let house =
        House::with("\n[[listener]]\naddress = \"127.0.0.1:0\"\nredirect_to_https = \"https://mail.contoso.com\"\n")
            .await;
    let redirecting = house.edge.as_ref().expect("it runs").addresses()[2];
    house.contoso.server("cas-opo-1").stop().await; // so that bruno's first request is retried, or ana's...
    house.contoso.server("cas-lis-1").stop().await;
    house.contoso.server("ex03-opo").stop().await; // ... and duarte's fails
    let secrets = ["pa55-of-the-log-test", "c00kie-of-the-log-test", "t0ken-of-the-log-test", "qu3ry-of-the-log-test"];
    let [password, cookie, token, query] = secrets;
    for user in ["ana", "bruno", "carla", "gil", "nobody", "duarte"] {
        for target in [
            format!("/owa/log-test?x={query}"),
            format!("/Microsoft-Server-ActiveSync?Cmd=Sync&User={user}&x={query}"),
            format!("/EWS/Exchange.asmx?{query}"),
            format!("/nowhere?{query}"),
            format!("/exchange/{user}/?{query}"),
        ] {
            let mut client = house.client().await;
            client.ask(Method::POST, &target).basic(user, password).header("Cookie", cookie).send().await;
            let mut client = house.client().await;
            client.get(&target).header("Authorization", &format!("NTLM {token}")).send().await;
            let mut client = house.client().await;
            client.get(&target).header("Authorization", &format!("Bearer {token}")).send().await;
        }
    }
    // And requests that are refused for their form.
    for wrong in ["Content-Length: 1\r\nTransfer-Encoding: chunked", "Host: i", "Content-Length: x", " folded", "(): x"]
    {
        let request = format!(
            "POST /owa/?{query} HTTP/1.1\r\nHost: h\r\nAuthorization: Basic {token}\r\nCookie: {cookie}\r\n{wrong}\r\n\r\n0\r\n\r\n"
        );
        crate::connections::raw(house.plain(), request.as_bytes()).await;
        crate::connections::raw(redirecting, request.as_bytes()).await;
    }
    house.get("ana", "/owa/the-last-of-the-log-test").await;
    record::line(&["firstcas::access", " path=/owa/the-last-of-the-log-test "]).await;
    for secret in secrets {
        assert_eq!(record::lines(&[secret]), Vec::<String>::new());
    }
    for user in ["ana", "bruno", "carla"] {
        let token = credential(user);
        let token = token.trim_start_matches("Basic ");
        assert_eq!(record::lines(&[token]), Vec::<String>::new());
    }
    assert_eq!(record::lines(&["Pass-word1"]), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_administrator_should_know_is_an_event_with_id_and_cure() {
    let house = House::start().await;
    house.ask("carla", Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Sync&User=carla").await;
    record::line(&["WARN firstcas::event", "event=EAS1008", "carla", "https://mail.madrid.contoso.com", "cure="]).await;
    house.ask("ana", Method::POST, "/Microsoft-Server-ActiveSync?!unreadable!").await;
    record::line(&["INFO firstcas::event", "event=FC130", "ActiveSync query", "cure="]).await;
    house.client().await.get("/owa/").header("Authorization", "Basic ???").send().await;
    record::line(&["INFO firstcas::event", "event=FC130", "not base64", "cure="]).await;
    house.get("gil", "/owa/").await;
    record::line(&["ERROR firstcas::event", "event=OWA41", "gil", "cure="]).await;
    house.get("filipe", "/owa/").await;
    record::line(&["ERROR firstcas::event", "event=FC101", "filipe", "cure="]).await;
    house.get("helena", "/owa/").await;
    record::line(&["INFO firstcas::event", "event=FC131", "helena", "cure="]).await;
    for server in ["cas-bra-1", "cas-mad-1"] {
        house.contoso.server(server).stop().await;
    }
    house.ask("carla", Method::POST, "/EWS/Exchange.asmx").await;
    record::line(&["ERROR firstcas::event", "event=FC110", "cas-mad-1", "cure="]).await;
    record::line(&["ERROR firstcas::event", "event=FC112", "Madrid", "cure="]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_cannot_do_windows_authentication_is_event_1036() {
    let house = House::start().await;
    let wrong_password = async || {
        let mut client = house.client().await;
        let answer = client.get("/exchange/duarte/").basic("duarte", "wrong").send().await;
        assert_eq!((answer.status.as_u16(), answer.server()), (401, "ex03-opo"), "{answer:?}");
    };
    wrong_password().await;
    house.contoso.server("ex03-opo").without_integrated();
    wrong_password().await;
    let line = record::line(&["ERROR firstcas::event", "event=EAS1036", "ex03-opo", "cure="]).await;
    assert!(line.contains("Integrated Windows authentication"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_an_event() {
    let house = House::with("upstream.retry_dead_after = \"100ms\"").await;
    house.contoso.server("ex03-lis").stop().await;
    assert_eq!(house.get("elsa", "/exchange/elsa/").await.status, 503);
    record::line(&["event=FC110", "ex03-lis"]).await;
    house.contoso.server("ex03-lis").start().expect("the same port again");
    crate::harness::until("elsa is served", async || house.get("elsa", "/exchange/elsa/").await.status == 200).await;
    record::line(&["event=FC111", "ex03-lis"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_server_is_never_sought() {
    let _house = House::start().await;
    assert_eq!(record::lines(&["event=FC110", "mbx-"]), Vec::<String>::new());
}
