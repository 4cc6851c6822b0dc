//! What the `OTEL_*` variables say, read as
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/> has it: an empty variable is none, only
//! `true` is true, and a value that cannot be heeded is told and counts as none. One thing differs: without a collector's
//! address nothing is sent, unless an exporter was asked for by name.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use url::Url;
use uuid::Uuid;

/// Looks a variable of the environment up.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where one kind of telemetry goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The collector's address.
    pub endpoint: Url,
    /// Headers, which may be secret.
    pub headers: BTreeMap<String, String>,
    /// How long it may take to send.
    pub timeout: Duration,
}

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// A trace that goes on goes on as it began.
    pub parent_based: bool,
    /// The share of traces that begin here.
    pub ratio: f64,
}

/// What the variables say.
#[derive(Clone, Debug)]
pub struct Otel {
    /// Where spans go; none: nowhere.
    pub traces: Option<Target>,
    /// Which of them.
    pub sampling: Sampling,
    /// Where metrics go; none: nowhere.
    pub metrics: Option<Target>,
    /// How often.
    pub interval: Duration,
    /// Whether those who are called are told of the trace.
    pub propagate: bool,
    /// What describes this process, without a name that nobody gave it.
    pub resource: BTreeMap<String, String>,
    /// What could not be heeded: a sentence each, with a hint.
    pub complaints: Vec<String>,
}

const DEFAULT_ENDPOINT: &str = "http://localhost:4318";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// Numbers that the SDK reads itself, and passes over in silence when they are none.
const NUMBERS: [&str; 7] = [
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
];

impl Otel {
    /// Reads them.
    pub fn read(lookup: Lookup<'_>) -> Self {
        let mut reader = Reader { lookup, complaints: Vec::new() };
        let disabled = reader.disabled();
        let traces = reader.target("TRACES", &[]).filter(|_| !disabled);
        // Prometheus comes for them itself.
        let metrics = reader.target("METRICS", &["prometheus"]).filter(|_| !disabled);
        let sampling = reader.sampling();
        let interval = reader.millis(&["OTEL_METRIC_EXPORT_INTERVAL"]).unwrap_or(DEFAULT_INTERVAL);
        if traces.is_some() {
            for name in NUMBERS {
                reader.number::<u32>(name);
            }
        }
        if metrics.is_some() {
            reader.temporality();
        }
        let propagate = reader.propagate();
        let resource = reader.resource();
        let complaints = if disabled { Vec::new() } else { reader.complaints };
        Self { traces, sampling, metrics, interval, propagate, resource, complaints }
    }
}

struct Reader<'a> {
    lookup: Lookup<'a>,
    complaints: Vec<String>,
}

