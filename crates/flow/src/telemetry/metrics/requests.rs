//! What an API counts of its requests.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use penstock_downstream::Histogram;
use penstock_downstream::metrics::MOMENTS;

use super::Family;

/// Method, route and status of a request. The route is a pattern, not an address: there are few.
type Key = (&'static str, String, u16);

/// Requests by method, route and status.
#[derive(Debug, Default)]
pub struct RequestMetrics(Mutex<BTreeMap<Key, Histogram>>);

impl RequestMetrics {
    /// A request was answered: so long after it came, the answer's headers went out.
    pub fn answered(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let mut answered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (method, route.to_owned(), status);
        answered.entry(key).or_insert_with(|| Histogram::new(MOMENTS)).took(took);
    }

    pub(crate) fn family(&self) -> Family {
        let help =
            "Requests to the API by method, route and status: from their arrival to their answers' headers.";
        let mut family = Family::histogram("http.server.request.duration", "s", help);
        for ((method, route, status), took) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let labels = [
                ("http.request.method", *method),
                ("http.route", route.as_str()),
                ("http.response.status_code", &status.to_string()),
            ];
            family.push(labels, took.clone());
        }
        family
    }
}
