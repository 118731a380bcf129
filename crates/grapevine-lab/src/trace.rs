//! Reads a trace of database object accesses, decompressed as it streams.
//!
//! A trace is an xz file. Decompressed, it is a row of records of four bytes, each one big-endian 32-bit integer: bits
//! 27-31 hold the object's type, bits 9-26 its id, bits 0-8 an index within it (the n-th price of a product, say). There is
//! no header and no count; the file's end is the trace's end, so a file that stops in the middle of a record, or before the
//! xz stream's own end mark, is refused with the number of records that were read before it.
//!
//! Memory is bounded by one block of compressed and one of decompressed bytes, whatever the trace's length. Progress is told in
//! compressed bytes, because only their total is known beforehand.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use liblzma::bufread::XzDecoder;
use thiserror::Error;

const RECORD_BYTES: usize = 4;
const BLOCK_BYTES: usize = 64 * 1024;
const ID_BITS: u32 = 18;
const INDEX_BITS: u32 = 9;

/// One access of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record(u32);

impl Record {
    /// The largest type.
    pub const KIND_MAX: u32 = 31;
    /// The largest id.
    pub const ID_MAX: u32 = (1 << ID_BITS) - 1;
    /// The largest index.
    pub const INDEX_MAX: u32 = (1 << INDEX_BITS) - 1;

    /// A record of its three parts, or nothing when one is over its maximum.
    pub fn new(kind: u32, id: u32, index: u32) -> Option<Self> {
        let legal = kind <= Self::KIND_MAX && id <= Self::ID_MAX && index <= Self::INDEX_MAX;
        legal.then_some(Self(
            kind << (ID_BITS + INDEX_BITS) | id << INDEX_BITS | index,
        ))
    }

    /// A record as the trace stores it.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The record as the trace stores it.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The object's type, 0 to [`Self::KIND_MAX`].
    pub fn kind(self) -> u32 {
        self.0 >> (ID_BITS + INDEX_BITS)
    }

    /// The object's id within its type, 0 to [`Self::ID_MAX`].
    pub fn id(self) -> u32 {
        self.0 >> INDEX_BITS & Self::ID_MAX
    }

    /// The record of index 0 of the same object.
    #[must_use]
    pub fn object(self) -> Self {
        Self(self.0 & !Self::INDEX_MAX)
    }

    /// The index within the object, 0 to [`Self::INDEX_MAX`].
    pub fn index(self) -> u32 {
        self.0 & Self::INDEX_MAX
    }
}

/// Why a trace cannot be read, or not to its end.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The file cannot be opened.
    #[error("trace {}: cannot be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file does not begin as an xz file does.
    #[error("trace {}: not an xz file (it does not begin with the xz magic bytes)", path.display())]
    NotXz {
        /// The file.
        path: PathBuf,
    },
    /// The file ends before the xz stream does.
    #[error(
        "trace {}: truncated: the file ends after {compressed_bytes} compressed bytes, in the middle of the xz stream, {records} records in",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Whole records read before it.
        records: u64,
        /// Compressed bytes in the file.
        compressed_bytes: u64,
    },
    /// The compressed data is damaged.
    #[error("trace {}: corrupt near compressed byte {compressed_bytes}, {records} records in: {source}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Whole records read before it.
        records: u64,
        /// Compressed bytes read before it, to within one block.
        compressed_bytes: u64,
        /// What the decompressor said.
        source: io::Error,
    },
    /// The decompressed length is no multiple of the record's.
    #[error(
        "trace {}: decompresses to {decompressed_bytes} bytes, no multiple of the record's {RECORD_BYTES}: {} bytes are left over",
        path.display(),
        decompressed_bytes % RECORD_BYTES as u64
    )]
    OddLength {
        /// The file.
        path: PathBuf,
        /// Bytes after decompression.
        decompressed_bytes: u64,
    },
    /// The system failed to read.
    #[error("trace {}: cannot be read after {records} records: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Whole records read before it.
        records: u64,
        /// What the system said.
        source: io::Error,
    },
}

/// How far a reader has come, to be read from other threads.
#[derive(Debug, Clone)]
pub struct TraceProgress {
    read_bytes: Arc<AtomicU64>,
    total_bytes: u64,
}

