//! A disk that can be told to fail and that remembers what was done to it (`disk.c`), and the images of it that a power
//! cut could leave.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use super::random::Random;

/// Data is lost by sectors: a write is torn between two of these, never within one.
const SECTOR_BYTES: usize = 512;

/// Compiles the library that is put between the server and its disk, once for each test program.
fn library() -> &'static Path {
    static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let library = directory.join(format!("disk-{}.so", env!("CARGO_CRATE_NAME")));
        // Another run of the same program may have the old one loaded: it is replaced, not changed.
        let new = library.with_extension(format!("{}.new", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/disk.c");
        let compiled = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(&new)
            .arg(source)
            .args(["-ldl", "-lpthread"])
            .status()
            .expect("a C compiler (`cc`) is needed, as it is for SQLite");
        assert!(compiled.success());
        std::fs::rename(&new, &library).unwrap();
        library
    });
    &LIBRARY
}

/// How the disk fails from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// It does not: it works.
    None,
    /// `fsync` answers EIO, and the kernel forgets what it could not write.
    SyncFails,
    /// Writes answer EIO.
    WriteFails,
    /// As if the file system had been remounted read-only, which is what Linux does after errors.
    ReadOnly,
    /// The process is killed when it has written and would sync: what it wrote is in the kernel's memory only.
    KillsAtSync,
}

/// Which of the files fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// Every one.
    All,
    /// The write-ahead log, as at a COMMIT.
    Log,
    /// The database, as when the log is copied into it.
    Database,
}

/// A disk under one server's data directory.
pub struct Disk {
    library: &'static Path,
    directory: PathBuf,
    record: PathBuf,
    control: PathBuf,
}

impl Disk {
    /// Prepares one for the data directory of a server that runs in `home`.
    pub fn new(home: &Path) -> Self {
        // The library compares paths as text, and what the server sees has no links in it.
        let home = home.canonicalize().unwrap();
        let disk = Self {
            library: library(),
            directory: home.join("comanda-data"),
            record: home.join("disk.record"),
            control: home.join("disk.control"),
        };
        std::fs::write(&disk.control, [0, 0]).unwrap();
        disk
    }

    /// What the server's environment needs.
    pub fn environment(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("LD_PRELOAD", self.library.to_str().unwrap()),
            ("DISK_DIRECTORY", self.directory.to_str().unwrap()),
            ("DISK_RECORD", self.record.to_str().unwrap()),
            ("DISK_CONTROL", self.control.to_str().unwrap()),
        ]
    }

    /// Fails like this from now on.
    pub fn fail(&self, fault: DiskFault, files: Files) {
        let mode = match fault {
            DiskFault::None => 0,
            DiskFault::SyncFails => b'e',
            DiskFault::WriteFails => b'w',
            DiskFault::ReadOnly => b'r',
            DiskFault::KillsAtSync => b'k',
        };
        let which = match files {
            Files::All => 0,
            Files::Log => b'l',
            Files::Database => b'd',
        };
        // In place: the server has the file mapped.
        let mut file = std::fs::File::options().write(true).open(&self.control).unwrap();
        file.write_all(&[mode, which]).unwrap();
    }

    /// The disk works.
    pub fn mend(&self) {
        self.fail(DiskFault::None, Files::All);
    }

    /// How much has been written down: whatever is known now, is known at this place of the record.
    pub fn moment(&self) -> u64 {
        std::fs::metadata(&self.record).map_or(0, |metadata| metadata.len())
    }

    /// Takes off the end of the record what a process was killed within, so that the next one's stands behind whole ones. For
    /// when nobody has the disk.
    pub fn forget_torn_record(&self) {
        let whole = self.record().end;
        let record = std::fs::File::options().write(true).open(&self.record).unwrap();
        record.set_len(whole).unwrap();
    }

    /// Reads what was written down.
    pub fn record(&self) -> Record {
        Record::parse(&std::fs::read(&self.record).unwrap())
    }
}

#[derive(Debug)]
enum Change {
    Create { name: String },
    Write { at: usize, data: Vec<u8> },
    Truncate { length: usize },
    Sync { began: u64 },
    SyncFailed { began: u64 },
    Unlink { name: String },
    SyncDirectory { began: u64 },
}

