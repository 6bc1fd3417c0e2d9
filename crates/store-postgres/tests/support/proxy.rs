//! A proxy on the way to a server: it delays what passes, hangs without closing, or leads to another server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A running proxy.
pub struct Proxy {
    port: u16,
    to: Arc<AtomicU16>,
    delay_ms: Arc<AtomicU64>,
    hangs: watch::Sender<bool>,
    deaf: watch::Sender<bool>,
}

impl Proxy {
    /// Starts one to a port of this machine.
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            to: Arc::new(AtomicU16::new(to)),
            delay_ms: Arc::default(),
            hangs: watch::Sender::new(false),
            deaf: watch::Sender::new(false),
        };
        let (to, delay) = (proxy.to.clone(), proxy.delay_ms.clone());
        let (hangs, deaf) = (proxy.hangs.clone(), proxy.deaf.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (to, delay) = (to.load(Ordering::SeqCst), delay.clone());
                let (hangs, mut deaf) = (hangs.clone(), deaf.subscribe());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else {
                        return;
                    };
                    let (client_read, client_write) = client.into_split();
                    let (server_read, server_write) = server.into_split();
                    let answers = pass(server_read, client_write, delay.clone(), hangs.subscribe());
                    tokio::pin!(answers);
                    // A side that closes ends both; what was asked before goes on at the server.
                    tokio::select! {
                        () = pass(client_read, server_write, delay, hangs.subscribe()) => {}
                        () = async {
                            tokio::select! {
                                () = &mut answers => return,
                                _ = deaf.wait_for(|deaf| *deaf) => {}
                            }
                            // Only if the proxy is gone is nobody there to tell.
                            let _ = deaf.wait_for(|deaf| !deaf).await;
                        } => {}
                    }
                });
            }
        });
        proxy
    }

    /// The address of a database through it.
    pub fn address(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Delays what passes: half of this on each way.
    pub fn set_delay(&self, delay: Duration) {
        let half = u64::try_from(delay.as_millis()).unwrap() / 2;
        self.delay_ms.store(half, Ordering::SeqCst);
    }

    /// From now on nothing passes, and nothing is closed.
    pub fn hang(&self) {
        self.hangs.send_replace(true);
    }

    /// Everything passes again, also what was held.
    pub fn go_on(&self) {
        self.hangs.send_replace(false);
    }

    /// From now on what is asked passes and no answer does.
    pub fn deafen(&self) {
        self.deaf.send_replace(true);
    }

    /// Answers pass again; connections on which one was lost are cut.
    pub fn hear(&self) {
        self.deaf.send_replace(false);
    }

    /// New connections lead to another port.
    pub fn lead_to(&self, port: u16) {
        self.to.store(port, Ordering::SeqCst);
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay_ms: Arc<AtomicU64>,
    mut hangs: watch::Receiver<bool>,
) {
    // What is on its way does not hold up what comes after it.
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + Duration::from_millis(delay_ms.load(Ordering::SeqCst));
            if sender.send((due, buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    };
    let write = async {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            if hangs.wait_for(|hangs| !hangs).await.is_err() || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! { () = read => {} () = write => {} }
}
