//! An HTTP proxy in front of an S3 server that does to chosen requests what networks and stores do.
//!
//! A rule holds for one object and one kind of request, so that many cases run at once. Each exchange is a
//! connection of its own. All of it ends with its handle.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A peer that is silent for this long is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a request that is left hanging looks whether it is over.
const POLL: Duration = Duration::from_millis(50);

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Head,
    Get,
    Put,
    Delete,
    StartUpload,
    PutPart,
    Complete,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is answered with this status and has no effect.
    Status(u16),
    /// The connection is cut before the store has seen it.
    Cut,
    /// It takes effect, and the connection is cut instead of an answer.
    LostReply,
    /// It takes effect, and the connection is cut in the middle of the answer.
    ShortAnswer,
    /// It is never answered.
    Hang,
    /// Somebody else's object is there right before it.
    Intrusion,
}

#[derive(Debug)]
struct Rule {
    kind: Kind,
    fault: Fault,
    left: usize,
    hits: usize,
}

#[derive(Debug, Default)]
struct State {
    rules: HashMap<String, Rule>,
    over: bool,
}

/// The proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// In front of `endpoint`, `http://HOST:PORT`.
    pub(crate) fn start(endpoint: &str) -> Self {
        let upstream: SocketAddr = endpoint.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let mut exchanges: Vec<JoinHandle<()>> = Vec::new();
            for stream in listener.incoming().flatten() {
                if shared.lock().unwrap().over {
                    break;
                }
                let state = Arc::clone(&shared);
                exchanges.retain(|exchange| !exchange.is_finished());
                // A peer that goes away in the middle ends its own exchange only.
                exchanges.push(std::thread::spawn(move || drop(exchange(&stream, upstream, &state))));
            }
            exchanges.into_iter().for_each(|exchange| exchange.join().unwrap());
        });
        Self { addr, state, thread: Some(thread) }
    }

    /// Where it serves.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Does `fault` to the next `times` requests of `kind` for the object `key`.
    pub(crate) fn set(&self, key: &str, kind: Kind, fault: Fault, times: usize) {
        let rule = Rule { kind, fault, left: times, hits: 0 };
        self.state.lock().unwrap().rules.insert(key.to_owned(), rule);
    }

    /// Lets the object's requests through again; how many met the fault.
    pub(crate) fn clear(&self, key: &str) -> usize {
        self.state.lock().unwrap().rules.remove(key).map_or(0, |rule| rule.hits)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.lock().unwrap().over = true;
        // Wakes the thread up, so that it sees that it is over.
        drop(TcpStream::connect(self.addr));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Received {
    line: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Received {
    fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// The object's key: what follows the last `/`.
    fn key(&self) -> &str {
        let path = self.target().split('?').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }

    fn kind(&self) -> Option<Kind> {
        let query = self.target().split_once('?').map_or("", |(_, query)| query);
        let upload = query.contains("uploadId=");
        match self.line.split(' ').next()? {
            "HEAD" => Some(Kind::Head),
            "GET" if !query.contains("list-type") => Some(Kind::Get),
            "PUT" if upload => Some(Kind::PutPart),
            "PUT" => Some(Kind::Put),
            "DELETE" if !upload => Some(Kind::Delete),
            "POST" if upload => Some(Kind::Complete),
            "POST" if query.contains("uploads") => Some(Kind::StartUpload),
            _ => None,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&String| line.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name));
        self.headers.iter().find(named)?.split_once(':').map(|(_, value)| value.trim())
    }
}

fn exchange(stream: &TcpStream, upstream: SocketAddr, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let request = receive(stream)?;
    let fault = fault_of(&request, state);
    let mut writer = stream;
    match fault {
        None => writer.write_all(&forward(&request, upstream)?),
        Some(Fault::Status(status)) => writer.write_all(&refusal(&request, status)),
        Some(Fault::Cut) => stream.shutdown(Shutdown::Both),
        Some(Fault::LostReply) => {
            forward(&request, upstream)?;
            stream.shutdown(Shutdown::Both)
        }
        Some(Fault::ShortAnswer) => {
            let answer = forward(&request, upstream)?;
            let head = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
            let body = answer.len() - head;
            let end = if body == 0 { head / 2 } else { head + body / 2 };
            writer.write_all(&answer[..end])
        }
        Some(Fault::Hang) => {
            while !state.lock().unwrap().over && state.lock().unwrap().rules.contains_key(request.key()) {
                std::thread::sleep(POLL);
            }
            Ok(())
        }
        Some(Fault::Intrusion) => {
            let path = request.target().split('?').next().unwrap_or_default();
            let (line, headers) = (format!("PUT {path} HTTP/1.1"), vec!["Host: store".to_owned()]);
            forward(&Received { line, headers, body: b"theirs".to_vec() }, upstream)?;
            // moto knows If-None-Match here and, unlike S3, no If-Match. Theirs is another version than any.
            match request.header("If-Match") {
                Some(_) => writer.write_all(&refusal(&request, 412)),
                None => writer.write_all(&forward(&request, upstream)?),
            }
        }
    }
}

fn fault_of(request: &Received, state: &Mutex<State>) -> Option<Fault> {
    let kind = request.kind()?;
    let mut state = state.lock().unwrap();
    let rule = state.rules.get_mut(request.key())?;
    if rule.kind != kind || rule.left == 0 {
        return None;
    }
    rule.left -= 1;
    rule.hits += 1;
    Some(rule.fault)
}

fn receive(stream: &TcpStream) -> std::io::Result<Received> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut request = Received { line: lines.remove(0), headers: lines, body: Vec::new() };
    let length: usize = request.header("Content-Length").and_then(|length| length.parse().ok()).unwrap_or_default();
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    Ok(request)
}

fn forward(request: &Received, upstream: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let own = ["connection", "expect", "content-length"];
    let mut head = format!("{}\r\n", request.line);
    for header in &request.headers {
        if !own.contains(&header.split(':').next().unwrap_or_default().to_ascii_lowercase().as_str()) {
            head += &format!("{header}\r\n");
        }
    }
    head += &format!("Content-Length: {}\r\nConnection: close\r\n\r\n", request.body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(&request.body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn refusal(request: &Received, status: u16) -> Vec<u8> {
    let body = match request.line.starts_with("HEAD") {
        true => String::new(),
        false => format!("<Error><Code>Injected</Code><Message>{status} on purpose</Message></Error>"),
    };
    let length = body.len();
    format!("HTTP/1.1 {status} Injected\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}