#[derive(Debug)]
struct Entry {
    file: u32,
    change: Change,
    /// Where it begins in the record, and where it ends.
    begin: u64,
    end: u64,
}

/// All that was done to the disk, in order.
pub struct Record {
    entries: Vec<Entry>,
    /// Where the last whole one ends.
    end: u64,
}

/// Which syncs are believed: all of them, unless a test shows that it would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    /// What was synced is there.
    Kept,
    /// The disk lies about the log: what a store that does not sync each commit would rely on.
    LogIgnored,
}

impl Record {
    fn parse(bytes: &[u8]) -> Self {
        const HEADER: usize = 28;
        let mut entries: Vec<Entry> = Vec::new();
        // Each process counts its files from one; here a file has one number as long as it lives.
        let mut files = 0;
        let mut of_process: BTreeMap<u32, u32> = BTreeMap::new();
        let mut living: BTreeMap<String, u32> = BTreeMap::new();
        let mut at = 0;
        while at + HEADER <= bytes.len() {
            let small = |from: usize| u32::from_le_bytes(bytes[at + from..at + from + 4].try_into().unwrap());
            let large = |from: usize| u64::from_le_bytes(bytes[at + from..at + from + 8].try_into().unwrap());
            let (kind, number, offset, length) = (small(0), small(4), large(12), large(20) as usize);
            let carried = if matches!(kind, 1 | 2 | 6) { length } else { 0 };
            let Some(data) = bytes.get(at + HEADER..at + HEADER + carried) else {
                // The process was killed within its last record.
                break;
            };
            let name = || String::from_utf8(data.to_vec()).unwrap();
            let begin = at as u64;
            at += HEADER + carried;
            if kind == 1 {
                // The offset says whether the process found it there.
                let known = living.get(&name()).copied().filter(|_| offset != 0);
                files += u32::from(known.is_none());
                of_process.insert(number, known.unwrap_or(files));
                living.insert(name(), known.unwrap_or(files));
                if known.is_some() {
                    continue;
                }
            } else if kind == 6 {
                living.remove(&name());
            }
            let file = of_process.get(&number).copied().unwrap_or(0);
            let change = match kind {
                1 => Change::Create { name: name() },
                2 => Change::Write {
                    at: offset as usize,
                    data: data.to_vec(),
                },
                3 => Change::Truncate {
                    length: offset as usize,
                },
                4 => Change::Sync { began: offset },
                5 => Change::SyncFailed { began: offset },
                6 => Change::Unlink { name: name() },
                8 => Change::SyncDirectory { began: offset },
                other => panic!("a record of the kind {other}"),
            };
            let end = at as u64;
            entries.push(Entry {
                file,
                change,
                begin,
                end,
            });
        }
        Self {
            entries,
            end: at as u64,
        }
    }

    /// The moments between two records, at which power can fail.
    pub fn moments(&self) -> Vec<u64> {
        self.entries.iter().map(|entry| entry.end).collect()
    }

    /// How many syncs succeeded, of the log and of the database.
    pub fn syncs(&self) -> (usize, usize) {
        let names = self.names();
        let of = |suffix: &str| {
            let synced =
                |entry: &&Entry| matches!(entry.change, Change::Sync { .. }) && names[&entry.file].ends_with(suffix);
            self.entries.iter().filter(synced).count()
        };
        (of(".db-wal"), of(".db"))
    }

    /// Whether the first that was done to the log after a moment was to sync it.
    pub fn log_is_synced_first(&self, after: u64) -> bool {
        let names = self.names();
        let of_log = |entry: &&Entry| names.get(&entry.file).is_some_and(|name| name.ends_with(".db-wal"));
        let mut later = self.entries.iter().filter(|entry| entry.begin >= after);
        later
            .find(of_log)
            .is_some_and(|entry| matches!(entry.change, Change::Sync { .. }))
    }

    fn names(&self) -> BTreeMap<u32, String> {
        let mut names = BTreeMap::new();
        for entry in &self.entries {
            if let Change::Create { name } = &entry.change {
                names.insert(entry.file, name.clone());
            }
        }
        names
    }

