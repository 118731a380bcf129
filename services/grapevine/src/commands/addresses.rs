//! `grapevine addresses`: what is registered.

use std::time::SystemTime;

use grapevine_client::v1;
use serde::Serialize;

use super::listing;
use crate::connection::{Connection, SessionArgs};
use crate::exit::Failure;
use crate::format;
use crate::output::Rows;

/// List the registered addresses at and below a class
///
/// In byte order. With --limit, the last line says where to go on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The class
    class: String,
    #[command(flatten)]
    listing: listing::ListingArgs,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Serialize)]
struct AddressJson {
    class: String,
    address: String,
    expires_unix_ms: u64,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let listing = client
        .list_addresses_in(
            &args.session.session()?,
            &args.class,
            args.listing.limit,
            args.listing.after()?.into(),
        )
        .await?;
    listing::write(listing, &args.connection, to_json, table).await
}

fn to_json(entry: &v1::AddressEntry) -> AddressJson {
    AddressJson {
        class: entry.class.clone(),
        address: entry.address.clone(),
        expires_unix_ms: entry.expires_unix_ms,
    }
}

fn table(entries: &[v1::AddressEntry]) -> Rows {
    let now = SystemTime::now();
    let mut rows = Rows::new(&["CLASS", "ADDRESS", "LAPSES IN"]);
    for entry in entries {
        let left = format::until(entry.expires_unix_ms, now)
            .map_or_else(|| "lapsed".to_owned(), format::duration);
        rows.add([entry.class.clone(), entry.address.clone(), left]);
    }
    rows
}
