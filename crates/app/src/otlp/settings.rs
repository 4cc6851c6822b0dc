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
mod tests {
    use super::*;

    const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    fn read(variables: &[(&str, &str)]) -> Otel {
        let lookup = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Otel::read(&lookup)
    }

    /// Whether traces and metrics are sent.
    fn sent(variables: &[(&str, &str)]) -> (bool, bool) {
        let read = read(&[&[COLLECTOR], variables].concat());
        (read.traces.is_some(), read.metrics.is_some())
    }

    #[test]
    fn nothing_is_sent_without_a_collector_and_nothing_is_complained_of() {
        let read = read(&[]);
        assert!(read.traces.is_none() && read.metrics.is_none() && read.propagate);
        assert_eq!(read.complaints, [""; 0]);
    }

    #[test]
    fn only_true_disables() {
        for value in ["true", "TRUE", "True"] {
            assert_eq!(sent(&[("OTEL_SDK_DISABLED", value)]), (false, false), "{value}");
        }
        for value in ["false", "", "False", "1", "yes"] {
            assert_eq!(sent(&[("OTEL_SDK_DISABLED", value)]), (true, true), "{value}");
        }
        let told = read(&[COLLECTOR, ("OTEL_SDK_DISABLED", "yes")]).complaints;
        assert_eq!(
            told,
            [
                "OTEL_SDK_DISABLED is `yes`: only `true` disables telemetry, so it goes on; write `true` or `false`."
            ]
        );
    }

    #[test]
    fn an_exporter_that_is_none_sends_nothing_of_its_kind() {
        assert_eq!(sent(&[("OTEL_TRACES_EXPORTER", "none")]), (false, true));
        assert_eq!(sent(&[("OTEL_METRICS_EXPORTER", "None")]), (true, false));
        assert_eq!(sent(&[("OTEL_METRICS_EXPORTER", "prometheus")]), (true, false));
        assert_eq!(sent(&[("OTEL_METRICS_EXPORTER", "prometheus, otlp")]), (true, true));
        assert_eq!(sent(&[("OTEL_TRACES_EXPORTER", "")]), (true, true));
        let unknown = read(&[COLLECTOR, ("OTEL_TRACES_EXPORTER", "zipkin")]);
        assert!(unknown.traces.is_some());
        assert_eq!(unknown.complaints.len(), 1);
        let asked_for = read(&[("OTEL_TRACES_EXPORTER", "otlp")]);
        let target = asked_for.traces.expect("it was asked for");
        assert_eq!(target.endpoint.as_str(), "http://localhost:4318/v1/traces");
        assert!(asked_for.metrics.is_none());
    }

    #[test]
    fn an_endpoint_is_the_collector_s_or_the_signal_s_own() {
        let to = |variables: &[(&str, &str)]| {
            let read = read(variables);
            let of = |target: Option<Target>| target.map(|target| target.endpoint.to_string());
            (of(read.traces), of(read.metrics))
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            to(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a.example/otel/")]),
            (text("https://a.example/otel/v1/traces"), text("https://a.example/otel/v1/metrics"))
        );
        assert_eq!(
            to(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a.example:4318/x")]),
            (text("http://a.example:4318/x"), None)
        );
        for bad in ["collector:4317", "not a URL", "grpc://collector:4317"] {
            let read = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", bad)]);
            assert!(read.traces.is_none() && read.metrics.is_none(), "{bad}");
            assert!(read.complaints[0].contains("no traces are sent"), "{:?}", read.complaints);
            assert!(read.complaints[1].contains("no metrics are sent"), "{:?}", read.complaints);
        }
    }

    #[test]
    fn headers_are_decoded_and_what_is_none_is_told_without_its_value() {
        let variables = [
            COLLECTOR,
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20s3cret, x-tenant = a ,s3cret"),
        ];
        let read_one = read(&variables);
        let headers = read_one.traces.expect("a target").headers;
        let expected = [("authorization", "Bearer s3cret"), ("x-tenant", "a")];
        assert!(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected));
        assert!(read_one.complaints[0].contains("entry 3"), "{:?}", read_one.complaints);
        assert!(!read_one.complaints.concat().contains("s3cret"));
        let own = read(&[variables[0], variables[1], ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "a=%zz")]);
        assert_eq!(
            own.metrics.expect("a target").headers,
            BTreeMap::new(),
            "its own stand in the others' place"
        );
    }

