//! What `classes` and `addresses` share: a listing is written chunk by chunk as it arrives, so that millions of rows need no
//! memory, and says where to go on when a limit cut it off.

use grapevine_client::{Chunk, Listing};
use serde::Serialize;

use crate::connection::Connection;
use crate::exit::Failure;
use crate::format::{hex, unhex};
use crate::output::{Output, Rows, Widths};

#[derive(Debug, clap::Args)]
pub(crate) struct ListingArgs {
    /// List at most so many; 0 lists all
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) limit: u64,
    /// Go on where an earlier listing with a limit ended: what it said as `next`
    #[arg(long, value_name = "NEXT")]
    after: Option<String>,
}

impl ListingArgs {
    pub(crate) fn after(&self) -> Result<Vec<u8>, Failure> {
        unhex(self.after.as_deref().unwrap_or_default())
            .map_err(|error| Failure::Usage(format!("--after: {error}")))
    }
}

/// Where to go on; the last line of a listing that a limit cut off.
#[derive(Serialize)]
struct NextJson {
    next: String,
}

/// Rows that are gathered before they are written in a table, unless there are no more: a sidecar's chunks may be of one row.
const PART_ROWS: usize = 1_000;

/// Writes all of a listing: as JSON with `json`, or as a table whose parts `table` makes, each as wide as it and those before it need.
pub(crate) async fn write<C: Chunk, J: Serialize>(
    mut listing: Listing<C>,
    connection: &Connection,
    json: impl Fn(&C::Entry) -> J,
    table: impl Fn(&[C::Entry]) -> Rows,
) -> Result<(), Failure> {
    let mut out = Output::stdout();
    let mut last = Vec::new();
    let mut empty = true;
    let (mut part, mut widths) = (Vec::new(), Widths::default());
    loop {
        let chunk = listing.next_chunk().await;
        let goes_on = matches!(chunk, Ok(Some(_)));
        if let Ok(Some(entries)) = &chunk {
            last = listing.resume_at().to_vec();
            empty &= entries.is_empty();
        }
        let (entries, failed) = match chunk {
            Ok(entries) => (entries.unwrap_or_default(), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        if connection.json {
            for entry in &entries {
                out.json(&json(entry))?;
            }
        } else {
            part.extend(entries);
            // What has come before a listing fails is written, too; the header alone, if nothing else follows.
            let rest = !goes_on && (!part.is_empty() || empty && failed.is_none());
            if part.len() >= PART_ROWS || rest {
                out.table_part(&mut table(&part), &mut widths)?;
                part.clear();
            }
        }
        out.flush()?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if !goes_on {
            break;
        }
    }
    if empty && !connection.json {
        eprintln!("nothing to list");
    }
    if !last.is_empty() {
        let next = hex(&last);
        if connection.json {
            out.json(&NextJson { next })?;
        } else {
            eprintln!("there is more: --after {next}");
        }
    }
    out.flush()
}
