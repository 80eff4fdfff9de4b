//! A bare Pingora proxy: every request to one https server, nothing looked at. The measure for what the edge adds.
//!
//! `bare LISTEN UPSTREAM SNI THREADS`, for instance `bare 127.0.0.1:8091 127.0.2.1:10443 cas-opo-1.contoso.com 1`.

use std::{env, process::ExitCode};

use async_trait::async_trait;
use pingora_core::{
    Result,
    modules::http::HttpModules,
    server::{Server, configuration::ServerConf},
    upstreams::peer::HttpPeer,
};
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare {
    peer: HttpPeer,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.peer.clone()))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [listen, upstream, sni, threads] = arguments.as_slice() else {
        eprintln!("usage: bare LISTEN UPSTREAM SNI THREADS");
        return ExitCode::from(2);
    };
    let (Ok(upstream), Ok(threads)) = (upstream.parse::<std::net::SocketAddr>(), threads.parse()) else {
        eprintln!("bare: UPSTREAM is ip:port, THREADS a number");
        return ExitCode::from(2);
    };
    let mut peer = HttpPeer::new(upstream, true, sni.clone());
    peer.options.verify_cert = false;
    peer.options.verify_hostname = false;
    let conf = ServerConf { threads, work_stealing: false, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare { peer });
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever()
}
