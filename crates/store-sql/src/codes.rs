//! The codes of APIs that failed rows of a batch have. They are counted by code, and an API that puts an id into its codes must not
//! make a list of a million of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use penstock_domain::ids::BatchSeq;
use penstock_store::StoreResult;
use penstock_store::settling::Move;
use penstock_store::work::{Settled, Settlement};

use crate::{Group, Tx, sql};

/// Different codes of a batch at most.
const MOST_CODES: usize = 100;

/// What stands for all further ones.
const OTHER: &str = "other";

/// Codes that are too many, by batch.
#[derive(Default)]
pub(crate) struct Beyond<'a>(HashSet<(BatchSeq, &'a str)>);

impl Beyond<'_> {
    /// The code that is stored of a row.
    pub fn stored<'m>(&self, to: &Move<'m>) -> Option<&'m str> {
        let code = to.code?;
        Some(if !self.0.is_empty() && self.0.contains(&(to.row.batch, code)) { OTHER } else { code })
    }
}

/// Records the codes of rows that fail; tells which are too many. The batches are locked by whoever calls.
pub(crate) async fn record<'a>(tx: &mut Tx, group: &'a [Settlement]) -> StoreResult<Beyond<'a>> {
    let mut wanted: BTreeMap<BatchSeq, BTreeSet<&str>> = BTreeMap::new();
    for settlement in group {
        if let Settled::Failed(failure) = &settlement.outcome
            && let Some(code) = failure.api_code.as_deref()
        {
            wanted.entry(settlement.row.batch).or_default().insert(code);
        }
    }
    let (mut new, mut beyond) = (Vec::new(), HashSet::new());
    for (batch, codes) in wanted {
        let list = sql("batch_code_list", "SELECT batch, code FROM batch_codes WHERE batch = $1");
        let known = tx.fetch(list.bind(batch)).await?;
        let known: HashSet<String> =
            known.iter().map(|row| row.of("batch_codes").text("code")).collect::<StoreResult<_>>()?;
        let mut room = MOST_CODES.saturating_sub(known.len());
        for code in codes.into_iter().filter(|code| !known.contains(*code)) {
            if room > 0 {
                room -= 1;
                new.push((batch, code));
            } else {
                beyond.insert((batch, code));
            }
        }
    }
    if !new.is_empty() {
        let put = sql(
            "batch_code_insert_if_new",
            "WITH j(batch, code) AS ({rows}) INSERT INTO batch_codes (batch, code) SELECT batch, code FROM j WHERE true \
             ON CONFLICT (batch, code) DO NOTHING",
        );
        let rows = new.into_iter().map(|(batch, code)| [batch.into(), code.into()]);
        tx.execute(put.rows(Group::of_rows(rows))).await?;
    }
    Ok(Beyond(beyond))
}
