//! The way out: HTTP to where strangers point, as far as an administrator allows it. Used by whoever fetches pictures and whoever fetches
//! weights; it knows neither.
//!
//! ```text
//! URL ─► AddressRules ─► one connection to an address that was checked ─► answer
//!          ▲                                                                │
//!          └──────────── redirect, bounded, without the credentials ◄───────┘
//! ```
//! No proxy is used: it would resolve names elsewhere.

mod address;
mod client;
mod redirect;

pub use address::{AddressRules, UrlError};
pub use client::{Body, Client, EgressError};
pub use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
pub use ipnet::IpNet;
pub use redirect::{Credentials, REDIRECTS_LIMIT};
pub use url::Url;
