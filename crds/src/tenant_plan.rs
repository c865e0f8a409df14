//! TenantPlan: what the tenants of a plan may do, and what it costs them.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Price, Timespan, Violation, model_deployment::Family, rule, schema};

/// What the tenants of a plan may do, and what it costs them.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "emulsion.dev",
    version = "v1alpha1",
    kind = "TenantPlan",
    shortname = "tplan",
    category = "emulsion",
    derive = "PartialEq",
    doc = "What the tenants of a plan may do, and what it costs them. Keys name a plan by the object's name.",
    printcolumn(name = "Price", type_ = "string", json_path = ".spec.price"),
    printcolumn(name = "Daily", type_ = "integer", json_path = ".spec.callsPerDay"),
    printcolumn(name = "Monthly", type_ = "integer", json_path = ".spec.callsPerMonth"),
    printcolumn(name = "Rate", type_ = "integer", json_path = ".spec.requestsPerMinute"),
    printcolumn(name = "Parallel", type_ = "integer", json_path = ".spec.parallelImages"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".spec.weight"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rule::schema(&[&rule::BURST])))]
pub struct TenantPlanSpec {
    /// Price of a month in US dollars, such as "47".
    #[serde(default)]
    pub price: Price,
    /// Calls of one day (UTC). Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub calls_per_day: Option<i32>,
    /// Calls of one calendar month (UTC). Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub calls_per_month: Option<i32>,
    /// Calls a minute, in the long run.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_minute: i32,
    /// Calls that may come at once before the rate holds them to its pace.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: i32,
    /// Images of one tenant that may be made at the same time.
    #[schemars(range(min = 1, max = 10_000))]
    pub parallel_images: i32,
    /// Requests of one tenant that may wait.
    #[schemars(range(min = 1, max = 100_000))]
    pub queue_depth: i32,
    /// Share of a busy pool, against the weights of other plans.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: i32,
    /// Waiting requests of a higher priority go first whatever their weight.
    #[serde(default)]
    #[schemars(range(min = -100, max = 100))]
    pub priority: i32,
    /// Families the plan includes. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub families: Option<Vec<Family>>,
    /// Prices of single images. Absent: images are part of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_prices: Option<ImagePrices>,
    /// How long outputs are kept, such as 720h.
    #[serde(default = "thirty_days")]
    pub retention: Timespan,
    /// The RuntimePool that serves the plan's tenants. Absent: the one each model names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub pool: Option<String>,
}

/// Prices of single images.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ImagePrices {
    /// Price of an image in US dollars, such as "0.002".
    pub default: Price,
    /// Families with a price of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["family"])
    )]
    pub families: Vec<FamilyPrice>,
}

/// Price of a family's images.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FamilyPrice {
    /// The family.
    pub family: Family,
    /// Price of an image in US dollars, such as "0.004".
    pub price: Price,
}

fn one() -> i32 {
    1
}

fn thirty_days() -> Timespan {
    Timespan::from_secs(720 * 3600)
}

impl TenantPlan {
    /// Everything a cluster would refuse, with the words it would use; empty if nothing.
    pub fn validate(&self) -> Vec<Violation> {
        schema::violations::<Self>(self, None)
    }
}

impl TenantPlanSpec {
    /// What one image of `family` costs under this plan; zero where images are part of it.
    pub fn image_price(&self, family: Family) -> Price {
        let Some(prices) = &self.image_prices else {
            return Price::default();
        };
        prices.families.iter().find(|entry| entry.family == family).map_or(prices.default, |entry| entry.price)
    }

    /// Whether the plan includes models of `family`.
    pub fn includes(&self, family: Family) -> bool {
        self.families.as_ref().is_none_or(|families| families.contains(&family))
    }
}
