use proptest::prelude::*;

use super::*;

fn origin(number: u128) -> Incarnation {
    Incarnation::new(number).unwrap()
}

proptest! {
    #[test]
    fn places_round_trip(number: u32, offset: u64, length: u32, sum: u32) {
        let place = Place { number, offset, length: length as usize, sum };
        prop_assert_eq!(Place::decode(0, &place.encode()), Ok(Some(place)));
    }
}

#[test]
fn an_event_is_no_place() {
    for first in [&b"\x01x"[..], &b"\xff\x01x"[..], &[]] {
        assert_eq!(Place::decode(0, first), Ok(None));
    }
    assert!(Place::decode(0, &[MARK, 1]).is_err());
}

/// A tree, and files of which everything is outside.
struct Fixture {
    db: sled::Db,
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self {
            db: sled::Config::new().temporary(true).open().unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn open(&self) -> LogFiles {
        let directory = LogDirectory::new(self.directory.path());
        LogFiles::open(directory, 0, &Txn::new(&self.db)).unwrap()
    }

    fn commit(&self, files: &mut LogFiles) {
        let mut txn = Txn::new(&self.db);
        files.write(&mut txn).unwrap();
        txn.apply().unwrap();
        files.remove_empty().unwrap();
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("log")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

#[test]
fn files_go_with_their_last_event_and_numbers_do_not_come_back() {
    let fixture = Fixture::new();
    let mut files = fixture.open();
    let (lane, one) = (Lane::Directory, origin(1));
    let large = vec![7; usize::try_from(FILE_BYTES_MAX).unwrap()];
    let first = files.append(lane, one, b"small").unwrap();
    let second = files.append(lane, one, &large).unwrap();
    fixture.commit(&mut files);
    let third = files.append(lane, one, b"another").unwrap();
    let other = files.append(lane, origin(2), b"other").unwrap();
    fixture.commit(&mut files);
    assert_eq!(
        (first.number, second.number, third.number, other.number),
        (0, 0, 1, 0)
    );
    assert_eq!(fixture.names().len(), 3);
    let directory = files.directory().clone();
    assert_eq!(directory.read(lane, one, first).unwrap(), b"small");
    assert_eq!(directory.read(lane, one, second).unwrap(), large);
    assert_eq!(directory.read(lane, one, third).unwrap(), b"another");
    assert_eq!(files.written().bytes(), FILE_BYTES_MAX + 17);
    files.forget(lane, one, second);
    fixture.commit(&mut files);
    assert_eq!(
        fixture.names().len(),
        3,
        "one event of the first file is left"
    );
    files.forget(lane, one, first);
    files.forget(lane, one, third);
    fixture.commit(&mut files);
    assert_eq!(fixture.names().len(), 1);
    assert_eq!(files.written().bytes(), 5);
    assert_eq!(directory.read(lane, one, first), None);
    assert_eq!(files.append(lane, one, b"later").unwrap().number, 2);
}

#[test]
fn what_the_tree_does_not_know_goes_and_what_it_knows_is_not_appended_to() {
    let fixture = Fixture::new();
    let mut files = fixture.open();
    let (lane, one) = (Lane::Directory, origin(1));
    let kept = files.append(lane, one, b"kept").unwrap();
    fixture.commit(&mut files);
    // As a crash leaves it that comes between the file and the tree.
    files.append(lane, one, b"lost").unwrap();
    files.append(lane, origin(2), b"lost").unwrap();
    files.write(&mut Txn::new(&fixture.db)).unwrap();
    assert_eq!(fixture.names().len(), 2);
    let mut files = fixture.open();
    assert_eq!(fixture.names().len(), 1);
    let next = files.append(lane, one, b"next").unwrap();
    fixture.commit(&mut files);
    assert_eq!((kept.number, next.number), (0, 1));
    let directory = files.directory();
    assert_eq!(directory.read(lane, one, kept).unwrap(), b"kept");
    assert_eq!(directory.read(lane, one, next).unwrap(), b"next");
    // What is cut short, or is not what was written, is not read.
    let path = directory.file((lane, one, 0));
    fs::write(&path, b"kepT").unwrap();
    assert_eq!(directory.read(lane, one, kept), None);
    fs::write(&path, b"kep").unwrap();
    assert_eq!(directory.read(lane, one, kept), None);
}

#[test]
fn an_opening_removes_files_that_no_event_is_in_and_nothing_of_somebody_else() {
    let fixture = Fixture::new();
    let log = fixture.directory.path().join("log");
    let mut files = fixture.open();
    files.append(Lane::Bump, origin(1), b"an event").unwrap();
    // The tree never has it: the commit did not happen.
    files.write(&mut Txn::new(&fixture.db)).unwrap();
    assert_eq!(fixture.names().len(), 1);
    fs::create_dir(log.join("lost+found")).unwrap();
    fs::write(log.join("0-notes"), "an operator's").unwrap();
    drop(files);
    fixture.open();
    assert_eq!(fixture.names(), ["0-notes", "lost+found"]);
}
