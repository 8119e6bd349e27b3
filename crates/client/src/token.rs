//! [`Token`]: what a client shows a server that asks for tokens, as given or from a file that others renew.
//!
//! It is looked at again when a call is made, once a second at most. A file that cannot be read, or is empty while it is
//! being written, leaves the token as it was: the server says when that does not do any more.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use http::HeaderValue;
use tokio::{sync::Mutex, time::Instant};

use crate::error::{Error, Result};

/// How long a file's token is taken without another look.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of the largest file that is read: a server takes no longer token.
const FILE_MAX: usize = 16 << 10;

/// A token, and where it comes from. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Token {
    Given(Option<HeaderValue>),
    File(Arc<TokenFile>),
}

/// A file with a token.
pub(crate) struct TokenFile {
    path: PathBuf,
    last: Mutex<Option<(Instant, HeaderValue)>>,
}

impl Token {
    /// This one.
    pub(crate) fn given(token: &str) -> Self {
        Self::Given(header(token))
    }

    /// That of a file.
    pub(crate) fn file(path: PathBuf) -> Self {
        Self::File(Arc::new(TokenFile { path, last: Mutex::new(None) }))
    }

    /// Whether another one may come.
    pub(crate) fn is_renewed(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// The header's value.
    pub(crate) async fn value(&self) -> Result<HeaderValue> {
        match self {
            Self::Given(value) => {
                let empty = || Error::usage("the token is empty, or has characters that no header can have");
                value.clone().ok_or_else(empty)
            }
            Self::File(file) => file.value().await,
        }
    }
}

impl TokenFile {
    async fn value(&self) -> Result<HeaderValue> {
        let mut last = self.last.lock().await;
        if let Some((at, value)) = &*last
            && at.elapsed() < LOOK
        {
            return Ok(value.clone());
        }
        let (read, shown) = (tokio::fs::read(&self.path).await, self.path.display());
        let found = match &read {
            Ok(bytes) if bytes.len() <= FILE_MAX => std::str::from_utf8(bytes).ok().and_then(header),
            Ok(_) | Err(_) => None,
        };
        let value = match (found, &*last, read) {
            (Some(value), _, _) => value,
            (None, Some((_, value)), _) => value.clone(),
            (None, None, Err(error)) => return Err(Error::usage(format!("the token file {shown}: {error}"))),
            (None, None, Ok(_)) => return Err(Error::usage(format!("the token file {shown} holds no token"))),
        };
        *last = Some((Instant::now(), value.clone()));
        Ok(value)
    }
}

fn header(token: &str) -> Option<HeaderValue> {
    let token = token.trim();
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| !token.is_empty())?;
    // So that no log shows it.
    value.set_sensitive(true);
    Some(value)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Token"),
            Self::File(file) => f.debug_tuple("Token").field(&file.path).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_files_token_is_read_again_when_it_changes_and_kept_while_it_is_being_written() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let token = Token::file(file.path().to_owned());
        assert!(token.value().await.expect_err("empty").message().contains("no token"));
        std::fs::write(file.path(), "one\n").expect("written");
        assert_eq!(token.value().await.expect("there"), "Bearer one");
        for (content, wanted) in [("two", "Bearer two"), ("", "Bearer two"), ("a\nb", "Bearer two"), ("3", "Bearer 3")]
        {
            std::fs::write(file.path(), content).expect("written");
            tokio::time::advance(LOOK).await;
            assert_eq!(token.value().await.expect("there"), wanted, "{content:?}");
        }
        file.close().expect("removed");
        tokio::time::advance(LOOK).await;
        assert_eq!(token.value().await.expect("kept"), "Bearer 3");
    }

    #[tokio::test]
    async fn a_token_is_shown_to_servers_only() {
        let token = Token::given(" secret ");
        assert_eq!(token.value().await.expect("a header"), "Bearer secret");
        assert!(!format!("{token:?} {:?}", token.value().await).contains("secret"));
        assert!(Token::given("a\nb").value().await.is_err() && Token::given("").value().await.is_err());
    }
}