impl Reader<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// The first of them that is set.
    fn first(&self, names: &[&str]) -> Option<(String, String)> {
        names.iter().find_map(|name| Some(((*name).to_owned(), self.get(name)?)))
    }

    fn complain(&mut self, name: &str, value: impl Display, why: impl Display) {
        self.say(format!("{name} is `{value}`: {why}."));
    }

    /// Once, though it is about both signals.
    fn say(&mut self, complaint: String) {
        if !self.complaints.contains(&complaint) {
            self.complaints.push(complaint);
        }
    }

    fn disabled(&mut self) -> bool {
        const NAME: &str = "OTEL_SDK_DISABLED";
        let Some(value) = self.get(NAME) else { return false };
        if !value.eq_ignore_ascii_case("true") && !value.eq_ignore_ascii_case("false") {
            self.complain(
                NAME,
                &value,
                "only `true` disables telemetry, so it goes on; write `true` or `false`",
            );
        }
        value.eq_ignore_ascii_case("true")
    }

    /// Where a signal goes; none: nowhere.
    fn target(&mut self, signal: &str, elsewhere: &[&str]) -> Option<Target> {
        let own = |what: &str| format!("OTEL_EXPORTER_OTLP_{signal}_{what}");
        let general = |what: &str| format!("OTEL_EXPORTER_OTLP_{what}");
        let asked_for = self.exporter(&format!("OTEL_{signal}_EXPORTER"), elsewhere);
        if asked_for == Some(false) {
            return None;
        }
        let (named, path) = match self.first(&[&own("ENDPOINT")]) {
            Some(named) => (named, String::new()),
            None => {
                let path = format!("/v1/{}", signal.to_ascii_lowercase());
                let named = self
                    .first(&[&general("ENDPOINT")])
                    .or_else(|| asked_for.map(|_| (general("ENDPOINT"), DEFAULT_ENDPOINT.to_owned())))?;
                (named, path)
            }
        };
        let (name, value) = named;
        let base = if path.is_empty() { value.as_str() } else { value.trim_end_matches('/') };
        let endpoint = Url::parse(&format!("{base}{path}")).ok();
        let Some(endpoint) = endpoint.filter(|url| matches!(url.scheme(), "http" | "https")) else {
            let signal = signal.to_ascii_lowercase();
            self.complain(
                &name,
                &value,
                format!("no {signal} are sent; write the collector's URL, such as `http://collector:4318`"),
            );
            return None;
        };
        if let Some((name, value)) = self.first(&[&own("PROTOCOL"), &general("PROTOCOL")])
            && !value.eq_ignore_ascii_case("http/protobuf")
        {
            self.complain(
                &name,
                &value,
                "only `http/protobuf` is spoken here, and is sent; collectors take it at a port of its own, mostly 4318",
            );
        }
        if let Some((name, value)) = self.first(&[&own("COMPRESSION"), &general("COMPRESSION")])
            && !value.eq_ignore_ascii_case("none")
        {
            self.complain(&name, &value, "nothing is compressed here; leave it out");
        }
        for what in ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"] {
            if let Some((name, value)) = self.first(&[&own(what), &general(what)]) {
                self.complain(&name, &value, "it is not read here; the system's authorities are trusted");
            }
        }
        let headers = self.first(&[&own("HEADERS"), &general("HEADERS")]);
        let headers = headers.map(|(name, value)| self.headers(&name, &value)).unwrap_or_default();
        let mut timeout = self.millis(&[&own("TIMEOUT"), &general("TIMEOUT")]).unwrap_or(DEFAULT_TIMEOUT);
        if signal == "METRICS"
            && let Some(whole) = self.millis(&["OTEL_METRIC_EXPORT_TIMEOUT"])
        {
            timeout = timeout.min(whole);
        }
        Some(Target { endpoint, headers, timeout })
    }

    /// Whether OTLP is among the exporters that were asked for; none: nobody asked.
    fn exporter(&mut self, name: &str, elsewhere: &[&str]) -> Option<bool> {
        let value = self.get(name)?;
        let mut asked_for = None;
        for word in value.split(',').map(|word| word.trim().to_ascii_lowercase()) {
            match word.as_str() {
                "otlp" => asked_for = Some(true),
                "none" => asked_for = asked_for.or(Some(false)),
                word if elsewhere.contains(&word) => asked_for = asked_for.or(Some(false)),
                word => self.complain(name, word, "there are `otlp` and `none` here; it is passed over"),
            }
        }
        asked_for
    }

    /// Values are percent-encoded. What is wrong is not shown: it may be secret.
    fn headers(&mut self, name: &str, value: &str) -> BTreeMap<String, String> {
        let mut headers = BTreeMap::new();
        for (index, entry) in value.split(',').enumerate().filter(|(_, entry)| !entry.trim().is_empty()) {
            match pair(entry).filter(|(name, value)| can_be_sent(name, value)) {
                Some((name, value)) => {
                    headers.insert(name.to_ascii_lowercase(), value);
                }
                None => self.say(format!(
                    "{name}: entry {} is not a header, and is left out; write `name=value,name=value`, values percent-encoded.",
                    index + 1
                )),
            }
        }
        headers
    }

    fn sampling(&mut self) -> Sampling {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        let default = Sampling { parent_based: true, ratio: 1.0 };
        let Some(value) = self.get(NAME) else { return default };
        let word = value.to_ascii_lowercase();
        let (parent_based, kind) = match word.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, word.as_str()),
        };
        let ratio = match kind {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => self.ratio(),
            _ => {
                self.complain(
                    NAME,
                    &value,
                    "there are always_on, always_off and traceidratio here, each also with `parentbased_` before it; \
                     parentbased_always_on is taken",
                );
                return default;
            }
        };
        Sampling { parent_based, ratio }
    }

    fn ratio(&mut self) -> f64 {
        const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(value) = self.get(NAME) else { return 1.0 };
        match value.trim().parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
            _ => {
                self.complain(
                    NAME,
                    &value,
                    "it is a share from 0 to 1, such as `0.01`; all traces are taken",
                );
                1.0
            }
        }
    }

    fn propagate(&mut self) -> bool {
        const NAME: &str = "OTEL_PROPAGATORS";
        let Some(value) = self.get(NAME) else { return true };
        let mut known = None;
        for word in value.split(',').map(|word| word.trim().to_ascii_lowercase()) {
            match word.as_str() {
                "tracecontext" => known = Some(true),
                // There is no baggage here to carry.
                "none" | "baggage" => known = known.or(Some(false)),
                word => {
                    self.complain(NAME, word, "there are `tracecontext` and `none` here; it is passed over")
                }
            }
        }
        known.unwrap_or(true)
    }

    fn resource(&mut self) -> BTreeMap<String, String> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let given = self.get(NAME).unwrap_or_default();
        let pairs: Option<BTreeMap<String, String>> =
            given.split(',').filter(|entry| !entry.trim().is_empty()).map(pair).collect();
        let mut resource = pairs.unwrap_or_else(|| {
            self.complain(
                NAME,
                &given,
                "it is left out whole; write `name=value,name=value`, values percent-encoded",
            );
            BTreeMap::new()
        });
        if let Some(service) = self.get("OTEL_SERVICE_NAME") {
            resource.insert("service.name".into(), service);
        }
        resource
    }

    fn temporality(&mut self) {
        const NAME: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        if let Some(value) = self.get(NAME).filter(|value| !value.eq_ignore_ascii_case("cumulative")) {
            self.complain(NAME, value, "metrics are cumulative here");
        }
    }

    fn number<N: FromStr>(&mut self, name: &str) -> Option<N> {
        let value = self.get(name)?;
        let number = value.trim().parse().ok();
        if number.is_none() {
            self.complain(name, &value, "it is a whole number; the default is taken");
        }
        number
    }

    /// Milliseconds from the first of the variables that is set.
    fn millis(&mut self, names: &[&str]) -> Option<Duration> {
        let (name, value) = self.first(names)?;
        match value.trim().parse::<u64>() {
            Ok(millis) if millis > 0 => Some(Duration::from_millis(millis)),
            _ => {
                self.complain(
                    &name,
                    &value,
                    "it is a number of milliseconds, at least 1; the default is taken",
                );
                None
            }
        }
    }
}

/// `name=value` with a percent-encoded value.
fn pair(entry: &str) -> Option<(String, String)> {
    let (name, value) = entry.split_once('=')?;
    let name = name.trim();
    Some((name.to_owned(), percent_decoded(value.trim())?)).filter(|_| !name.is_empty())
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let (digits, behind) = after.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = behind;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

fn can_be_sent(name: &str, value: &str) -> bool {
    use reqwest::header::{HeaderName, HeaderValue};
    HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
}

/// What describes a process in all that it sends: what the variables say, and what they leave open.
pub fn resource(given: &BTreeMap<String, String>, service: &str, instance: Uuid) -> BTreeMap<String, String> {
    let mut resource = BTreeMap::from([
        ("service.name".to_owned(), service.to_owned()),
        ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        // Without it the counters of two workers would be taken for those of one.
        ("service.instance.id".to_owned(), instance.to_string()),
    ]);
    resource.extend(given.iter().map(|(name, value)| (name.clone(), value.clone())));
    resource
}

#[cfg(test)]
mod tests;
