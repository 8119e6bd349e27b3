//! The promises of [`FileStore`](super::FileStore) as functions that any layout can be held against.
//!
//! Each takes a [`Bench`]: the store, and a second handle of the same place that plays the outside writer. Each
//! works under a prefix of its own, so that the suite can run on a shared bucket, and removes what it made. A
//! broken promise panics with a sentence.
//!
//! What only one layout promises (symbolic links, sparse files, lost replies) is tested beside that layout.

mod bench;
mod lists;
mod reads;
mod races;
mod writes;

pub use bench::Bench;
pub use lists::*;
pub use races::*;
pub use reads::*;
pub use writes::*;

/// Every promise, one after the other.
pub async fn run_all(bench: &Bench<'_>) {
    a_missing_file_is_missing(bench).await;
    a_file_reads_as_it_was_made(bench).await;
    an_empty_file_is_a_file(bench).await;
    reads_come_in_blocks_of_their_own(bench).await;
    an_old_version_is_not_read(bench).await;
    odd_names_stay_as_they_are(bench).await;
    an_existing_file_is_not_made_again(bench).await;
    patches_land_on_the_base(bench).await;
    a_clean_patch_changes_nothing(bench).await;
    a_new_size_alone_cuts_or_adds_zeros(bench).await;
    a_stale_write_back_is_refused(bench).await;
    a_write_back_to_a_removed_file_is_refused(bench).await;
    a_file_beyond_the_limit_is_refused(bench).await;
    a_removed_file_is_gone(bench).await;
    of_many_writers_one_wins(bench).await;
    of_many_creators_one_wins(bench).await;
    a_reader_sees_one_version(bench).await;
    a_dropped_write_back_is_whole_or_nothing(bench).await;
    a_list_is_in_the_order_of_names(bench).await;
    a_list_goes_on_where_it_ended(bench).await;
    a_prefix_is_text_and_not_a_folder(bench).await;
    the_probe_finds_it_safe_and_leaves_nothing(bench).await;
}
