//! The console: what people look at instead of JSON.
//!
//! A page is HTML that is rendered here from the views that the REST API shows, one template a page. The handlers are in
//! `penstock-api`, which also decides who may see what: nothing here reads a database.
//!
//! | what | where |
//! |---|---|
//! | the frame of every page | [`layout`] |
//! | numbers, times, bars | [`show`]; rates over an hour: [`chart`] |
//! | style sheet, module, icon | [`assets`] |
//! | the cookie of who signed in | [`session`] |
//! | a page | the module of its name |

pub mod assets;
pub mod batch;
pub mod batches;
pub mod chart;
pub mod confirm;
pub mod layout;
pub mod limits;
pub mod operations;
pub mod pipelines;
pub mod problem;
pub mod refused;
pub mod row;
pub mod rows;
pub mod session;
pub mod show;
pub mod sign_in;
pub mod upload;
pub mod use_chart;

pub use askama::{Error as RenderError, Template};
