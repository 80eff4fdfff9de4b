use std::{
    future::Future,
    sync::{Arc, LazyLock, mpsc},
    task::Waker,
};

use pingora_core::{
    protocols::tls::SslStream,
    tls::{
        ext::ssl_from_acceptor,
        pkey::PKey,
        ssl::{SslAcceptor, SslConnector, SslMethod},
        x509::X509,
    },
};
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufStream, duplex},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Runtime,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);
const HOUR: Duration = Duration::from_secs(3600);
const PATIENT: Settings = Settings { idle_timeout: HOUR, write_timeout: HOUR, half_closed_timeout: HOUR };
/// Of each end of each connection; the system takes twice that.
const SOCKET_BUFFER_BYTES: u32 = 16 * 1024;

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

#[derive(Clone, Copy, Debug)]
enum Over {
    Tcp,
    Tls,
}

use Over::{Tcp, Tls};

/// A session, seen from both its ends.
struct Scene {
    client: Box<dyn Connection>,
    server: Box<dyn Connection>,
    drain: CancellationToken,
    passed: Arc<Passed>,
    splice: JoinHandle<Ending>,
}

impl Scene {
    async fn new(over: Over, settings: Settings) -> Scene {
        Scene::after(over, settings, "").await
    }

    /// The client has said this before.
    async fn after(over: Over, settings: Settings, first: &str) -> Scene {
        let ((client, mut to_client), (mut to_server, server)) = (from_client(over).await, to_server(over).await);
        let (drain, passed) = (CancellationToken::new(), Arc::new(Passed::default()));
        let (drained, counted, first) = (drain.clone(), passed.clone(), first.as_bytes().to_vec());
        let splice =
            tokio::spawn(
                async move { splice(&mut to_client, &mut to_server, first, &settings, &counted, &drained).await },
            );
        Scene { client, server, drain, passed, splice }
    }

    /// One of the two, and the other.
    fn ends(self, first: Side) -> (Box<dyn Connection>, Box<dyn Connection>, JoinHandle<Ending>) {
        match first {
            Side::Client => (self.client, self.server, self.splice),
            Side::Server => (self.server, self.client, self.splice),
        }
    }
}

/// Both ends of a client's connection: its own, which tells an end from a break, and the edge's.
async fn from_client(over: Over) -> (Box<dyn Connection>, Box<dyn Connection>) {
    let (far, near) = tcp().await;
    match over {
        Tcp => (Box::new(far), Box::new(near)),
        Tls => {
            let mut near = SslStream::new(ssl_from_acceptor(&LIBRARIES.acceptor).unwrap(), near).unwrap();
            let connecting = LIBRARIES.far_connector.connect("mail.contoso.com".try_into().unwrap(), far);
            let (far, accepted) = within("TLS", async { tokio::join!(connecting, near.accept()) }).await;
            accepted.unwrap();
            (Box::new(far.unwrap()), Box::new(near))
        }
    }
}

/// Both ends of a connection to a server: the edge's and the server's.
async fn to_server(over: Over) -> (Box<dyn Connection>, Box<dyn Connection>) {
    let (near, far) = tcp().await;
    match over {
        Tcp => (Box::new(near), Box::new(far)),
        Tls => {
            let session = LIBRARIES.connector.configure().unwrap().into_ssl("mail.contoso.com").unwrap();
            let mut near = SslStream::new(session, near).unwrap();
            let accepting = LIBRARIES.far_acceptor.accept(far);
            let (connected, far) = within("TLS", async { tokio::join!(near.connect(), accepting) }).await;
            connected.unwrap();
            (Box::new(near), Box::new(far.unwrap()))
        }
    }
}

async fn tcp() -> (TcpStream, TcpStream) {
    let small = || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES).unwrap();
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES).unwrap();
        socket
    };
    let listening = small();
    listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener: TcpListener = listening.listen(1).unwrap();
    let connecting = small().connect(listener.local_addr().unwrap());
    let (connecting, accepting) = within("TCP", async { tokio::join!(connecting, listener.accept()) }).await;
    (connecting.unwrap(), accepting.unwrap().0)
}

