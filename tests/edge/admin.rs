//! What administrators see: the page, its JSON, the metrics; and who does not see it.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use http::Method;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{
    harness::{Answer, Client, House, Plan, credential, until, within},
    wire::Wire,
};

pub const ADMIN: &str = "admin.address = \"127.0.0.1:0\"\n";

impl House {
    fn admin(&self) -> std::net::SocketAddr {
        self.edge.as_ref().expect("a running edge").admin_address().expect("a page")
    }

    pub async fn look(&self, target: &str) -> Answer {
        look(self.admin(), Method::GET, target, "127.0.0.1").await
    }

    pub async fn metrics(&self) -> Metrics {
        let answer = self.look("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        Metrics(answer.body)
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&self.look("/status.json").await.body).expect("JSON")
    }
}

async fn look(admin: std::net::SocketAddr, method: Method, target: &str, host: &str) -> Answer {
    let mut client = Client::connect(admin).await;
    client.ask_of(method, target, host).send().await
}

/// A page of metrics.
pub struct Metrics(String);

impl Metrics {
    /// The sum of a family's samples that have all these labels.
    pub fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        let samples = self.0.lines().filter(|line| {
            let name_ends = line.find(['{', ' ']).unwrap_or_default();
            &line[..name_ends] == name && labels.iter().all(|label| line.contains(label))
        });
        let whole = |line: &str| line.rsplit([' ', '}']).next()?.split('.').next()?.parse::<u64>().ok();
        samples.map(|line| whole(line).expect("a number")).sum()
    }

    /// The names of all families' samples, as queries use them.
    fn names(&self) -> BTreeSet<String> {
        let types = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let mut names = BTreeSet::new();
        for (name, kind) in types {
            match kind {
                "histogram" => names.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}"))),
                _ => drop(names.insert(name.to_owned())),
            }
        }
        names
    }
}

fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("promtool");
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = command.spawn().expect("promtool is installed (Debian: prometheus)");
    promtool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    let text = [said.stdout, said.stderr].concat();
    (said.status.success(), String::from_utf8(text).unwrap())
}