    /// Writes an image of the disk into `directory`, as a power cut at `moment` could have left it: all that was synced
    /// is there; of the rest each change is kept, dropped or torn, as chance has it.
    pub fn cut(&self, moment: u64, syncs: Syncs, random: &mut Random, directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        let names = self.names();
        let before = || self.entries.iter().filter(|entry| entry.end <= moment);
        // How far each file is known to be on the disk, and which parts of its past never can be.
        let mut synced: BTreeMap<u32, u64> = BTreeMap::new();
        let mut lost: Vec<(u32, u64, u64)> = Vec::new();
        let mut directory_synced = 0;
        for entry in before() {
            match entry.change {
                Change::Sync { .. } if syncs == Syncs::LogIgnored && names[&entry.file].ends_with("-wal") => {}
                Change::Sync { began } => {
                    synced.insert(entry.file, began);
                }
                // The kernel reports a failure once and takes the pages for clean: no later sync brings them back.
                Change::SyncFailed { began } => {
                    let from = synced.get(&entry.file).copied().unwrap_or(0);
                    lost.push((entry.file, from, began));
                }
                Change::SyncDirectory { began } => directory_synced = began,
                _ => {}
            }
        }
        let is_kept = |entry: &Entry| {
            let doubtful =
                |(file, from, to): &(u32, u64, u64)| *file == entry.file && (*from..*to).contains(&entry.begin);
            synced.get(&entry.file).is_some_and(|to| entry.begin < *to) && !lost.iter().any(doubtful)
        };
        // One cut loses little, another nearly all.
        let kept_of_ten = random.below(11);
        let mut contents: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut links: BTreeMap<String, u32> = BTreeMap::new();
        for entry in before() {
            let keep = is_kept(entry);
            match &entry.change {
                Change::Create { name } => {
                    contents.insert(entry.file, Vec::new());
                    let durable = entry.begin < directory_synced || keep_by(random, kept_of_ten);
                    // A file that was synced itself is not lost either, on the file systems that are in use.
                    if durable || synced.contains_key(&entry.file) {
                        links.insert(name.clone(), entry.file);
                    }
                }
                Change::Write { at, data } => {
                    let content = contents.entry(entry.file).or_default();
                    if keep {
                        put(content, *at, data);
                    } else {
                        tear(content, *at, data, random, kept_of_ten);
                    }
                }
                Change::Truncate { length } => {
                    if keep || keep_by(random, kept_of_ten) {
                        contents.entry(entry.file).or_default().resize(*length, 0);
                    }
                }
                Change::Unlink { name } => {
                    if entry.begin < directory_synced || keep_by(random, kept_of_ten) {
                        links.remove(name);
                    }
                }
                Change::Sync { .. } | Change::SyncFailed { .. } | Change::SyncDirectory { .. } => {}
            }
        }
        for (name, file) in links {
            std::fs::write(directory.join(name), &contents[&file]).unwrap();
        }
    }
}

fn keep_by(random: &mut Random, kept_of_ten: u64) -> bool {
    random.below(10) < kept_of_ten
}

fn put(content: &mut Vec<u8>, at: usize, data: &[u8]) {
    if content.len() < at + data.len() {
        content.resize(at + data.len(), 0);
    }
    content[at..at + data.len()].copy_from_slice(data);
}

/// A write that nobody synced: there, not there, there in parts, or only as a longer file full of zeros.
fn tear(content: &mut Vec<u8>, at: usize, data: &[u8], random: &mut Random, kept_of_ten: u64) {
    match random.below(4) {
        0 if content.len() < at + data.len() && keep_by(random, kept_of_ten) => content.resize(at + data.len(), 0),
        1 => {
            let mut done = 0;
            while done < data.len() {
                // To the next border of a sector of the disk, not of the write.
                let length = (SECTOR_BYTES - (at + done) % SECTOR_BYTES).min(data.len() - done);
                if keep_by(random, kept_of_ten) {
                    put(content, at + done, &data[done..done + length]);
                }
                done += length;
            }
        }
        _ => {
            if keep_by(random, kept_of_ten) {
                put(content, at, data);
            }
        }
    }
}
