//! A client of Redis, as much of it as is measured: commands are encoded into one buffer and written together,
//! replies are looked at where they were received and not copied out.

use std::time::Instant;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::peers::framed::{Socket, dial};

/// What a reply is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Bytes, this many.
    Bulk(usize),
    /// A number.
    Integer(i64),
    /// `OK` or the like.
    Simple,
    /// An error's text.
    Error(String),
}

/// Appends a command.
fn command(output: &mut BytesMut, parts: &[&[u8]]) {
    output.put_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        output.put_slice(format!("${}\r\n", part.len()).as_bytes());
        output.put_slice(part);
        output.put_slice(b"\r\n");
    }
}

/// The first reply of what was received and its length, once all of it is there.
fn reply(input: &[u8]) -> Result<Option<(Reply, usize)>, String> {
    let Some(end) = input.iter().take(512).position(|byte| *byte == b'\r') else {
        return if input.len() < 512 { Ok(None) } else { Err("a reply's first line does not end".to_owned()) };
    };
    let line = String::from_utf8_lossy(&input[1..end.max(1)]);
    let number = || line.parse::<i64>().map_err(|_| format!("a reply has no number: {line}"));
    let (reply, length) = match input[0] {
        b'+' => (Reply::Simple, end + 2),
        b'-' => (Reply::Error(line.into_owned()), end + 2),
        b':' => (Reply::Integer(number()?), end + 2),
        b'$' => {
            let bytes = usize::try_from(number()?).map_err(|_| "there is no such key".to_owned())?;
            (Reply::Bulk(bytes), end + 2 + bytes + 2)
        }
        other => return Err(format!("a reply begins with the byte {other}")),
    };
    Ok((input.len() >= length).then_some((reply, length)))
}

/// A connection.
pub struct Connection {
    socket: Box<dyn Socket>,
    input: BytesMut,
    output: BytesMut,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

/// Bytes of a read or write.
const LENGTH: u64 = 4096;

impl Connection {
    /// Connects to `127.0.0.1:PORT` or `unix:/path`.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn open(address: &str) -> Result<Self, String> {
        let socket = dial(address).await.map_err(|error| format!("{address}: {error}"))?;
        Ok(Self { socket, input: BytesMut::with_capacity(256 << 10), output: BytesMut::with_capacity(256 << 10) })
    }

    /// One command and its reply.
    ///
    /// # Errors
    /// The connection breaks, or the reply is an error.
    pub async fn call(&mut self, parts: &[&[u8]]) -> Result<Reply, String> {
        command(&mut self.output, parts);
        self.send().await?;
        self.receive().await
    }

    async fn send(&mut self) -> Result<(), String> {
        self.socket.write_all(&self.output).await.map_err(|error| error.to_string())?;
        self.output.clear();
        Ok(())
    }

    async fn receive(&mut self) -> Result<Reply, String> {
        loop {
            match reply(&self.input)? {
                Some((Reply::Error(text), _)) => return Err(text),
                Some((reply, length)) => {
                    self.input.advance(length);
                    return Ok(reply);
                }
                None => {}
            }
            self.input.reserve(128 << 10);
            let read = self.socket.read_buf(&mut self.input).await.map_err(|error| error.to_string())?;
            if read == 0 {
                return Err("the server closed the connection".to_owned());
            }
        }
    }

    /// `GETRANGE` or `SETRANGE` of 4 KiB of the key `hot`, `depth` written together and then all replies read, until
    /// `end`: how many were done. `offset` says where the command of a number reads or writes.
    ///
    /// # Errors
    /// The connection breaks, or a reply is not what it should be.
    pub async fn pump(
        &mut self,
        is_write: bool,
        depth: u64,
        end: Instant,
        offset: impl Fn(u64) -> u64,
    ) -> Result<u64, String> {
        let data = [3u8; 4096];
        let mut done = 0;
        while Instant::now() < end {
            for number in done..done + depth {
                let start = offset(number);
                let first = start.to_string();
                if is_write {
                    command(&mut self.output, &[b"SETRANGE", b"hot", first.as_bytes(), &data]);
                } else {
                    let last = (start + LENGTH - 1).to_string();
                    command(&mut self.output, &[b"GETRANGE", b"hot", first.as_bytes(), last.as_bytes()]);
                }
            }
            self.send().await?;
            for _ in 0..depth {
                let reply = self.receive().await?;
                let is_right = if is_write { matches!(reply, Reply::Integer(_)) } else { reply == Reply::Bulk(4096) };
                if !is_right {
                    return Err(format!("an unexpected reply: {reply:?}"));
                }
            }
            done += depth;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut output = BytesMut::new();
        command(&mut output, &[b"GET", b"a\r\n"]);
        assert_eq!(&output[..], b"*2\r\n$3\r\nGET\r\n$3\r\na\r\n\r\n");
    }

    #[test]
    fn replies_are_recognised_once_they_are_whole() {
        let whole = b"$5\r\nab\r\nc\r\n:12\r\n";
        for cut in 0..11 {
            assert_eq!(reply(&whole[..cut]), Ok(None), "{cut} bytes");
        }
        assert_eq!(reply(whole), Ok(Some((Reply::Bulk(5), 11))));
        assert_eq!(reply(b":12\r\n"), Ok(Some((Reply::Integer(12), 5))));
        assert_eq!(reply(b"+OK\r\n"), Ok(Some((Reply::Simple, 5))));
        assert_eq!(reply(b"-ERR no\r\n"), Ok(Some((Reply::Error("ERR no".to_owned()), 9))));
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        assert!(reply(b"$-1\r\n").is_err() && reply(b"?\r\n").is_err() && reply(b":x\r\n").is_err());
        assert!(reply(&[b'+'; 600]).is_err());
    }
}
