//! What an upload in parts is to be completed on. S3 takes conditions there, and the client has no way to say them;
//! so they go with the task to where its requests are sent.
//!
//! A store that does not know such conditions ignores them: the version is asked for right before all the same.

use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderName, HeaderValue, Method, Uri};

use crate::vfs::store::Base;

tokio::task_local! {
    static CONDITION: (HeaderName, HeaderValue);
}

/// Runs `complete`, which completes an upload based on `base`, with that as its condition.
pub(super) async fn on_condition<T>(base: &Base, complete: impl Future<Output = T>) -> T {
    let condition = match base {
        Base::Missing => Some((IF_NONE_MATCH, HeaderValue::from_static("*"))),
        Base::At { version, .. } => HeaderValue::from_str(version.as_str()).ok().map(|e_tag| (IF_MATCH, e_tag)),
    };
    match condition {
        Some(condition) => CONDITION.scope(condition, complete).await,
        None => complete.await,
    }
}

/// The condition of a request that completes an upload in S3's words.
pub(in crate::vfs) fn condition_of(method: &Method, uri: &Uri) -> Option<(HeaderName, HeaderValue)> {
    let completes = method == Method::POST && uri.query().is_some_and(|query| query.contains("uploadId="));
    if completes { CONDITION.try_with(Clone::clone).ok() } else { None }
}
