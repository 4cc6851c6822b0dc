//! Lines of reports that are uploaded again: what their `_ref` says of them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;

use penstock_domain::csv::{
    Column, ColumnTag, Event, HeaderMap, Limits, Parser, ReferenceReader, Refused, RowOrigin, RowReference,
    Schema, Unfinished, Validator, column_tag, values_digest,
};
use penstock_domain::effect::Effect;
use penstock_domain::ids::BatchId;
use uuid::Uuid;

use crate::common::{Untagged, judge};

fn schema() -> Schema {
    Schema { columns: ["a", "b"].map(Column::named).into(), ..Schema::default() }
}

/// What a report of one row says of it, and what an upload of its line makes of that.
#[test]
fn an_unchanged_line_keeps_its_row_and_what_may_have_been_done_is_not_repeated() {
    let columns = schema;
    let batch = BatchId(Uuid::from_u128(9));
    let origin = |effect| RowOrigin { batch, row: 5, effect };
    let reference = |effect| {
        let values = values_digest(origin(effect), [("a", "=1"), ("b", "2")]);
        let unfinished = Some(Unfinished { effect, values, pipeline: None });
        let protected = vec![column_tag("a")];
        Untagged::write(&RowReference { batch, row: 5, protected, unfinished })
    };
    let stored = |file: &str, header: &HeaderMap| {
        let mut parser = Parser::new(Limits::NONE);
        let mut stored = Vec::new();
        let mut take = |event: Event<'_>| {
            let Event::Record(record) = event else { panic!("{event:?}") };
            stored.clear();
            header.payload(&record, &Untagged, &mut stored);
            ControlFlow::Continue(())
        };
        parser.push(file.as_bytes(), &mut take).and_then(|()| parser.finish(&mut take)).unwrap();
        stored
    };
    for (effect, same, changed) in [
        (Effect::None, None, None),
        (Effect::Keyed, None, Some("changed_after_effect")),
        (Effect::Unkeyed, Some("effect_without_key"), Some("effect_without_key")),
    ] {
        let written = reference(effect);
        for (file, refused, kept) in [
            (format!("a,b,_ref\n'=1,2,{written}\n"), same, true),
            // In another order, and with another column that a report had.
            (format!("_code,b,_ref,a\nx,2,{written},\"'=1\"\n"), same, true),
            (format!("a,b,_ref\n'=1,3,{written}\n"), changed, false),
        ] {
            let judged = judge(columns(), file.as_bytes());
            let Some(code) = refused else {
                let header = judged.unwrap().header;
                let payload = stored(&file, &header);
                assert_eq!(header.origin(&payload).unwrap(), kept.then(|| origin(effect)), "{file}");
                assert_eq!(header.values(&payload, &columns()).unwrap()["a"], "=1");
                let shown = header.report_cells(&payload).unwrap();
                assert_eq!(shown.protected.len(), 1);
                let values = values_digest(origin(effect), [("a", "=1"), ("b", "2")]);
                assert_eq!(header.digest(&payload, origin(effect)).unwrap() == values, kept, "{file}");
                continue;
            };
            assert_eq!(judged.unwrap_err(), [format!("2 _ref {code}")], "{file}");
        }
    }
    // A row that completed is a new one.
    let completed = Untagged::write(&RowReference { batch, row: 5, protected: Vec::new(), unfinished: None });
    let file = format!("a,b,_ref\n1,2,{completed}\n");
    let header = judge(columns(), file.as_bytes()).unwrap().header;
    assert_eq!(header.origin(&stored(&file, &header)).unwrap(), None);
}

/// The reports of a pipeline.
#[derive(Debug)]
struct Of(&'static str);

impl ReferenceReader for Of {
    fn read(&self, text: &str) -> Option<RowReference> {
        Untagged.read(text)
    }

    fn pipeline(&self) -> Option<ColumnTag> {
        Some(column_tag(self.0))
    }
}

#[test]
fn a_failed_line_goes_back_to_its_own_pipeline_only() {
    let codes = |unfinished: bool, pipeline: &'static str| -> Vec<&'static str> {
        let (batch, effect) = (BatchId(Uuid::from_u128(9)), Effect::None);
        let values = values_digest(RowOrigin { batch, row: 5, effect }, [("a", "1"), ("b", "2")]);
        let of = Some(column_tag("invite"));
        let unfinished = unfinished.then_some(Unfinished { effect, values, pipeline: of });
        let reference = Untagged::write(&RowReference { batch, row: 5, protected: Vec::new(), unfinished });
        let mut validator = Validator::new(Arc::new(schema()), Arc::new(Of(pipeline)));
        validator.push(format!("a,b,_ref\n1,2,{reference}\n").as_bytes()).unwrap();
        match validator.finish() {
            Ok(_) => Vec::new(),
            Err(Refused::Errors(rejected) | Refused::Limit(rejected)) => {
                rejected.errors.iter().map(|error| error.code).collect()
            }
        }
    };
    assert_eq!(codes(true, "invite"), Vec::<&str>::new());
    assert_eq!(codes(true, "remind"), ["other_pipeline"]);
    assert_eq!(codes(false, "remind"), Vec::<&str>::new(), "a row that completed repeats nothing");
}
