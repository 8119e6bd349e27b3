//! What stands around every handler. In dependency order.

mod call;
mod guard;

pub(crate) use call::{Call, Origin, timeout};
pub(crate) use guard::{ADMISSION_TIME, Guard, catch, is_counted, panic_text};