/// What eight people of contoso do on a quiet morning.
async fn a_quiet_morning(house: &House) {
    for user in ["ana", "bruno", "bruno", "carla", "filipe"] {
        house.get(user, "/owa/").await;
    }
    house.get("elsa", "/exchange/elsa/").await;
    house.ask("carla", Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Sync&User=carla&DeviceId=d&DeviceType=t").await;
    house.ask("carla", Method::POST, "/EWS/Exchange.asmx").await;
    house.client().await.get("/nowhere").send().await;
    house.client().await.get("/").send().await;
    // Their ends are counted after their answers.
    until("ten requests have ended", async || house.metrics().await.sum("firstcas_requests_total", &[]) >= 10).await;
}

/// A Ping of bruno's that its server holds for longer than any test lasts.
async fn held_ping(house: &House) -> Wire {
    let mut held = house.wire().await;
    held.send(format!(
        "POST /Microsoft-Server-ActiveSync?Cmd=Ping&User=bruno HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\n\
         X-Contoso-Hold-Ms: 600000\r\nContent-Length: 0\r\n\r\n",
        credential("bruno")
    ))
    .await;
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_the_numbers_and_finds_nothing_to_say_about_their_names() {
    let house = House::with(ADMIN).await;
    a_quiet_morning(&house).await;
    let metrics = house.metrics().await;
    let (is_clean, said) = promtool(&["check", "metrics"], &metrics.0);
    assert!(is_clean && said.is_empty(), "{said}\n{}", metrics.0);

    let mut client = Client::connect(house.admin()).await;
    let modern = client.ask_of(Method::GET, "/metrics", "127.0.0.1");
    let modern = modern.header("Accept", "application/openmetrics-text; version=1.0.0").send().await;
    assert!(modern.header("Content-Type").starts_with("application/openmetrics-text"), "{modern:?}");
    assert!(modern.body.ends_with("# EOF\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_counted_once_where_it_belongs() {
    let house = House::with(ADMIN).await;
    a_quiet_morning(&house).await;
    let metrics = house.metrics().await;
    let requests = |labels: &[&str]| metrics.sum("firstcas_requests_total", labels);
    for (count, labels) in [
        (1, ["protocol=\"owa\"", "site=\"Lisbon\"", "decision=\"local\"", "status_class=\"2xx\""]),
        (2, ["protocol=\"owa\"", "site=\"Porto\"", "decision=\"proxy\"", "status_class=\"2xx\""]),
        (1, ["protocol=\"owa\"", "site=\"Madrid\"", "decision=\"redirect_page\"", "status_class=\"2xx\""]),
        (1, ["protocol=\"owa\"", "site=\"Faro\"", "decision=\"refused\"", "status_class=\"4xx\""]),
        (1, ["protocol=\"exchange\"", "site=\"-\"", "decision=\"back_end\"", "status_class=\"2xx\""]),
        (1, ["protocol=\"activesync\"", "site=\"Madrid\"", "decision=\"moved_device\"", "status_class=\"4xx\""]),
        (1, ["protocol=\"ews\"", "site=\"Madrid\"", "decision=\"proxy\"", "status_class=\"2xx\""]),
        (1, ["protocol=\"-\"", "site=\"-\"", "decision=\"refused\"", "status_class=\"4xx\""]),
        (1, ["protocol=\"root\"", "site=\"-\"", "decision=\"same_host\"", "status_class=\"3xx\""]),
    ] {
        assert_eq!(requests(&labels), count, "{labels:?}\n{}", metrics.0);
    }
    assert_eq!(requests(&[]), 10);
    assert_eq!(metrics.sum("firstcas_request_duration_seconds_count", &[]), 10);
    assert_eq!(metrics.sum("firstcas_time_to_first_byte_seconds_count", &[]), 5, "what servers answered");
    assert_eq!(metrics.sum("firstcas_server_requests_total", &["site=\"Porto\""]), 2);
    assert_eq!(metrics.sum("firstcas_upstream_connections_total", &[]), 5);
    assert_eq!(metrics.sum("firstcas_requests_in_flight", &[]), 0);
    assert_eq!(metrics.sum("firstcas_directory_up", &[]), 1);
    assert!(metrics.sum("firstcas_cache_searches_total", &[]) >= 5);
    assert!(metrics.sum("firstcas_cache_hits_total", &[]) >= 2);
    let ends = metrics.sum("firstcas_certificate_expiry_timestamp_seconds", &["name=\"mail.contoso.com\""]);
    assert!(ends > 1_700_000_000, "{ends}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_is_counted_while_it_is_open() {
    let house = House::with(ADMIN).await;
    let held = held_ping(&house).await;
    let mut pinned = house.client().await;
    pinned.get("/owa/").header("Authorization", "NTLM TlRMTVNTUAABAAAA").send().await;
    until("the Ping is held in Porto", async || {
        house.metrics().await.sum("firstcas_server_requests_in_flight", &["site=\"Porto\""]) == 1
    })
    .await;
    let metrics = house.metrics().await;
    assert_eq!(metrics.sum("firstcas_held_requests", &[]), 1);
    assert_eq!(metrics.sum("firstcas_requests_in_flight", &["protocol=\"activesync\""]), 1);
    assert_eq!(metrics.sum("firstcas_pinned_connections", &[]), 1);
    assert_eq!(metrics.sum("firstcas_client_connections", &[]), 2);
    drop((held, pinned));
    until("nothing is open any more", async || {
        let metrics = house.metrics().await;
        let open = ["firstcas_held_requests", "firstcas_requests_in_flight", "firstcas_pinned_connections"];
        let open = open.into_iter().chain(["firstcas_client_connections", "firstcas_server_requests_in_flight"]);
        open.map(|name| metrics.sum(name, &[])).sum::<u64>() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobodys_name_address_or_path_is_in_the_numbers() {
    let house = House::with(ADMIN).await;
    a_quiet_morning(&house).await;
    house.ask("nobody-knows@this.name", Method::GET, "/owa/a-path-of-its-own/").await;
    let metrics = house.metrics().await.0.to_lowercase();
    for secret in ["ana", "bruno", "carla", "filipe", "elsa", "nobody", "a-path", "127.0.0.1", "pass-word"] {
        let found = metrics
            .lines()
            .find(|line| !line.starts_with('#') && !line.contains("{listener=") && line.contains(secret));
        // A process that is not the test's own has events of others' names, which are ids here.
        assert_eq!(found, None, "{secret}");
    }
    let shown = house.look("/status.json").await.body;
    assert!(shown.contains("bruno@contoso.com") || shown.contains("\"user\":\"bruno\""), "the page tells: {shown}");
    assert!(!shown.contains("Pass-word1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_calls_the_page_by_its_name_may_look_and_nobody_may_change() {
    let house = House::with("admin.address = \"127.0.0.1:0\"\nadmin.hosts = [\"edge-1.contoso.com\"]\n").await;
    let admin = house.admin();
    for host in ["127.0.0.1", "localhost:9090", "[::1]", "EDGE-1.contoso.com:9090"] {
        for target in ["/", "/status.json", "/metrics", "/healthz", "/readyz"] {
            assert_eq!(look(admin, Method::GET, target, host).await.status, 200, "{host} {target}");
        }
    }
    for target in ["/", "/status.json", "/metrics", "/healthz", "/explain?user=ana&protocol=owa"] {
        let refused = look(admin, Method::GET, target, "rebound.evil.example").await;
        assert_eq!(refused.status, 421, "{target}");
        assert!(refused.body.contains("admin.hosts"), "{refused:?}");
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let refused = look(admin, method, "/status.json", "127.0.0.1").await;
        assert_eq!((refused.status.as_u16(), refused.header("Allow")), (405, "GET, HEAD"));
    }
    assert_eq!(look(admin, Method::HEAD, "/metrics", "127.0.0.1").await.body, "");
    assert_eq!(look(admin, Method::GET, "/owa/", "127.0.0.1").await.status, 404);

    let page = look(admin, Method::GET, "/", "127.0.0.1").await;
    assert!(page.header("Content-Security-Policy").starts_with("default-src 'none'; "), "{page:?}");
    assert_eq!(page.header("Cache-Control"), "no-store");
    assert_eq!(page.header("X-Content-Type-Options"), "nosniff");
    assert_eq!(house.client().await.get("/status.json").send().await.status, 404, "clients see nothing of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_explains_by_what_is_in_force() {
    let house = House::with(ADMIN).await;
    let explained = house.look("/explain?user=CONTOSO%5Cbruno&protocol=owa").await;
    assert_eq!(explained.status, 200, "{explained:?}");
    for part in ["home server", "Porto", "proxied to cas-opo-"] {
        assert!(explained.body.contains(part), "{part} in {}", explained.body);
    }
    let by_url = house.look("/explain?user=ana&url=/owa/bruno@contoso.com/").await;
    assert!(by_url.body.contains("proxied to cas-opo-"), "{by_url:?}");
    for bad in ["", "?user=bruno", "?user=bruno&protocol=gopher", "?user=%00&protocol=owa"] {
        assert_eq!(house.look(&format!("/explain{bad}")).await.status, 400, "{bad}");
    }

    for (site, status) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)] {
        let mut wire = Wire::connect(house.admin()).await;
        let target = "/explain?user=bruno@contoso.com&protocol=owa";
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: {site}\r\n\r\n")).await;
        let answer = within("an answer", wire.rest()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{site}: {answer}");
    }

    house.get("gil", "/owa/").await;
    until("gil's refusal is shown, and explained", async || {
        let status = house.status().await;
        let decisions = status["decisions"].as_array().unwrap();
        let Some(refused) = decisions.iter().find(|it| it["decision"] == "refused") else { return false };
        assert_eq!(
            (&refused["user"], &refused["rule"]),
            (&"gil@contoso.com".into(), &"no-integrated-authentication".into())
        );
        let explained = house.look(refused["explain"].as_str().unwrap()).await;
        assert!(explained.body.contains("Integrated Windows authentication"), "{explained:?}");
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dawdles_is_let_go_and_keeps_no_mail_waiting() {
    let house = House::with(ADMIN).await;
    let begun = Instant::now();
    let mut dawdlers = Vec::new();
    for _ in 0..40 {
        let mut wire = Wire::connect(house.admin()).await;
        wire.send("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ").await;
        dawdlers.push(wire);
    }
    assert_eq!(house.get("ana", "/owa/").await.status, 200);
    for mut dawdler in dawdlers {
        assert_eq!(within("the end of a dawdler", dawdler.rest()).await, "", "it is not answered");
    }
    let taken = begun.elapsed();
    assert!(taken >= Duration::from_millis(1900), "they had their time, {taken:?}");
    assert!(taken < Duration::from_secs(8), "who looks whether the edge is ready waits for them, {taken:?}");
    assert_eq!(house.look("/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_edge_says_that_it_is_alive_and_not_ready() {
    let mut house = House::with(ADMIN).await;
    let (admin, plain) = (house.admin(), house.plain());
    assert_eq!(house.look("/readyz").await.status, 200);
    let before = house.requests_behind();
    let mut busy = house.wire().await;
    busy.send(format!(
        "GET /owa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\nX-Contoso-Hold-Ms: 3000\r\n\r\n",
        credential("bruno")
    ))
    .await;
    until("the server has the request", async || house.requests_behind() > before).await;
    let edge = house.edge.take().expect("it runs");
    let drained = tokio::task::spawn_blocking(move || edge.drain());
    until("new connections are refused", async || TcpStream::connect(plain).await.is_err()).await;
    let ready = look(admin, Method::GET, "/readyz", "localhost").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    assert_eq!(look(admin, Method::GET, "/healthz", "localhost").await.status, 200);
    let status = look(admin, Method::GET, "/status.json", "localhost").await.body;
    assert!(status.contains("\"state\":\"draining\""), "{status}");
    assert!(busy.rest().await.starts_with("HTTP/1.1 200 "));
    within("the end of draining", drained).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_shows_good_or_bad() {
    let house = House::with(ADMIN).await;
    let file = house.folder.path().join("firstcas.toml");
    let edge = house.edge.as_ref().unwrap();
    let version = async || house.metrics().await.sum("firstcas_config_version", &[]);
    let is_good = async || house.metrics().await.sum("firstcas_config_last_reload_successful", &[]);
    assert_eq!((version().await, is_good().await), (1, 1));
    assert_eq!(house.status().await["configuration"]["last_reload"], Value::Null);

    let good = fs::read_to_string(&file).unwrap();
    edge.reload(&file).await.expect("a good configuration");
    assert_eq!((version().await, is_good().await), (2, 1));
    fs::write(&file, "nonsense = 1").unwrap();
    edge.reload(&file).await.expect_err("a bad one");
    assert_eq!((version().await, is_good().await), (2, 0));
    let shown = house.status().await["configuration"]["last_reload"]["problem"].to_string();
    assert!(shown.contains("nonsense"), "{shown}");

    fs::write(&file, good.replace(ADMIN, &format!("{ADMIN}admin.hosts = [\"edge-1.contoso.com\"]\n"))).unwrap();
    assert_eq!(look(house.admin(), Method::GET, "/healthz", "edge-1.contoso.com").await.status, 421);
    edge.reload(&file).await.expect("a good configuration");
    assert_eq!(look(house.admin(), Method::GET, "/healthz", "edge-1.contoso.com").await.status, 200);
    let metrics = house.metrics().await;
    assert_eq!(metrics.sum("firstcas_config_last_reload_successful", &[]), 1);
    assert!(metrics.sum("firstcas_events_total", &["event=\"FC160\""]) >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_shown_as_such() {
    let nowhere = ("cas-mad-1.contoso.com:443", "127.0.0.1:1".parse().unwrap());
    let plan = Plan { further: ADMIN.into(), instead: vec![nowhere], ..Plan::default() };
    let house = House::planned(plan).await;
    house.ask("carla", Method::POST, "/EWS/Exchange.asmx").await;
    let metrics = house.metrics().await;
    assert_eq!(metrics.sum("firstcas_server_up", &["server=\"cas-mad-1\""]), 0);
    assert_eq!(metrics.sum("firstcas_server_up", &["server=\"cas-lis-1\""]), 1);
    let status = house.status().await;
    let sites = status["sites"].as_array().unwrap();
    let names: Vec<_> = sites.iter().map(|site| site["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Lisbon", "Braga", "Faro", "Madrid", "Porto", "-"], "the own site first");
    assert_eq!(sites[3]["servers"][0]["is_up"], false);
    assert!(sites[2]["servers"].as_array().unwrap().is_empty(), "Faro has none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_the_page_with_what_is_so_on_desk_and_phone() {
    let nowhere = ("cas-mad-1.contoso.com:443", "127.0.0.1:1".parse().unwrap());
    let house = House::planned(Plan { further: ADMIN.into(), instead: vec![nowhere], ..Plan::default() }).await;
    a_quiet_morning(&house).await;
    for user in ["gil", "helena", "<b>nobody</b>"] {
        house.get(user, "/owa/").await;
    }
    let _held = held_ping(&house).await;
    until("the Ping is held in Porto", async || house.metrics().await.sum("firstcas_held_requests", &[]) == 1).await;

    let shown = chromium(&house, "#user=bruno&protocol=owa", "1280,1500", &["--dump-dom".into()]).await;
    for part in [
        "serving",
        "configuration 1 since",
        "Lisbon",
        "the edge's own site",
        "cas-opo-1",
        "no Client Access Server",
        "does not answer",
        "No server of Madrid answers.",
        "moved device",
        "owa-redirect",
        "no-integrated-authentication",
        "gil@contoso.com",
        "&lt;b&gt;nobody&lt;/b&gt;",
        "EAS1008",
        "mail.contoso.com",
        "why?",
        "proxied to cas-opo-",
        "as of ",
    ] {
        assert!(shown.dom.contains(part), "{part:?} is not shown:\n{}", shown.dom);
    }
    assert!(!shown.dom.contains("<b>nobody"), "what came from outside is text");
    assert_eq!(shown.complaints, "", "the browser complains");
    for (name, size, colours) in [("desk", "1280,2000", 1), ("night", "1280,1000", 0), ("phone", "390,4200", 1)] {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("status-page-{name}.png"));
        let colours = format!("--blink-settings=preferredColorScheme={colours}");
        chromium(&house, "", size, &[format!("--screenshot={}", file.display()), colours]).await;
        assert!(fs::metadata(&file).expect("a screenshot").len() > 20_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_edge_is_gone_says_so() {
    let mut house = House::with(ADMIN).await;
    let admin = house.admin();
    // The page itself is kept by somebody else; what it asks for finds nobody.
    let page = look(admin, Method::GET, "/", "localhost").await.body;
    drop(house.edge.take());
    let file = house.folder.path().join("page.html");
    fs::write(&file, page).unwrap();
    let shown =
        browse(&format!("file://{}", file.display()), house.folder.path(), "800,600", &["--dump-dom".into()]).await;
    assert!(shown.dom.contains("The edge does not answer since"), "{}", shown.dom);
}

struct Shown {
    dom: String,
    complaints: String,
}

async fn chromium(house: &House, fragment: &str, size: &str, flags: &[String]) -> Shown {
    browse(&format!("http://{}/{fragment}", house.admin()), house.folder.path(), size, flags).await
}

async fn browse(url: &str, folder: &Path, size: &str, flags: &[String]) -> Shown {
    let mut command = tokio::process::Command::new("chromium");
    let command = command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=9000"])
        .arg(format!("--window-size={size}"))
        .arg(format!("--user-data-dir={}", folder.join("browser").display()))
        .args(flags)
        .arg(url)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let said = tokio::time::timeout(Duration::from_secs(90), command.output()).await.expect("a browser in time");
    let said = said.expect("chromium is installed (Debian: chromium)");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let complaints = text(said.stderr);
    let complaints: Vec<_> = complaints.lines().filter(|line| line.contains("CONSOLE")).collect();
    Shown { dom: text(said.stdout), complaints: complaints.join("\n") }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_number_that_a_dashboard_or_an_alert_asks_for_is_there() {
    let house = House::with(ADMIN).await;
    let there = house.metrics().await.names();
    let rules = Path::new("conf/prometheus/firstcas.rules.yml");
    let (is_good, said) = promtool(&["check", "config", "conf/prometheus/prometheus.yml"], "");
    assert!(is_good, "{said}");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string("conf/grafana/firstcas.json").unwrap()).unwrap();
    let mut queries = Vec::new();
    gather_queries(&dashboard, &mut queries);
    assert!(queries.len() > 40, "{queries:?}");
    for query in &queries {
        // As Grafana would, before it asks.
        let query = query.replace("$__rate_interval", "1m").replace("$__interval", "1m");
        let rule = format!("groups: [{{name: a, rules: [{{record: b, expr: {}}}]}}]", Value::from(query.as_str()));
        let file = house.folder.path().join("query.yml");
        fs::write(&file, rule).unwrap();
        let (is_good, said) = promtool(&["check", "rules", file.to_str().unwrap()], "");
        assert!(is_good, "{query}: {said}");
    }
    queries.push(fs::read_to_string(rules).unwrap());
    for query in queries {
        let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':')));
        let asked = words.filter(|word| word.starts_with("firstcas_") || word.starts_with("process_"));
        for name in asked {
            assert!(there.contains(name), "{name} of {query}");
        }
    }
}

#[test]
fn an_alert_for_kerberos_is_raised_while_nobody_gets_a_ticket_and_not_for_one_call_that_took_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let rules = fs::canonicalize("conf/prometheus/firstcas.rules.yml").unwrap();
    let test = |series: &[(&str, &str)], alerts: &str| {
        let one = |(outcome, values): &(&str, &str)| {
            let series = format!(r#"firstcas_sign_ins_total{{instance="a", by="password", outcome="{outcome}"}}"#);
            format!("      - {{series: '{series}', values: '{values}'}}\n")
        };
        let series = series.iter().map(one).collect::<Vec<_>>().concat();
        let text = format!(
            "rule_files: [{}]\nevaluation_interval: 15s\ntests:\n  - interval: 15s\n    input_series:\n{series}    \
             promql_expr_test:\n      - {{expr: 'count(ALERTS{{alertname=\"FirstcasKerberosAway\", alertstate=\"firing\"}})', \
             eval_time: 10m, exp_samples: [{alerts}]}}\n",
            rules.display()
        );
        let file = folder.path().join("test.yml");
        fs::write(&file, text).unwrap();
        let (is_good, said) = promtool(&["test", "rules", file.to_str().unwrap()], "");
        assert!(is_good, "{series}: {said}");
    };
    let raised = "{value: 1}";
    test(&[("away", "0+1x40"), ("got", "7+0x40")], raised);
    test(&[("away", "0+1x40"), ("got", "0+1x40")], "");
    test(&[("away", "0x36 1x4"), ("got", "7+0x40")], ""); // a minute ago, for the first time
    test(&[("away", "0x28 1x12"), ("got", "7+0x40")], ""); // three minutes ago
}

/// Whatever Prometheus is asked, wherever it stands.
fn gather_queries(json: &Value, queries: &mut Vec<String>) {
    match json {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(query) if name == "expr" => queries.push(query.to_owned()),
                    _ => gather_queries(value, queries),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| gather_queries(item, queries)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
