//! `grapevine classes`: what was bumped or holds registrations.

use grapevine_client::v1;
use serde::Serialize;

use super::listing;
use crate::connection::{Connection, SessionArgs};
use crate::exit::Failure;
use crate::output::Rows;

/// List the classes that were bumped or hold registrations
///
/// In byte order of their segments. An invalidation of everything (`*`) makes all of them stale, those that no list has
/// included, and is no row of its own. With --limit, the last line says where to go on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what is at and below this class
    below: Option<String>,
    #[command(flatten)]
    listing: listing::ListingArgs,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Serialize)]
struct ClassJson {
    class: String,
    addresses: u64,
    bumped: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let below = args.below.as_deref().unwrap_or_default();
    let listing = client
        .list_classes_in(
            &args.session.session()?,
            below,
            args.listing.limit,
            args.listing.after()?.into(),
        )
        .await?;
    listing::write(listing, &args.connection, to_json, table).await
}

fn to_json(entry: &v1::ClassEntry) -> ClassJson {
    ClassJson {
        class: entry.class.clone(),
        addresses: entry.addresses,
        bumped: entry.bumped,
    }
}

fn table(entries: &[v1::ClassEntry]) -> Rows {
    let mut rows = Rows::new(&["CLASS", "#ADDRESSES", "BUMPED"]);
    for entry in entries {
        let bumped = if entry.bumped { "yes" } else { "no" };
        rows.add([
            entry.class.clone(),
            entry.addresses.to_string(),
            bumped.to_owned(),
        ]);
    }
    rows
}
