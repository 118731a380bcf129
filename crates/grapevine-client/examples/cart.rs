//! The guide's program: a cart read through a cache, and a write that makes it stale.
//!
//! With a sidecar at 127.0.0.1:7400: `cargo run -p grapevine-client --example cart [SIDECAR [CACHE]]`

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use grapevine_client::{CachedClient, Client};

/// The database: items in cart 13.
static ITEMS: AtomicU64 = AtomicU64::new(2);

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = run().await else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
    eprintln!(
        "It needs a sidecar, one of `grapevine sidecar` for example, or another address: cart [SIDECAR [CACHE]]"
    );
    ExitCode::FAILURE
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let sidecar = arguments.next().unwrap_or("127.0.0.1:7400".to_owned());
    let cache = arguments.next().unwrap_or("memory://".to_owned());

    let client = Client::connect(sidecar)?;
    // Connects now. Without it the first read would, within its own deadline of 50 ms, or go to the source.
    client.status().await?;
    let cached = CachedClient::new(client.clone(), grapevine_cache::connect(&cache)?);

    for step in ["first", "again", "changed", "after"] {
        if step == "changed" {
            ITEMS.fetch_add(1, Ordering::SeqCst);
            // After the commit, and before the answer to whoever changed it.
            client.invalidate(["get_items_in_cart/13"]).await?;
        }
        let cart = cached
            .get_or_fill(
                "get_items_in_cart::13:10:30",
                &["get_items_in_cart/13"],
                None,
                |_| async { Ok::<_, std::io::Error>(items_of_cart()) },
            )
            .await?;
        println!(
            "{step:8} {:8} {}",
            format!("{:?}", cart.how),
            String::from_utf8_lossy(&cart.value)
        );
    }
    Ok(())
}

fn items_of_cart() -> Bytes {
    format!("{} items", ITEMS.load(Ordering::SeqCst)).into()
}
