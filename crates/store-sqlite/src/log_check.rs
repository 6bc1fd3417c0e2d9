//! Whether the log that a killed process left is whole: looked at before SQLite reads it.
//!
//! SQLite takes the log up to the first frame whose checksum is wrong, and drops the rest without a word. That is right
//! after a power cut, which takes only what was not synced: the end of the last transaction. It is wrong where a bit has
//! flipped in what was synced, for then acknowledged orders would be gone in silence. The two can be told apart. Each
//! checksum is made from the one before, so frames behind a damaged one that follow from it were written after it; and the
//! writer syncs each transaction before it begins the next. So when a whole transaction and the beginning of another stand
//! behind the first wrong frame, that frame was synced, and has been damaged since.
//!
//! The format is SQLite's, <https://www.sqlite.org/fileformat2.html#walformat>.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use comanda_store::StoreError;

use crate::failure::Context;

const WHAT: &str = "read the log";
const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The last bit says how the words are read that sums are made of.
const MAGIC: u32 = 0x377f_0682;
/// The bounds of a page's size.
const PAGE_BYTES: std::ops::RangeInclusive<usize> = 512..=65_536;

/// A checksum.
type Sum = (u32, u32);

/// What the log's header says.
struct Header {
    big_endian: bool,
    page_bytes: usize,
    salts: (u32, u32),
}

/// A frame: a page as a transaction left it.
struct Frame {
    /// The number and the size, which are part of the sum.
    head: [u8; 8],
    page: Vec<u8>,
    salts: (u32, u32),
    sum: Sum,
}

impl Frame {
    /// Whether a transaction ends with it.
    fn ends_transaction(&self) -> bool {
        word(&self.head, 4) != 0
    }
}

/// Refuses a store whose log was damaged after it had been synced.
///
/// # Errors
/// [`StoreError::Corrupt`] if it was, [`StoreError::Failed`] if it cannot be read.
pub(crate) fn check(database: &Path) -> Result<(), StoreError> {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(WHAT),
    };
    let mut log = BufReader::with_capacity(1 << 20, file);
    let mut bytes = [0; HEADER_BYTES];
    // One that was just made, or whose first write a power cut has taken.
    if !fill(&mut log, &mut bytes)? || bytes == [0; HEADER_BYTES] {
        return Ok(());
    }
    let Some((header, mut sum)) = read_header(&bytes) else {
        // It is one sector's: written whole or not at all.
        return Err(damaged("its header does not agree with its checksum"));
    };
    let mut frames: u64 = 0;
    let first_wrong = loop {
        let Some(frame) = read_frame(&mut log, &header)? else {
            return Ok(());
        };
        let made = sum_of(&header, sum, &frame);
        if frame.salts != header.salts || made != frame.sum {
            break [frame.sum, made];
        }
        sum = frame.sum;
        frames += 1;
    };
    // Either the sum that it names is the one it was written with, or what it holds is.
    for begin in first_wrong {
        let mut log = BufReader::with_capacity(1 << 20, File::open(&path).context(WHAT)?);
        let behind = HEADER_BYTES as u64 + (frames + 1) * (FRAME_HEADER_BYTES + header.page_bytes) as u64;
        std::io::Seek::seek(&mut log, std::io::SeekFrom::Start(behind)).context(WHAT)?;
        let (mut sum, mut ended) = (begin, false);
        while let Some(frame) = read_frame(&mut log, &header)? {
            if frame.salts != header.salts || sum_of(&header, sum, &frame) != frame.sum {
                break;
            }
            if ended {
                let detail = format!("its frame {} does not agree with its checksum", frames + 1);
                return Err(damaged(&detail));
            }
            ended = frame.ends_transaction();
            sum = frame.sum;
        }
    }
    Ok(())
}

fn damaged(detail: &str) -> StoreError {
    StoreError::Corrupt {
        what: "the log (comanda.db-wal)".to_owned(),
        detail: format!(
            "{detail}, and what was committed after that would be lost in silence; restore the newest backup, and keep this \
             directory: `comanda verify` says what of it is whole"
        ),
    }
}

fn read_header(bytes: &[u8; HEADER_BYTES]) -> Option<(Header, Sum)> {
    let magic = word(bytes, 0);
    let header = Header {
        big_endian: magic & 1 == 1,
        page_bytes: usize::try_from(word(bytes, 8)).ok()?,
        salts: (word(bytes, 16), word(bytes, 20)),
    };
    let sum = (word(bytes, 24), word(bytes, 28));
    let valid = magic & !1 == MAGIC
        && PAGE_BYTES.contains(&header.page_bytes)
        && header.page_bytes.is_power_of_two()
        && add(&header, (0, 0), &bytes[..24]) == sum;
    valid.then_some((header, sum))
}

/// The next frame; nothing where the log ends, also within one.
fn read_frame(log: &mut impl Read, header: &Header) -> Result<Option<Frame>, StoreError> {
    let mut head = [0; FRAME_HEADER_BYTES];
    let mut page = vec![0; header.page_bytes];
    if !fill(log, &mut head)? || !fill(log, &mut page)? {
        return Ok(None);
    }
    let mut named = [0; 8];
    named.copy_from_slice(&head[..8]);
    Ok(Some(Frame {
        head: named,
        page,
        salts: (word(&head, 8), word(&head, 12)),
        sum: (word(&head, 16), word(&head, 20)),
    }))
}

/// Reads as much as there is room for; answers whether there was so much.
fn fill(log: &mut impl Read, bytes: &mut [u8]) -> Result<bool, StoreError> {
    match log.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error).context(WHAT),
    }
}

fn sum_of(header: &Header, before: Sum, frame: &Frame) -> Sum {
    add(header, add(header, before, &frame.head), &frame.page)
}

fn add(header: &Header, mut sum: Sum, bytes: &[u8]) -> Sum {
    for pair in bytes.chunks_exact(8) {
        let read = |at: usize| match header.big_endian {
            true => word(pair, at),
            false => word(pair, at).swap_bytes(),
        };
        sum.0 = sum.0.wrapping_add(read(0)).wrapping_add(sum.1);
        sum.1 = sum.1.wrapping_add(read(4)).wrapping_add(sum.0);
    }
    sum
}

/// A number as the format stores all of them: big-endian. Zero where there are no four bytes, which no caller asks for.
fn word(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map_or(0, u32::from_be_bytes)
}
