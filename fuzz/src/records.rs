//! What records come to. Whatever bytes are taken for records: one that is read is written as it was, what they come
//! to keeps its bounds, and said again, as a checkpoint does, comes to the same.

use mmap_core::error::Errno;
use mmap_core::flags::MapFlags;
use mmap_core::journal::record::{BlockPages, Content, Record, Who, write_image};
use mmap_core::journal::replay::{LiveFile, LiveMapping, Pages, Survivors};
use mmap_core::path::FilePath;
use mmap_core::units::{MAX_OFFSET, PAGE_LEN};

use crate::take::Take;

/// Images of a record at most, where they are filled in.
const IMAGES_MAX: usize = 20;

/// Applies the records of the input.
pub(crate) fn records(mut input: Take<'_>) {
    let mut survivors = Survivors::default();
    let given = input.0.len() as u64;
    let used = allocation_counter::measure(|| {
        while !input.is_empty() {
            // Images are long and say little: as many as the record needs follow it unless the input says otherwise.
            let is_filled = input.byte().is_multiple_of(2);
            let mut bytes = input.prefixed().to_vec();
            if is_filled {
                fill(&mut bytes);
            }
            if let Ok((record, images)) = Record::read(&bytes) {
                same_again(&record, images);
            }
            if let Err(error) = survivors.apply(&bytes) {
                assert_eq!(error.errno(), Errno::UClean, "{error}");
            }
        }
    });
    let images = survivors.bytes();
    // A filled record has at most 64 KiB of images for each of its bytes, and is copied a few times.
    assert!(used.bytes_max <= 4 * images + 512 * given + (8 << 20), "{} bytes", used.bytes_max);
    survivors.finish();
    bounded(&survivors);
    let mut again = Survivors::default();
    for record in said_again(&survivors) {
        again.apply(&record).unwrap();
    }
    again.finish();
    assert!(again == survivors, "said again it is {again:?}\nand was {survivors:?}");
}

/// Puts behind a record's head the images that it names, if they are not too many.
fn fill(bytes: &mut Vec<u8>) {
    let head = bytes.len();
    bytes.resize(head + IMAGES_MAX * PAGE_LEN, 7);
    let whole = (0..=IMAGES_MAX).map(|pages| head + pages * PAGE_LEN).find(|end| Record::read(&bytes[..*end]).is_ok());
    bytes.truncate(whole.unwrap_or(head));
}

fn same_again(record: &Record<'_>, images: &[u8]) {
    let mut bytes = Vec::new();
    record.write_head(&mut bytes);
    bytes.extend_from_slice(images);
    assert_eq!(Record::read(&bytes).unwrap(), (record.clone(), images));
}

fn bounded(survivors: &Survivors) {
    let whole = |pages: &Pages| pages.values().all(|page| page.len() == PAGE_LEN);
    for (path, LiveFile { size, unsynced, attempts, .. }) in &survivors.files {
        assert!(FilePath::parse(path.as_str()).is_ok() && *size <= MAX_OFFSET);
        assert!(whole(unsynced) && attempts.len() <= 64);
    }
    for mapping in survivors.mappings.values() {
        assert!(FilePath::parse(mapping.path.as_str()).is_ok() && !mapping.range.is_empty());
        assert!(mapping.range.end() <= MAX_OFFSET && whole(&mapping.own));
    }
}

/// The records that a checkpoint writes.
fn said_again(survivors: &Survivors) -> Vec<Vec<u8>> {
    let mut said = Vec::new();
    for (path, file) in &survivors.files {
        let version = file.version.as_ref().map(|version| version.as_str().into());
        let content = Content { path: path.as_str().into(), version, size: file.size };
        said.push(record(&Record::Moved { content: content.clone(), stored: Vec::new().into(), settled: false }, None));
        let blocks = blocks(&file.unsynced).into();
        said.push(record(&Record::Written { content, blocks }, Some(&file.unsynced)));
        for (commit, size) in &file.attempts {
            let commit = commit.0.as_u128();
            said.push(record(&Record::Attempt { path: path.as_str().into(), commit, size: *size }, None));
        }
    }
    for (key, process) in &survivors.processes {
        let who = Who { subject: key.subject.name().into(), pid: key.pid };
        said.push(record(&Record::Process { who, name: process.name.as_str().into(), leased: process.leased }, None));
    }
    for (id, LiveMapping { owner, path, range, prot, flags, own }) in &survivors.mappings {
        let who = Who { subject: owner.subject.name().into(), pid: owner.pid };
        let (path, shared) = (path.as_str().into(), *flags == MapFlags::Shared);
        let mapped =
            Record::Mapped { id: id.0, who, path, start: range.start(), end: range.end(), prot: prot.bits(), shared };
        said.push(record(&mapped, None));
        said.push(record(&Record::Copied { id: id.0, blocks: blocks(own).into() }, Some(own)));
    }
    said
}

fn record(record: &Record<'_>, images: Option<&Pages>) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.write_head(&mut bytes);
    images.into_iter().flat_map(Pages::values).for_each(|page| write_image(&mut bytes, page));
    bytes
}

fn blocks(pages: &Pages) -> Vec<BlockPages> {
    pages.keys().map(|page| BlockPages(page.0 / 16, 1 << (page.0 % 16))).collect()
}
