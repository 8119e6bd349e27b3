//! What stands around every handler. In dependency order.

mod call;
mod guard;

pub(crate) use call::Call;
pub(crate) use guard::GuardLayer;
