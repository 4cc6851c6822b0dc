//! Whole runs of the real programs, on the embedded services.

#![allow(clippy::unwrap_used, reason = "tests")]

mod always_failing;
mod auth;
mod beside;
mod bounds;
mod browser;
mod browser_keyboard;
mod browser_live;
mod browser_pages;
mod browser_pictures;
mod budgets;
mod bulk;
mod bulk_deaths;
mod bulk_shared;
mod cache;
mod callback_bodies;
mod callbacks;
mod canary;
mod causes;
mod commands;
mod conformance;
mod console;
mod crashes;
mod damage;
mod dedupe;
mod definitions_cli;
mod demo;
mod dialects;
mod ending;
mod erasure;
mod error_files;
mod failover;
mod file_rules;
mod files;
mod gallery;
mod http;
mod ipv6;
mod keyring;
mod keys;
mod labels;
mod large;
mod late;
mod life;
mod limits;
mod links;
mod listening;
mod lists;
mod live_limits;
mod liveness;
mod load;
mod looks;
mod oidc;
mod once;
mod openapi;
mod operations;
mod operator;
mod outage;
mod poll;
mod quota;
mod rates;
mod real_files;
mod reload;
mod renewals;
mod repairing;
mod reports;
mod requests;
mod responses;
mod restore;
mod rotation;
mod secrecy;
mod secrets;

mod spreadsheets;
mod standing_still;
mod storage;
mod surface;
mod tampering;
mod telemetry;
mod upgrade;
mod uploads;
mod uses;
mod values;
mod waits;
mod windows;
mod workbooks;

/// The shipped pipeline at the pace of a test.
const INVITE: &str = include_str!("../../pipelines/invite.yaml");

/// The invite pipeline without limits worth mentioning.
fn invite() -> String {
    penstock_tests::invite::quick_invite().replace("concurrency: 20", "concurrency: 12")
}

/// A pipeline that never calls anybody.
const NOOP: &str = "name: noop\ncsv: { max_rows: 1000, columns: [ { name: id, required: true, format: integer }, { name: note, max_length: 20 } ] }\nsteps: []\ndispatch: { spread: 0s }\n";

/// So many people, all of whom the sandbox invites.
fn people(count: u32) -> String {
    let mut csv = "email,first_name,last_name,phone,postcode\n".to_owned();
    for number in 0..count {
        csv.push_str(&format!("person{number}@example.com,First{number},Last,,AB{:04}\n", number % 10_000));
    }
    csv
}

/// Where people are uploaded, with the context that the pipeline reads.
const PEOPLE: &str = "/v2/client/users/batch/invite?context=%7B%22campaign%22%3A%22autumn%22%7D";
