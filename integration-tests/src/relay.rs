//! A TCP relay with faults: it stands before a sidecar's peer port, and passes on, delays, withholds or cuts.
//!
//! Peers dial what a sidecar advertises, and say everything on the stream they dialled. So a relay before one sidecar decides what that
//! one *hears*: with its relay cut it still speaks, and is heard, but learns nothing any more.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a relay does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Passes them on.
    Nothing,
    /// Passes each piece on after so long.
    Delay(Duration),
    /// Keeps connections and withholds their bytes, as a path that loses every packet does.
    Silent,
    /// Ends connections, and closes new ones at once.
    Cut,
}

/// A running relay; ends when dropped.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    fault: watch::Sender<Fault>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens on a port of its own and relays to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, target).await
    }

    /// Listens on a port of this address.
    pub async fn start_at(address: Ipv4Addr, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        let (fault, faults) = watch::channel(Fault::Nothing);
        let task = tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                let faults = faults.clone();
                if *faults.borrow() != Fault::Cut {
                    tokio::spawn(relay(inbound, target, faults));
                }
            }
        });
        Ok(Self {
            address,
            fault,
            task,
        })
    }

    /// What it does from now on, with open connections too.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(inbound: TcpStream, target: SocketAddr, mut faults: watch::Receiver<Fault>) {
    let Ok(outbound) = TcpStream::connect(target).await else {
        return;
    };
    let (from_caller, to_caller) = inbound.into_split();
    let (from_target, to_target) = outbound.into_split();
    let (there, back) = (faults.clone(), faults.clone());
    tokio::select! {
        () = pass(from_caller, to_target, there) => {}
        () = pass(from_target, to_caller, back) => {}
        // An error means that the relay is gone, and then its connections go too.
        _ = faults.wait_for(|fault| *fault == Fault::Cut) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut faults: watch::Receiver<Fault>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let Ok(fault) = faults
            .wait_for(|fault| *fault != Fault::Silent)
            .await
            .map(|fault| *fault)
        else {
            return;
        };
        if let Fault::Delay(delay) = fault {
            tokio::time::sleep(delay).await;
        }
        // This may be asked before whoever waits for the cut has had its turn: nothing passes from then on.
        if *faults.borrow() == Fault::Cut || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// What it withheld and the cut come to its tasks at one moment, in either order.
    #[tokio::test]
    async fn nothing_passes_once_it_is_cut() {
        let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let relay = Relay::start(target.local_addr().unwrap()).await.unwrap();
        for round in 0..50 {
            relay.set(Fault::Nothing);
            let mut caller = TcpStream::connect(relay.address).await.unwrap();
            let (mut called, _) = target.accept().await.unwrap();
            caller.write_all(b"a").await.unwrap();
            assert_eq!(called.read_u8().await.unwrap(), b'a');
            relay.set(Fault::Silent);
            caller.write_all(b"b").await.unwrap();
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
            relay.set(Fault::Cut);
            let mut rest = Vec::new();
            called.read_to_end(&mut rest).await.ok();
            assert!(rest.is_empty(), "round {round}");
        }
    }
}
