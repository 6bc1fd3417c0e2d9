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
        };
        let (to, delay, hangs) = (proxy.to.clone(), proxy.delay_ms.clone(), proxy.hangs.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (to, delay, hangs) = (to.load(Ordering::SeqCst), delay.clone(), hangs.clone());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else {
                        return;
                    };
                    let (client_read, client_write) = client.into_split();
                    let (server_read, server_write) = server.into_split();
                    // A side that closes ends both.
                    tokio::select! {
                        () = pass(client_read, server_write, delay.clone(), hangs.subscribe()) => {}
                        () = pass(server_read, client_write, delay, hangs.subscribe()) => {}
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
