//! How the log's lines look: [`Human`] and [`Json`]. Both tell the trace that a line belongs to, where there is one.
//!
//! An event that names its `trace_id` itself is not given another one: it is told from outside of its call's span.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::ids::Ids;

const MESSAGE: &str = "message";
const TRACE_ID: &str = "trace_id";
const SPAN_ID: &str = "span_id";

/// Lines for people.
pub(super) struct Human(Format<Full, SystemTime>);

impl Human {
    /// With colours, if `ansi`.
    pub(super) fn new(ansi: bool) -> Self {
        Self(Format::default().with_ansi(ansi))
    }
}

impl<S, N> FormatEvent<S, N> for Human
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(ids) = Ids::current().filter(|_| event.metadata().fields().field(TRACE_ID).is_none()) else {
            return self.0.format_event(cx, out, event);
        };
        let mut line = String::new();
        self.0.format_event(cx, Writer::new(&mut line), event)?;
        writeln!(out, "{} {ids}", line.trim_end_matches('\n'))
    }
}

/// An object a line.
pub(super) struct Json;

#[derive(Debug, Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'a str,
    target: &'a str,
    message: String,
    #[serde(skip_serializing_if = "Map::is_empty")]
    fields: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields { message, mut others } = fields;
        let mut own = |name| others.remove(name).and_then(|id| id.as_str().map(str::to_owned));
        let (trace_id, span_id) = match (own(TRACE_ID), own(SPAN_ID)) {
            (None, None) => Ids::current().map(|ids| (ids.trace, ids.span)).unzip(),
            named => named,
        };
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let metadata = event.metadata();
        let (level, target) = (metadata.level().as_str(), metadata.target());
        let line = Line { timestamp, level, target, message, fields: others, trace_id, span_id };
        // Strings, numbers and maps of them: there is nothing that JSON could not say.
        let line = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(out, "{line}")
    }
}

/// What an event says.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.others.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            MESSAGE => value.clone_into(&mut self.message),
            _ => self.put(field, value.into()),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_of_json_holds_what_the_event_says() {
        let lines = Lines::default();
        let log = tracing_subscriber::fmt().event_format(Json).with_writer(lines.clone()).finish();
        tracing::subscriber::with_default(log, || {
            let (path, trace_id) = ("/a \"b\"\n", "4bf9");
            tracing::warn!(path, bytes = 7_u64, part = 0.5, on = true, trace_id, "{path} is away");
            tracing::info!("bare");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["message"], "/a \"b\"\n is away");
        assert_eq!(lines[0]["fields"], serde_json::json!({"path": "/a \"b\"\n", "bytes": 7, "part": 0.5, "on": true}));
        assert_eq!((&lines[0]["level"], &lines[0]["trace_id"]), (&"WARN".into(), &"4bf9".into()));
        assert_eq!(lines[0]["target"], module_path!());
        assert!(lines[0]["timestamp"].as_str().is_some_and(|time| time.ends_with('Z') && time.contains('T')));
        assert!(lines[1].get("fields").is_none() && lines[1].get("trace_id").is_none(), "{text}");
    }
}
