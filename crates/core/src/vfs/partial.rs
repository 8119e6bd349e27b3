//! [`PartialContent`]: an HTTP client for S3 that adds the condition of an upload's completion, and for stores
//! that answer a ranged GET rightly but with the status of a whole one.
//!
//! A response with `Content-Range` is partial content, whatever its status says (RFC 9110, 14.4 and 15.3.7).
//! `rclone serve s3` sends 200 with it, which object_store refuses. The layout checks range and length of
//! what comes, so that nothing is taken on trust here.

use async_trait::async_trait;
use http::StatusCode;
use http::header::{CONTENT_RANGE, RANGE};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

use super::object::condition_of;

/// Makes clients that give partial content its status.
#[derive(Debug, Default)]
pub(super) struct PartialContent(ReqwestConnector);

#[derive(Debug)]
struct Corrected(HttpClient);

impl HttpConnector for PartialContent {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Corrected(self.0.connect(options)?)))
    }
}

#[async_trait]
impl HttpService for Corrected {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Some((name, value)) = condition_of(request.method(), request.uri()) {
            request.headers_mut().insert(name, value);
        }
        let ranged = request.headers().contains_key(RANGE);
        let mut response = self.0.execute(request).await?;
        if ranged && response.status() == StatusCode::OK && response.headers().contains_key(CONTENT_RANGE) {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(response)
    }
}
