//! What requests are refused with, for the OpenAPI document: statuses in groups, as routes share them.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

fn problems(refusals: &[(&str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    refusals
        .iter()
        .map(|(status, when)| {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            let response =
                ResponseBuilder::new().description(*when).content("application/problem+json", content);
            ((*status).to_owned(), response.build().into())
        })
        .collect()
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident { $($status:literal: $when:literal,)+ })+) => {
        $(
            $(#[$doc])*
            pub struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<Response>> {
                    problems(&[$(($status, $when)),+])
                }
            }
        )+
    };
}

refusals! {
    /// Of every route that takes a key.
    Asked {
        "400": "The query, a header or the body cannot be read",
        "401": "There is no valid key",
        "403": "The key lacks a scope, or is for other pipelines",
        "406": "No content coding of Accept-Encoding is written here",
        "429": "The key, its owner, or an address without a valid key asks too often, or the owner keeps too much: try again after Retry-After",
        "500": "Something went wrong; it was logged",
        "503": "An engine is away: try again after Retry-After",
    }
    /// Of routes that take no key.
    Opened {
        "400": "The query or a header cannot be read",
        "406": "No content coding of Accept-Encoding is written here",
        "500": "Something went wrong; it was logged",
        "503": "An engine is away: try again after Retry-After",
    }
    /// Of routes that are asked for every few seconds.
    Watched {
        "406": "No content coding of Accept-Encoding is written here",
    }
    /// Of every route that names one thing.
    Named {
        "404": "There is no such thing, or not for this key",
    }
    /// Of what an admin key may do for its own owner alone.
    Reading {
        "403": "An admin key reads, and changes only what is its own owner's",
    }
    /// Of commands.
    Commanded {
        "403": "An admin key reads, and changes only what is its own owner's",
        "404": "There is no such thing, or not for this key",
    }
    /// Of commands that a batch may not be in a state for.
    Stateful {
        "409": "The batch is not in a state for that",
    }
    /// Of what an admin key alone may ask.
    ForAdmins {
        "403": "Not with this key",
    }
    /// Of commands that carry a body.
    Small {
        "408": "The body stood still or took too long",
        "413": "The body is too large",
        "415": "The body is encoded",
    }
    /// Of what reads sealed rows.
    Sealed {
        "410": "The batch was erased",
    }
    /// Of what is sent in ranges.
    Ranged {
        "416": "The report ends before the range; Content-Range has its length",
    }
    /// Of links.
    Linked {
        "403": "The link has expired or was changed, or its key is gone",
        "404": "The batch is gone",
        "429": "The key that made the link, its owner, or an address without a valid link asks too often: try again after Retry-After",
    }
    /// Of values that a JSON body has, and that cannot be taken.
    Unprocessable {
        "422": "A field has a value that it does not take",
    }
    /// Of uploads.
    Upload {
        "404": "There is no such pipeline",
        "408": "The upload stood still or took too long",
        "409": "This upload_id has become a batch before",
        "413": "A limit was passed",
        "415": "Neither a form, nor a file in a media type that is taken, nor JSON; or it is encoded",
        "422": "The file has errors, a field has a value that it does not take, or the Idempotency-Key was used for something else",
    }
}