impl TraceProgress {
    /// Compressed bytes read so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Compressed bytes in the file.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}

/// A trace being read. Iterates over records; the first error is the last item.
pub struct TraceReader {
    path: PathBuf,
    decoder: XzDecoder<BufReader<Counting<File>>>,
    progress: TraceProgress,
    block: Vec<u8>,
    /// The part of `block` that is decompressed and not yet handed out.
    ready: std::ops::Range<usize>,
    records: u64,
    records_left: u64,
    ended: bool,
}

impl TraceReader {
    /// Opens a trace; `limit` bounds the records that are read, from the first.
    pub fn open(path: &Path, limit: Option<u64>) -> Result<Self, TraceError> {
        let open_error = |source| TraceError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(open_error)?;
        let total_bytes = file.metadata().map_err(open_error)?.len();
        let read_bytes = Arc::new(AtomicU64::new(0));
        let counting = Counting {
            inner: file,
            read_bytes: Arc::clone(&read_bytes),
        };
        Ok(Self {
            path: path.to_owned(),
            decoder: XzDecoder::new_multi_decoder(BufReader::with_capacity(BLOCK_BYTES, counting)),
            progress: TraceProgress {
                read_bytes,
                total_bytes,
            },
            block: vec![0; BLOCK_BYTES],
            ready: 0..0,
            records: 0,
            records_left: limit.unwrap_or(u64::MAX),
            ended: false,
        })
    }

    /// A handle that tells how far the reader has come.
    pub fn progress(&self) -> TraceProgress {
        self.progress.clone()
    }

    /// Records handed out so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Decompresses until a whole record is ready; false at a clean end.
    fn fill(&mut self) -> Result<bool, TraceError> {
        while self.ready.len() < RECORD_BYTES {
            let carried = self.ready.len();
            self.block.copy_within(self.ready.clone(), 0);
            self.ready = 0..carried;
            match self.decoder.read(&mut self.block[carried..]) {
                Ok(0) if carried == 0 => return Ok(false),
                Ok(0) => {
                    return Err(TraceError::OddLength {
                        path: self.path.clone(),
                        decompressed_bytes: self.records * RECORD_BYTES as u64 + carried as u64,
                    });
                }
                Ok(read) => self.ready.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.explain(error)),
            }
        }
        Ok(true)
    }

    fn explain(&self, source: io::Error) -> TraceError {
        use liblzma::stream::Error as Xz;
        let path = self.path.clone();
        let records = self.records;
        let compressed_bytes = self.progress.read_bytes();
        let xz = source
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Xz>());
        if source.kind() == io::ErrorKind::UnexpectedEof || compressed_bytes == 0 {
            TraceError::Truncated {
                path,
                records,
                compressed_bytes,
            }
        } else if matches!(xz, Some(Xz::Format)) && records == 0 {
            TraceError::NotXz { path }
        } else if xz.is_some() || source.kind() == io::ErrorKind::InvalidData {
            TraceError::Corrupt {
                path,
                records,
                compressed_bytes,
                source,
            }
        } else {
            TraceError::Read {
                path,
                records,
                source,
            }
        }
    }
}

impl Iterator for TraceReader {
    type Item = Result<Record, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended || self.records_left == 0 {
            return None;
        }
        match self.fill() {
            Ok(true) => {}
            Ok(false) => {
                self.ended = true;
                return None;
            }
            Err(error) => {
                self.ended = true;
                return Some(Err(error));
            }
        }
        let start = self.ready.start;
        let bytes = &self.block[start..start + RECORD_BYTES];
        let bits = u32::from_be_bytes(
            bytes
                .try_into()
                .expect("invariant: a record's slice has four bytes"),
        );
        self.ready.start += RECORD_BYTES;
        self.records += 1;
        self.records_left -= 1;
        Some(Ok(Record(bits)))
    }
}

/// Counts what passes through, before decompression.
struct Counting<R> {
    inner: R,
    read_bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::Write;

    use liblzma::write::XzEncoder;
    use tempfile::NamedTempFile;

    use super::*;