/// The edge's TLS, and that of those it speaks to.
struct Libraries {
    acceptor: SslAcceptor,
    connector: SslConnector,
    far_acceptor: TlsAcceptor,
    far_connector: TlsConnector,
}

static LIBRARIES: LazyLock<Libraries> = LazyLock::new(|| {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["mail.contoso.com".to_owned()]).unwrap().self_signed(&key).unwrap();
    let pem = X509::from_pem(certificate.pem().as_bytes()).unwrap();
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    acceptor.set_certificate(&pem).unwrap();
    acceptor.set_private_key(&PKey::private_key_from_pem(key.serialize_pem().as_bytes()).unwrap()).unwrap();
    let mut connector = SslConnector::builder(SslMethod::tls()).unwrap();
    connector.cert_store_mut().add_cert(pem).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    Libraries {
        acceptor: acceptor.build(),
        connector: connector.build(),
        far_acceptor: Arc::new(server).into(),
        far_connector: Arc::new(client.with_root_certificates(roots).with_no_client_auth()).into(),
    }
});

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("not before the deadline: {what}"))
}

async fn ending(splice: JoinHandle<Ending>) -> Ending {
    within("the end", splice).await.unwrap()
}

async fn hear(from: &mut (impl AsyncRead + Unpin), what: &str) {
    let mut heard = vec![0; what.len()];
    within(what, from.read_exact(&mut heard)).await.unwrap();
    assert!(heard == what.as_bytes(), "{}", String::from_utf8_lossy(&heard));
}

async fn say(to: &mut (impl AsyncWrite + Unpin), what: &str) {
    within(what, to.write_all(what.as_bytes())).await.unwrap();
    within(what, to.flush()).await.unwrap();
}

async fn hears_the_end(from: &mut (impl AsyncRead + Unpin)) {
    assert_eq!(within("its end", from.read(&mut [0; 1])).await.unwrap(), 0);
}

/// As many bytes, which do not repeat soon.
fn message(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}

