//! [`Record`]: what the journal says, and how it is written.
//!
//! A record is a fact that holds from its place in the journal on. Facts are idempotent: saying one again where
//! it still holds changes nothing. So a checkpoint is nothing but saying again whatever holds, and no record
//! depends on one that a checkpoint made superfluous.
//!
//! On the disk a record is its head (postcard, a stable format) and behind it the images of its pages, 4096
//! bytes each. An image is the page after the write, so that replaying needs no store.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::error::{Errno, Error, Result};
use crate::units::{BlockIndex, PAGE_LEN, PageIndex, PageMask};

/// Pages of one block: its index, and which of its 16 pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockPages(pub u64, pub u16);

impl BlockPages {
    /// `pages` of `block`.
    pub const fn new(block: BlockIndex, pages: PageMask) -> Self {
        Self(block.0, pages.0)
    }

    /// The pages, in order.
    pub fn pages(self) -> impl Iterator<Item = PageIndex> {
        let first = self.0.saturating_mul(16);
        (0..16u64).filter(move |bit| self.1 & (1 << bit) != 0).map(move |bit| PageIndex(first.saturating_add(bit)))
    }
}

/// A file's content in its store, as the file knew it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content<'a> {
    /// The file's path.
    pub path: Cow<'a, str>,
    /// What the store had; `None` if it did not have the file.
    pub version: Option<Cow<'a, str>>,
    /// Bytes of the file.
    pub size: u64,
}

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who<'a> {
    /// The subject's name, empty for the local one.
    pub subject: Cow<'a, str>,
    /// The pid.
    pub pid: u32,
}

/// A fact. New kinds go to the end; another meaning needs another format version of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record<'a> {
    /// The process lives.
    Process {
        /// Who.
        who: Who<'a>,
        /// What it calls itself.
        name: Cow<'a, str>,
        /// It was attached once, so that it lives by its grace time.
        leased: bool,
    },
    /// The process ended.
    ProcessGone {
        /// Who.
        who: Who<'a>,
    },
    /// The mapping is there.
    Mapped {
        /// Its id.
        id: u64,
        /// Whose it is.
        who: Who<'a>,
        /// The file's path.
        path: Cow<'a, str>,
        /// First byte of the file.
        start: u64,
        /// Behind the last byte.
        end: u64,
        /// Its protection's bits.
        prot: u32,
        /// Shared, or private.
        shared: bool,
    },
    /// The mapping ended; so did its own pages.
    Unmapped {
        /// Its id.
        id: u64,
    },
    /// Pages of the file are unsynced, and these are their images.
    Written {
        /// What the file is based on.
        content: Content<'a>,
        /// Which pages.
        blocks: Cow<'a, [BlockPages]>,
    },
    /// A private mapping's own pages, and these are their images.
    Copied {
        /// The mapping.
        id: u64,
        /// Which pages.
        blocks: Cow<'a, [BlockPages]>,
    },
    /// A change of the file may be on its way to the store.
    Attempt {
        /// The file's path.
        path: Cow<'a, str>,
        /// The attempt's mark.
        commit: u128,
        /// The size that the file then has.
        size: u64,
    },
    /// The file has this content now: unsynced and private pages behind its end are gone.
    Moved {
        /// What the store has.
        content: Content<'a>,
        /// Pages that it has of us, which are not unsynced any more.
        stored: Cow<'a, [BlockPages]>,
        /// No earlier attempt is on its way any more.
        settled: bool,
    },
    /// Unsynced pages were given up, or kept elsewhere; earlier attempts are not ours any more.
    GivenUp {
        /// The file's path.
        path: Cow<'a, str>,
        /// Which pages.
        blocks: Cow<'a, [BlockPages]>,
    },
}

