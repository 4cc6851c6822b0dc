//! The REST guide and the API's own document name the same routes.

use std::collections::BTreeSet;

use crate::markdown::{read, spans, table_rows};

/// Every route with its methods stands in the guide's table, and no other.
pub fn same_routes(document: &serde_json::Value) {
    let methods = ["get", "post", "put", "delete", "patch"];
    let mut served = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in methods.iter().filter(|method| item[**method].is_object()) {
            served.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let rows = table_rows(&read("docs/rest.md"));
    let described: BTreeSet<String> = rows
        .iter()
        .filter(|row| row.heading == "route")
        .flat_map(|row| spans(&row.cells[0]).into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(served.len() > 20, "{served:?}");
    assert_eq!(described, served);
}
