//! The guide's second program: slices of a list, read through whole pages.
//!
//! With a sidecar whose policy pages `list/**`: `cargo run -p grapevine-client --example list [SIDECAR [CACHE]]`

use std::process::ExitCode;

use bytes::Bytes;
use grapevine_client::{CachedClient, Client, PageFill};

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
        "It needs a sidecar whose policy of `list/**` has `paging` (`grapevine sidecar --config policies.toml`, with the file of \
         docs/guide/README.md), or another address: list [SIDECAR [CACHE]]"
    );
    ExitCode::FAILURE
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let sidecar = arguments.next().unwrap_or("127.0.0.1:7400".to_owned());
    let cache = arguments.next().unwrap_or("memory://".to_owned());

    let client = Client::connect(sidecar)?;
    client.status().await?;
    let cached = CachedClient::new(client, grapevine_cache::connect(&cache)?);

    for (offset, limit) in [(0, 5), (2, 5), (35, 10)] {
        let slice = cached
            .get_or_fill_page(
                "list::13",
                &["list/13"],
                offset,
                limit,
                None,
                |page| async move { Ok::<_, std::io::Error>(read_items(&page)) },
            )
            .await?;
        let items: Vec<_> = slice
            .items
            .iter()
            .map(|item| String::from_utf8_lossy(item))
            .collect();
        println!(
            "{:?} {} of {} pages cached: {}",
            slice.how,
            slice.hits,
            slice.pages,
            items.join(" ")
        );
    }
    Ok(())
}

/// The database: `SELECT ... LIMIT page.limit OFFSET page.offset`, of a list of 50.
fn read_items(page: &PageFill) -> Vec<Bytes> {
    let end = (page.offset + u64::from(page.limit)).min(50);
    (page.offset..end)
        .map(|item| item.to_string().into())
        .collect()
}