    fn compress(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = XzEncoder::new(Vec::new(), 6);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn file_of(bytes: &[u8]) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// Records that do not compress to nothing, so that a cut or a flipped bit lands in data.
    fn noisy(count: u32) -> Vec<u32> {
        (0..count)
            .map(|n| n.wrapping_mul(2_654_435_761) ^ n << 7)
            .collect()
    }

    fn bytes_of(values: &[u32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_be_bytes())
            .collect()
    }

    fn read_all(path: &Path) -> Result<Vec<u32>, TraceError> {
        TraceReader::open(path, None)?
            .map(|record| record.map(Record::bits))
            .collect()
    }

    fn error_of(bytes: &[u8]) -> TraceError {
        read_all(file_of(bytes).path()).unwrap_err()
    }

    #[test]
    fn a_record_has_five_eighteen_and_nine_bits() {
        let record = Record::from_bits(0xFFFF_FFFF);
        assert_eq!(
            (record.kind(), record.id(), record.index()),
            (31, 0x3_FFFF, 0x1FF)
        );
        let record = Record::new(6, 5239, 328).unwrap();
        assert_eq!((record.kind(), record.id(), record.index()), (6, 5239, 328));
        assert_eq!(Record::from_bits(record.bits()), record);
        assert_eq!(record.bits(), 0x3028_EF48);
        assert!(Record::new(32, 0, 0).is_none());
        assert!(Record::new(0, 1 << 18, 0).is_none());
        assert!(Record::new(0, 0, 512).is_none());
    }

    #[test]
    fn records_come_back_in_order_over_many_blocks() {
        let values = noisy(100_000);
        let file = file_of(&compress(&bytes_of(&values)));
        let mut reader = TraceReader::open(file.path(), None).unwrap();
        let progress = reader.progress();
        assert_eq!(progress.read_bytes(), 0);
        let back: Vec<u32> = reader
            .by_ref()
            .map(|record| record.unwrap().bits())
            .collect();
        assert_eq!(back, values);
        assert_eq!(reader.records(), 100_000);
        assert_eq!(progress.read_bytes(), progress.total_bytes());
        assert_eq!(
            progress.total_bytes(),
            file.path().metadata().unwrap().len()
        );
    }

    #[test]
    fn concatenated_streams_are_one_trace() {
        let values = noisy(1_001);
        let mut bytes = compress(&bytes_of(&values[..400]));
        bytes.extend(compress(&bytes_of(&values[400..])));
        assert_eq!(read_all(file_of(&bytes).path()).unwrap(), values);
    }

    #[test]
    fn a_limit_ends_early_without_looking_at_what_follows() {
        let values = noisy(100_000);
        let mut bytes = compress(&bytes_of(&values));
        let half = bytes.len() / 2;
        bytes.truncate(half);
        let file = file_of(&bytes);
        let taken: Result<Vec<_>, _> = TraceReader::open(file.path(), Some(10)).unwrap().collect();
        assert_eq!(taken.unwrap().len(), 10);
        assert_eq!(TraceReader::open(file.path(), Some(0)).unwrap().count(), 0);
    }

    #[test]
    fn a_trace_of_no_records_is_legal() {
        assert_eq!(
            read_all(file_of(&compress(&[])).path()).unwrap(),
            Vec::<u32>::new()
        );
    }

    #[test]
    fn a_truncated_file_is_named_so_and_ends_the_iteration() {
        let mut bytes = compress(&bytes_of(&noisy(50_000)));
        let half = bytes.len() / 2;
        bytes.truncate(half);
        let file = file_of(&bytes);
        let mut reader = TraceReader::open(file.path(), None).unwrap();
        let error = reader.by_ref().find_map(Result::err).unwrap();
        let TraceError::Truncated {
            records,
            compressed_bytes,
            ..
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!(*compressed_bytes, half as u64);
        assert!(*records > 0 && *records < 50_000);
        assert!(reader.next().is_none());
        assert!(error.to_string().contains("truncated"));
    }

    #[test]
    fn a_file_that_ends_within_its_own_footer_is_truncated() {
        let mut bytes = compress(&bytes_of(&noisy(100)));
        bytes.truncate(bytes.len() - 5);
        assert!(matches!(
            error_of(&bytes),
            TraceError::Truncated { records: 100, .. }
        ));
        assert!(matches!(
            error_of(&[]),
            TraceError::Truncated { records: 0, .. }
        ));
    }

    #[test]
    fn flipped_bits_are_corrupt() {
        let mut bytes = compress(&bytes_of(&noisy(50_000)));
        let middle = bytes.len() / 2;
        bytes[middle..middle + 64].fill(0xAA);
        assert!(matches!(error_of(&bytes), TraceError::Corrupt { .. }));
    }

    #[test]
    fn another_format_is_no_xz_file() {
        let error = error_of(b"this is a text of more than a few bytes");
        assert!(matches!(error, TraceError::NotXz { .. }), "{error}");
    }

    #[test]
    fn a_part_of_a_record_at_the_end_is_refused() {
        let mut raw = bytes_of(&noisy(3));
        raw.push(1);
        let error = error_of(&compress(&raw));
        assert!(matches!(
            error,
            TraceError::OddLength {
                decompressed_bytes: 13,
                ..
            }
        ));
        assert!(
            error.to_string().contains("1 bytes are left over"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = TraceReader::open(Path::new("no/such.trace.xz"), None)
            .err()
            .unwrap();
        assert!(error.to_string().contains("no/such.trace.xz"));
    }
}
