//! The ceiling of a socket: length-prefixed frames on one connection, without HTTP/2, protobuf or calls.
//!
//! A request is kind (1 byte), tag (8), offset (8), length (8), and for a write its data. An answer is tag (8), length
//! (8), and for a read its data. Numbers are little-endian. Both sides write all that is ready at once. What is read
//! is copied out of a buffer of 16 MiB, what is written is copied into it, as a server must at least.

use std::io;
use std::time::Instant;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::peers::memory::large;

const REQUEST: usize = 25;
const ANSWER: usize = 16;
const MEMORY: usize = 16 << 20;
/// The largest frame.
const FRAME_MAX: usize = 1 << 20;
const READ: u8 = 0;
const WRITE: u8 = 1;
/// A read that is answered in frames of the largest size.
const STREAM: u8 = 2;

/// Both kinds of sockets.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// Serves on a free port and on `socket` until the process is ended; prints where.
///
/// # Errors
/// It cannot listen.
pub async fn serve(socket: &str) -> io::Result<()> {
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    let unix = UnixListener::bind(socket)?;
    println!("listening on {}", tcp.local_addr()?);
    println!("listening on unix:{socket}");
    loop {
        let connection: Box<dyn Socket> = tokio::select! {
            accepted = tcp.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            accepted = unix.accept() => Box::new(accepted?.0),
        };
        // It ends with its connection, and this process with its client.
        tokio::spawn(async move {
            if let Err(error) = answer(connection).await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}

async fn answer(mut socket: Box<dyn Socket>) -> io::Result<()> {
    let mut memory = vec![7u8; MEMORY];
    let (mut input, mut output) = (BytesMut::with_capacity(2 * FRAME_MAX), BytesMut::with_capacity(2 * FRAME_MAX));
    loop {
        while let Some((kind, tag, offset, length)) = header(&input) {
            let whole = if kind == WRITE { REQUEST + length } else { REQUEST };
            if input.len() < whole {
                break;
            }
            input.advance(REQUEST);
            let at = offset % (MEMORY - FRAME_MAX);
            match kind {
                WRITE => {
                    memory[at..at + length].copy_from_slice(&input[..length]);
                    input.advance(length);
                    head(&mut output, tag, length);
                }
                READ => {
                    head(&mut output, tag, length);
                    output.put_slice(&memory[at..at + length]);
                }
                STREAM => stream(&mut socket, &large(), &mut output, tag, length).await?,
                other => return Err(io::Error::other(format!("a request of the kind {other}"))),
            }
        }
        if !output.is_empty() {
            socket.write_all(&output).await?;
            output.clear();
        }
        input.reserve(FRAME_MAX + REQUEST);
        if socket.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

async fn stream(
    socket: &mut Box<dyn Socket>,
    memory: &[u8],
    output: &mut BytesMut,
    tag: u64,
    length: usize,
) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let take = left.min(FRAME_MAX);
        head(output, tag, take);
        socket.write_all(output).await?;
        output.clear();
        let at = (length - left) % (memory.len() - FRAME_MAX);
        socket.write_all(&memory[at..at + take]).await?;
        left -= take;
    }
    Ok(())
}

/// The next request's kind, tag, offset and length, once they are there. A length over the largest frame is taken
/// for the largest, but for streams: the client is this crate's own.
fn header(input: &[u8]) -> Option<(u8, u64, usize, usize)> {
    let mut input = input.get(..REQUEST)?;
    let (kind, tag, offset, length) = (input.get_u8(), input.get_u64_le(), input.get_u64_le(), input.get_u64_le());
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let length = if kind == STREAM { length } else { length.min(FRAME_MAX) };
    Some((kind, tag, usize::try_from(offset).unwrap_or(0), length))
}

fn head(output: &mut BytesMut, tag: u64, length: usize) {
    output.put_u64_le(tag);
    output.put_u64_le(length as u64);
}

/// A client on one connection.
pub struct Client(Box<dyn Socket>);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// Connects to `127.0.0.1:PORT` or `unix:/path`.
///
/// # Errors
/// Nobody answers there.
pub async fn dial(address: &str) -> io::Result<Box<dyn Socket>> {
    if let Some(path) = address.strip_prefix("unix:") {
        return Ok(Box::new(UnixStream::connect(path).await?));
    }
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn connect(address: &str) -> Result<Self, String> {
        dial(address).await.map(Self).map_err(|error| format!("{address}: {error}"))
    }

    /// Reads or writes of 4 KiB with `in_flight` under way until `end`: how many were done.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn small(&mut self, is_write: bool, in_flight: u64, end: Instant) -> Result<f64, String> {
        self.pump(is_write, in_flight, end).await.map_err(|error| error.to_string())
    }

    async fn pump(&mut self, is_write: bool, in_flight: u64, end: Instant) -> io::Result<f64> {
        const LENGTH: usize = 4096;
        let data = [3u8; LENGTH];
        let (mut input, mut output) = (BytesMut::with_capacity(1 << 20), BytesMut::with_capacity(1 << 20));
        let (mut sent, mut done) = (0, 0);
        let (kind, answer) = if is_write { (WRITE, ANSWER) } else { (READ, ANSWER + LENGTH) };
        loop {
            let is_over = Instant::now() >= end;
            while !is_over && sent - done < in_flight {
                request(&mut output, kind, sent, sent * 4096, LENGTH as u64);
                if is_write {
                    output.put_slice(&data);
                }
                sent += 1;
            }
            if sent == done {
                return Ok(f64::from(u32::try_from(done).unwrap_or(u32::MAX)));
            }
            self.0.write_all(&output).await?;
            output.clear();
            input.reserve(64 * (ANSWER + LENGTH));
            if self.0.read_buf(&mut input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            while input.len() >= answer {
                input.advance(answer);
                done += 1;
            }
        }
    }

    /// Reads `length` bytes as one stream of frames.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn read_stream(&mut self, length: u64) -> Result<(), String> {
        self.take(length).await.map_err(|error| error.to_string())
    }

    async fn take(&mut self, length: u64) -> io::Result<()> {
        let mut output = BytesMut::new();
        request(&mut output, STREAM, 0, 0, length);
        self.0.write_all(&output).await?;
        let (mut left, mut head, mut data) = (length, [0; ANSWER], vec![0; FRAME_MAX]);
        while left > 0 {
            self.0.read_exact(&mut head).await?;
            let frame = (&head[8..]).get_u64_le();
            let end = usize::try_from(frame).unwrap_or(FRAME_MAX).min(FRAME_MAX);
            self.0.read_exact(&mut data[..end]).await?;
            left = left.saturating_sub(frame);
        }
        Ok(())
    }

    /// Writes `length` bytes as frames of 1 MiB, and waits for all answers.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn write_stream(&mut self, length: u64) -> Result<(), String> {
        self.give(length).await.map_err(|error| error.to_string())
    }

    async fn give(&mut self, length: u64) -> io::Result<()> {
        let (data, frames) = (vec![3u8; FRAME_MAX], length / FRAME_MAX as u64);
        let (mut from, mut to) = tokio::io::split(&mut self.0);
        let writing = async {
            let mut output = BytesMut::new();
            for number in 0..frames {
                request(&mut output, WRITE, number, number * FRAME_MAX as u64, FRAME_MAX as u64);
                to.write_all(&output).await?;
                output.clear();
                to.write_all(&data).await?;
            }
            Ok(())
        };
        // Read meanwhile: a unix socket's buffer is full of far fewer small answers than its bytes say, and then
        // neither side would go on.
        let mut answers = vec![0; ANSWER * usize::try_from(frames).unwrap_or(0)];
        tokio::try_join!(writing, from.read_exact(&mut answers)).map(|_| ())
    }
}

fn request(output: &mut BytesMut, kind: u8, tag: u64, offset: u64, length: u64) {
    output.put_u8(kind);
    output.put_u64_le(tag);
    output.put_u64_le(offset);
    output.put_u64_le(length);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn pair() -> Client {
        let (near, far) = tokio::io::duplex(64 << 10);
        tokio::spawn(answer(Box::new(far)));
        Client(Box::new(near))
    }

    #[tokio::test]
    async fn small_reads_and_writes_are_all_answered() {
        let mut client = pair().await;
        for is_write in [false, true] {
            let done = client.small(is_write, 16, Instant::now() + Duration::from_millis(50)).await;
            assert!(done.expect("the peer answers") >= 16.0);
        }
    }

    #[tokio::test]
    async fn a_stream_of_writes_comes_to_its_end_where_the_answers_do_not_fit_into_the_socket() {
        let (near, far) = tokio::io::duplex(3 * ANSWER);
        tokio::spawn(answer(Box::new(far)));
        let writing = async { Client(Box::new(near)).write_stream(8 * FRAME_MAX as u64).await };
        tokio::time::timeout(Duration::from_secs(60), writing).await.expect("no deadlock").expect("the peer takes it");
    }

    #[tokio::test]
    async fn streams_carry_what_was_asked_for() {
        let mut client = pair().await;
        client.read_stream(3 * FRAME_MAX as u64 + 5).await.expect("the peer streams");
        client.write_stream(3 * FRAME_MAX as u64).await.expect("the peer takes it");
        let done = client.small(false, 1, Instant::now() + Duration::from_millis(10)).await;
        assert!(done.expect("nothing of the streams is left on the connection") >= 1.0);
    }
}