impl<'a> Record<'a> {
    /// Appends the record's head to `out`; its pages' images come behind it.
    pub fn write_head(&self, out: &mut Vec<u8>) {
        // Strings, numbers and lists in memory: there is nothing in them that cannot be written.
        if let Err(impossible) = postcard::serialize_with_flavor(self, Appended(out)) {
            tracing::error!(%impossible, "a journal record could not be written");
        }
    }

    /// Reads a record, and the bytes of its pages' images.
    ///
    /// # Errors
    /// [`Errno::UClean`] if it is none.
    pub fn read(bytes: &'a [u8]) -> Result<(Self, &'a [u8])> {
        let unreadable = |what: String| Error::new(Errno::UClean, format!("a journal record cannot be read: {what}"));
        let (record, images) =
            postcard::take_from_bytes::<Self>(bytes).map_err(|error| unreadable(error.to_string()))?;
        let pages: u64 = record.imaged().iter().map(|block| u64::from(block.1.count_ones())).sum();
        if pages.checked_mul(PAGE_LEN as u64) != Some(images.len() as u64) {
            return Err(unreadable(format!("it has {} bytes of images for {pages} pages", images.len())));
        }
        Ok((record, images))
    }

    /// The pages whose images follow.
    pub fn imaged(&self) -> &[BlockPages] {
        match self {
            Self::Written { blocks, .. } | Self::Copied { blocks, .. } => blocks,
            Self::Process { .. }
            | Self::ProcessGone { .. }
            | Self::Mapped { .. }
            | Self::Unmapped { .. }
            | Self::Attempt { .. }
            | Self::Moved { .. }
            | Self::GivenUp { .. } => &[],
        }
    }
}

/// Where postcard writes: behind what is there, without a buffer of its own.
struct Appended<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Appended<'_> {
    type Output = ();

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends the image of one page to `out`: `data` is its bytes, zeros behind them.
pub fn write_image(out: &mut Vec<u8>, data: &[u8]) {
    let data = data.get(..PAGE_LEN).unwrap_or(data);
    out.extend_from_slice(data);
    out.resize(out.len() + PAGE_LEN - data.len(), 0);
}

/// What a record of `pages` images of a file of this path needs in the journal, at most.
pub fn room_for(path: &str, pages: u64) -> usize {
    // Varints of at most 10 bytes, a version of some 100; blocks of at most 13 bytes, one for a page at worst.
    let head = 512 + path.len() as u64;
    usize::try_from(pages.saturating_mul(PAGE_LEN as u64 + 16).saturating_add(head)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_with_its_images_behind_it() {
        let content = Content { path: "/a".into(), version: Some("v1".into()), size: 5000 };
        let written = Record::Written { content, blocks: vec![BlockPages(0, 0b11)].into() };
        let mut bytes = Vec::new();
        written.write_head(&mut bytes);
        write_image(&mut bytes, &[7; PAGE_LEN]);
        write_image(&mut bytes, b"short");
        assert!(bytes.len() <= room_for("/a", 2));
        let (read, images) = Record::read(&bytes).unwrap();
        assert_eq!(read, written);
        assert_eq!((images[0], &images[PAGE_LEN..PAGE_LEN + 6]), (7, &b"short\0"[..]));
        assert_eq!(read.imaged()[0].pages().collect::<Vec<_>>(), [PageIndex(0), PageIndex(1)]);
    }

    #[test]
    fn a_record_that_is_cut_or_has_too_much_is_no_record() {
        let content = Content { path: "/a".into(), version: None, size: 1 };
        let mut bytes = Vec::new();
        Record::Written { content, blocks: vec![BlockPages(u64::MAX, u16::MAX)].into() }.write_head(&mut bytes);
        for end in 0..bytes.len() {
            assert!(Record::read(&bytes[..end]).is_err());
        }
        assert!(Record::read(&bytes).is_err(), "its images are missing");
        bytes.resize(bytes.len() + 16 * PAGE_LEN, 0);
        assert!(Record::read(&bytes).is_ok());
        bytes.push(0);
        assert!(Record::read(&bytes).is_err());
    }
}
