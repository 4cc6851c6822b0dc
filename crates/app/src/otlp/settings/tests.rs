use super::*;

const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

fn read(variables: &[(&str, &str)]) -> Otel {
    let lookup =
        |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
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
    let variables =
        [COLLECTOR, ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20s3cret, x-tenant = a ,s3cret")];
    let read_one = read(&variables);
    let headers = read_one.traces.expect("a target").headers;
    let expected = [("authorization", "Bearer s3cret"), ("x-tenant", "a")];
    assert!(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected));
    assert!(read_one.complaints[0].contains("entry 3"), "{:?}", read_one.complaints);
    assert!(!read_one.complaints.concat().contains("s3cret"));
    let own = read(&[variables[0], variables[1], ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "a=%zz")]);
    assert_eq!(own.metrics.expect("a target").headers, BTreeMap::new(), "its own stand in the others' place");
}

#[test]
fn a_protocol_that_is_not_spoken_is_told() {
    for (value, complaints) in [("http/protobuf", 0), ("HTTP/Protobuf", 0), ("grpc", 1), ("http/json", 1)] {
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
