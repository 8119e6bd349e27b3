//! Side-by-side measurements: none yet. They come with the work on speed; until then nothing in this
//! repository claims a number.
