//! Where the journal begins: with the segment that the name of an empty file says. All before it is covered by a
//! checkpoint, and nobody's any more.
//!
//! Invariant: there is one such file from the first start on, so that a checkpoint on a full disk only renames it; and
//! it only goes forward, also where a checkpoint that nobody waits for any more comes to it late.

use std::io;

use super::disk::Disk;

const SUFFIX: &str = ".wal.from";

fn name_of(number: u64) -> String {
    format!("{number:016x}{SUFFIX}")
}

/// With which segment the journal begins, if that is what a file of this name says.
pub(super) fn beginning_of(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_suffix(SUFFIX)?, 16).ok()?;
    (name_of(number) == name).then_some(number)
}

/// Says, for good, that the journal begins with segment `number`, or a later one that was said before. Blocks.
pub(super) fn say_beginning(disk: &dyn Disk, number: u64) -> io::Result<()> {
    let names = disk.list()?;
    let said = names.iter().filter_map(|name| beginning_of(name).map(|said| (said, name))).max();
    match said {
        Some((said, _)) if said >= number => Ok(()),
        Some((_, name)) => disk.reuse(name, &name_of(number), &[])?.sync(),
        None => disk.create(&name_of(number), 0, &[])?.sync(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sim::SimDisk;
    use super::*;

    #[test]
    fn a_beginning_is_said_by_one_file_and_only_goes_forward() {
        let disk = SimDisk::new();
        for (number, said) in [(3, 3), (3, 3), (7, 7), (5, 7)] {
            say_beginning(&disk, number).unwrap();
            assert_eq!(disk.files().keys().map(|name| beginning_of(name)).collect::<Vec<_>>(), [Some(said)]);
        }
    }
}