/// Reads to the end, now little, now much.
async fn read_fitfully(from: &mut (impl AsyncRead + Unpin), seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut all = Vec::new();
    loop {
        let mut some = vec![0; random.usize(1..40_000)];
        match from.read(&mut some).await.unwrap() {
            0 => return all,
            read => all.extend_from_slice(&some[..read]),
        }
        if random.u8(..) == 0 {
            sleep(Duration::from_millis(1)).await; // long enough that something must be kept
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_say_at_once_arrives_whole() {
    for over in [Tcp, Tls] {
        let scene = Scene::new(over, PATIENT).await;
        let (asked, answered) = (message(6_000_000, 1), message(9_000_000, 2));
        let talk = |connection: Box<dyn Connection>, words: Vec<u8>, seed| async move {
            let (mut hears, mut says) = tokio::io::split(connection);
            let said = async {
                says.write_all(&words).await.unwrap();
                says.shutdown().await.unwrap();
            };
            tokio::join!(read_fitfully(&mut hears, seed), said).0
        };
        let client = tokio::spawn(talk(scene.client, asked.clone(), 3));
        let server = tokio::spawn(talk(scene.server, answered.clone(), 4));
        let (client, server) = within("the talk", async { tokio::join!(client, server) }).await;
        assert!(client.unwrap() == answered && server.unwrap() == asked, "{over:?}");
        assert!(matches!(ending(scene.splice).await, Ending::Client | Ending::Server));
        assert_eq!(scene.passed.to_server.load(Relaxed), 6_000_000);
        assert_eq!(scene.passed.to_client.load(Relaxed), 9_000_000);
    }
}

#[tokio::test]
async fn what_the_client_has_said_before_comes_first_however_much_it_is() {
    for over in [Tcp, Tls] {
        let before = "a1 NOOP\r\n".repeat(30_000); // more than the system takes at once
        let mut scene = Scene::after(over, PATIENT, &before).await;
        say(&mut scene.client, "a2 NOOP\r\n").await;
        hear(&mut scene.server, &before).await;
        hear(&mut scene.server, "a2 NOOP\r\n").await;
        assert_eq!(scene.passed.to_server.load(Relaxed), 270_009);
    }
}

#[tokio::test]
async fn who_has_said_all_still_hears_the_answer() {
    for over in [Tcp, Tls] {
        for first in [Side::Client, Side::Server] {
            let (mut one, mut other, splice) = Scene::new(over, PATIENT).await.ends(first);
            say(&mut one, "all").await;
            one.shutdown().await.unwrap();
            hear(&mut other, "all").await;
            hears_the_end(&mut other).await;
            say(&mut other, "an answer").await;
            hear(&mut one, "an answer").await;
            say(&mut other, "and more").await;
            other.shutdown().await.unwrap();
            hear(&mut one, "and more").await;
            hears_the_end(&mut one).await;
            match (first, ending(splice).await) {
                (Side::Client, Ending::Client) | (Side::Server, Ending::Server) => {}
                (first, ending) => panic!("{over:?} {first:?}: {ending:?}"),
            }
        }
    }
}

#[tokio::test]
async fn who_is_silent_after_the_other_has_said_all_is_not_waited_for() {
    let settings = Settings { half_closed_timeout: SHORT, ..PATIENT };
    let mut scene = Scene::new(Tcp, settings).await;
    scene.client.shutdown().await.unwrap();
    let ending = ending(scene.splice).await;
    assert!(matches!(ending, Ending::Client), "{ending:?}");
    hears_the_end(&mut scene.server).await;
}

#[tokio::test]
async fn a_session_ends_when_nothing_has_passed_for_so_long_and_not_before() {
    for over in [Tcp, Tls] {
        let settings = Settings { idle_timeout: SHORT * 2, ..PATIENT };
        let mut scene = Scene::new(over, settings).await;
        let mut last = Instant::now();
        for _ in 0..4 {
            sleep(SHORT).await;
            last = Instant::now();
            say(&mut scene.server, "* 1 EXISTS\r\n").await;
            hear(&mut scene.client, "* 1 EXISTS\r\n").await;
        }
        let ending = ending(scene.splice).await;
        assert!(matches!(ending, Ending::Idle), "{ending:?}");
        assert!(last.elapsed() >= settings.idle_timeout);
        hears_the_end(&mut scene.client).await;
        hears_the_end(&mut scene.server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_sent_little_and_not_waited_for() {
    for over in [Tcp, Tls] {
        for reader in [Side::Client, Side::Server] {
            let settings = Settings { write_timeout: SHORT, ..PATIENT };
            let (_reads_nothing, mut talks, splice) = Scene::new(over, settings).await.ends(reader);
            let talk = tokio::spawn(async move {
                let mut said = 0;
                while let Ok(more) = talks.write(&[b'x'; 4096]).await {
                    said += more;
                }
                said
            });
            let ending = ending(splice).await;
            assert!(matches!(ending, Ending::NotReading(side) if side == reader), "{over:?} {reader:?}: {ending:?}");
            let said = within("an error", talk).await.unwrap();
            assert!(said < 400_000, "{said} bytes are somewhere"); // four sockets' buffers, and what is kept
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_is_waited_for() {
    let settings = Settings { write_timeout: SHORT * 2, ..PATIENT };
    let mut scene = Scene::new(Tcp, settings).await;
    let words = message(1_000_000, 5);
    let said = words.clone();
    let talk = tokio::spawn(async move {
        scene.server.write_all(&said).await.unwrap();
        scene.server.shutdown().await.unwrap();
    });
    let (mut heard, began) = (vec![0; words.len()], Instant::now());
    for part in heard.chunks_mut(words.len() / 5) {
        sleep(SHORT).await;
        within("a part", scene.client.read_exact(part)).await.unwrap();
    }
    assert!(heard == words && began.elapsed() > settings.write_timeout);
    within("the talk", talk).await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_a_quiet_session_at_once() {
    for over in [Tcp, Tls] {
        let mut scene = Scene::new(over, PATIENT).await;
        sleep(QUIET).await;
        let drained = Instant::now();
        scene.drain.cancel();
        let ending = ending(scene.splice).await;
        assert!(matches!(ending, Ending::Drained) && drained.elapsed() < QUIET, "{ending:?}");
        hears_the_end(&mut scene.client).await;
        hears_the_end(&mut scene.server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_the_message_that_is_being_fetched() {
    for over in [Tcp, Tls] {
        let mut scene = Scene::new(over, PATIENT).await;
        let words = message(2_000_000, 6);
        let said = words.clone();
        let mut server = scene.server;
        let talk = tokio::spawn(async move {
            server.write_all(&said).await.unwrap();
            server.flush().await.unwrap();
            server
        });
        let mut heard = vec![0; words.len()];
        let (soon, late) = heard.split_at_mut(1000);
        within("its beginning", scene.client.read_exact(soon)).await.unwrap();
        scene.drain.cancel();
        sleep(QUIET + SHORT).await; // the client takes its time
        within("its end", scene.client.read_exact(late)).await.unwrap();
        assert!(heard == words, "{over:?}");
        let _server = within("the talk", talk).await.unwrap();
        let ending = ending(scene.splice).await;
        assert!(matches!(ending, Ending::Drained), "{ending:?}");
        hears_the_end(&mut scene.client).await;
    }
}

#[tokio::test]
async fn a_broken_connection_is_told_of_whose_it_was() {
    for side in [Side::Client, Side::Server] {
        let (near, far) = (tcp().await, tcp().await);
        let ((client, mut to_client), (mut to_server, server)) = (near, far);
        let (breaks, mut stays) = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        breaks.set_zero_linger().unwrap();
        drop(breaks);
        let (passed, drain) = (Passed::default(), CancellationToken::new());
        let work = splice(&mut to_client, &mut to_server, Vec::new(), &PATIENT, &passed, &drain);
        let ending = within("the end", work).await;
        assert!(matches!(&ending, Ending::Error(broken, _) if *broken == side), "{ending:?}");
        hears_the_end(&mut stays).await;
    }
}

#[tokio::test]
async fn a_connection_that_breaks_while_something_is_kept_for_it_ends_the_session() {
    let settings = Settings { half_closed_timeout: SHORT, ..PATIENT };
    for over in [Tcp, Tls] {
        let mut scene = Scene::new(over, settings).await;
        let stuck = async {
            let mut said = 0;
            // More than fits anywhere: then nothing is taken any more.
            while let Ok(more) = timeout(SHORT, scene.client.write(&[b'x'; 4096])).await {
                said += more.unwrap();
            }
            said
        };
        assert!(within("all is full", stuck).await > 0);
        drop(scene.server);
        let ending = ending(scene.splice).await;
        assert!(matches!(ending, Ending::Error(Side::Server, _) | Ending::Server), "{over:?}: {ending:?}");
        let rest = within("its end", async { scene.client.read(&mut [0; 1]).await }).await;
        assert!(matches!(rest, Ok(0) | Err(_)), "{rest:?}");
    }
}

#[tokio::test]
async fn the_last_words_of_a_server_that_hears_no_more_arrive() {
    let mut scene = Scene::new(Tcp, Settings { half_closed_timeout: SHORT, ..PATIENT }).await;
    say(&mut scene.client, "a1 LOGOUT\r\n").await;
    hear(&mut scene.server, "a1").await; // and the rest is left unread, which breaks the connection
    say(&mut scene.server, "* BYE\r\n").await;
    drop(scene.server);
    hear(&mut scene.client, "* BYE\r\n").await;
    let _ = scene.client.write_all(b"a2 NOOP\r\n").await;
    hears_the_end(&mut scene.client).await;
}

#[tokio::test]
async fn what_a_server_has_said_arrives_though_it_takes_no_more_and_its_client_reads_slowly() {
    let ((mut client, mut to_client), (mut to_server, mut server)) = (duplex(64), duplex(1 << 20));
    let words = message(100_000, 7);
    server.write_all(&words).await.unwrap();
    drop(server); // from now on nothing can be written to it
    client.write_all(b"a1 NOOP\r\n").await.unwrap();
    let (passed, drain) = (Passed::default(), CancellationToken::new());
    let work = splice(&mut to_client, &mut to_server, Vec::new(), &PATIENT, &passed, &drain);
    let mut heard = Vec::new();
    let (ending, _) = within("all", async { tokio::join!(work, client.read_to_end(&mut heard)) }).await;
    assert!(heard == words, "{} bytes", heard.len());
    assert!(matches!(ending, Ending::Error(Side::Server, _)), "{ending:?}");
}

#[tokio::test]
async fn nothing_stays_in_a_buffer_on_the_way() {
    let ((mut client, to_client), (to_server, mut server)) = (from_client(Tcp).await, to_server(Tcp).await);
    let (mut to_client, mut to_server) = (BufStream::new(to_client), BufStream::new(to_server));
    tokio::spawn(async move {
        let (passed, drain) = (Passed::default(), CancellationToken::new());
        splice(&mut to_client, &mut to_server, b"a1 NOOP\r\n".to_vec(), &PATIENT, &passed, &drain).await
    });
    hear(&mut server, "a1 NOOP\r\n").await;
    say(&mut server, "a1 OK\r\n").await;
    hear(&mut client, "a1 OK\r\n").await;
    say(&mut client, "a2 NOOP\r\n").await;
    hear(&mut server, "a2 NOOP\r\n").await;
}

/// Always has more, and always takes more.
struct Endless;

impl AsyncRead for Endless {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buffer.initialize_unfilled();
        buffer.set_filled(buffer.capacity());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn those_who_never_stop_leave_the_thread_to_others_and_have_equal_shares() {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = Runtime::new().unwrap();
        let _inside = runtime.enter();
        let (passed, drain) = (Passed::default(), CancellationToken::new());
        let (mut client, mut server) = (Endless, Endless);
        let work = splice(&mut client, &mut server, Vec::new(), &PATIENT, &passed, &drain);
        let is_pending = pin!(work).poll(&mut Context::from_waker(Waker::noop())).is_pending();
        tell.send((is_pending, passed)).unwrap();
    });
    let (is_pending, passed) = told.recv_timeout(DEADLINE).expect("others get their turn");
    assert!(is_pending);
    let (to_client, to_server) = (passed.to_client.into_inner(), passed.to_server.into_inner());
    assert!(to_client > 0 && to_client == to_server, "{to_client} {to_server}");
}

#[tokio::test]
async fn a_session_that_waits_is_small() {
    let ((_client, mut to_client), (mut to_server, _server)) = (from_client(Tls).await, to_server(Tls).await);
    let (passed, drain) = (Passed::default(), CancellationToken::new());
    let work = splice(&mut to_client, &mut to_server, Vec::new(), &PATIENT, &passed, &drain);
    let size = size_of_val(&work);
    assert!(size <= 512, "{size} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn small_words_arrive_whole_and_in_order_however_they_interleave(
        is_tls: bool,
        first in "[a-z]{0,9}",
        words in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 1..40)), 0..60),
    ) {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let mut scene = Scene::after(if is_tls { Tls } else { Tcp }, PATIENT, &first).await;
            let (mut to_server, mut to_client) = (first.into_bytes(), Vec::new());
            for (is_client, word) in &words {
                let (says, expected) = match is_client {
                    true => (&mut scene.client, &mut to_server),
                    false => (&mut scene.server, &mut to_client),
                };
                within("a word", says.write_all(word)).await.unwrap();
                within("a word", says.flush()).await.unwrap();
                expected.extend_from_slice(word);
            }
            let (mut by_client, mut by_server) = (Vec::new(), Vec::new());
            scene.client.shutdown().await.unwrap();
            within("all", scene.server.read_to_end(&mut by_server)).await.unwrap();
            scene.server.shutdown().await.unwrap();
            within("all", scene.client.read_to_end(&mut by_client)).await.unwrap();
            assert_eq!(by_server, to_server);
            assert_eq!(by_client, to_client);
            assert!(matches!(ending(scene.splice).await, Ending::Client));
        });
    }
}