    #[test]
    fn a_protocol_that_is_not_spoken_is_told() {
        for (value, complaints) in [("http/protobuf", 0), ("HTTP/Protobuf", 0), ("grpc", 1), ("http/json", 1)]
        {
            let told = read(&[COLLECTOR, ("OTEL_EXPORTER_OTLP_PROTOCOL", value)]).complaints;
            assert_eq!(told.len(), complaints, "{value}: {told:?}");
        }
        let own = read(&[
            COLLECTOR,
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
        ]);
        assert_eq!(own.complaints.len(), 1, "{:?}", own.complaints);
    }

    #[test]
    fn samplers_are_those_of_the_specification() {
        let sampling = |name: &str, argument: &str| {
            let read = read(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)]);
            ((read.sampling.parent_based, read.sampling.ratio), read.complaints.len())
        };
        assert_eq!(sampling("", ""), ((true, 1.0), 0));
        assert_eq!(sampling("always_on", "0.5"), ((false, 1.0), 0));
        assert_eq!(sampling("parentbased_always_off", ""), ((true, 0.0), 0));
        assert_eq!(sampling("TraceIdRatio", "0.25"), ((false, 0.25), 0));
        assert_eq!(sampling("parentbased_traceidratio", ""), ((true, 1.0), 0));
        for bad in ["1.5", "-1", "NaN", "a tenth"] {
            assert_eq!(sampling("parentbased_traceidratio", bad), ((true, 1.0), 1), "{bad}");
        }
        assert_eq!(sampling("jaeger_remote", ""), ((true, 1.0), 1));
    }

    #[test]
    fn a_name_that_was_given_is_kept_and_others_are_made() {
        let described = |variables: &[(&str, &str)]| {
            let read = read(variables);
            let resource = resource(&read.resource, "penstock-worker", Uuid::nil());
            (resource["service.name"].clone(), resource.get("region").cloned(), read.complaints.len())
        };
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=theirs,region=north%20east");
        assert_eq!(described(&[]), ("penstock-worker".into(), None, 0));
        assert_eq!(described(&[attributes]), ("theirs".into(), Some("north east".into()), 0));
        assert_eq!(described(&[attributes, ("OTEL_SERVICE_NAME", "mine")]).0, "mine");
        assert_eq!(described(&[("OTEL_SERVICE_NAME", "")]).0, "penstock-worker");
        let broken = ("OTEL_RESOURCE_ATTRIBUTES", "region=north,what");
        assert_eq!(described(&[broken]), ("penstock-worker".into(), None, 1));
    }

    #[test]
    fn the_downstream_is_told_unless_propagation_is_switched_off() {
        for (value, told, complaints) in [
            ("", true, 0),
            ("tracecontext,baggage", true, 0),
            ("none", false, 0),
            ("baggage", false, 0),
            ("b3,tracecontext", true, 1),
            ("b3", true, 1),
        ] {
            let read = read(&[("OTEL_PROPAGATORS", value)]);
            assert_eq!((read.propagate, read.complaints.len()), (told, complaints), "{value}");
        }
    }

    #[test]
    fn numbers_that_are_none_are_told() {
        let told = read(&[
            COLLECTOR,
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "2000"),
            ("OTEL_METRIC_EXPORT_TIMEOUT", "1000"),
        ]);
        assert_eq!(told.complaints.len(), 3, "{:?}", told.complaints);
        assert_eq!(told.interval, DEFAULT_INTERVAL);
        assert_eq!(told.traces.expect("a target").timeout, DEFAULT_TIMEOUT);
        assert_eq!(told.metrics.expect("a target").timeout, Duration::from_secs(1));
    }
}
