//! What routers count together while requests come and run: the rate of calls, the images at once.

use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::{NOW_MS, sql};
use crate::store::parallel::ASK_COUNTS;
use crate::store::{Entry, ImageClaim, ParallelImages, Rate, RateLease, StoreError, milliseconds};

/// Told apart from other locks of this database by this number, and by the tenant from each other.
const CLAIMS_LOCK: i64 = 0x656d_756c_636c_6169;
const NOW_US: &str = "(extract(epoch from clock_timestamp()) * 1000000)::bigint";

pub(super) async fn lease_rate(pool: &PgPool, tenant: Uuid, rate: &Rate) -> Result<RateLease, StoreError> {
    let mut transaction = pool.begin().await?;
    // Updating nothing locks the row and returns it. A lease need not outlive a crash of the server: nobody waits for the disk.
    let row = sqlx::query(sql(format!(
        "insert into rates (tenant, due_us) values ($1, 0) on conflict (tenant) do update set due_us = rates.due_us
         returning due_us, {NOW_US} as now_us, set_config('synchronous_commit', 'off', true)"
    )))
    .bind(tenant)
    .fetch_one(&mut *transaction)
    .await?;
    let (due_us, lease) = rate.take(row.try_get("due_us")?, row.try_get("now_us")?, rate.lease_slots());
    sqlx::query("update rates set due_us = $1 where tenant = $2").bind(due_us).bind(tenant).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(lease)
}

pub(super) async fn claim_images(pool: &PgPool, entry: &Entry, limit: ParallelImages) -> Result<ImageClaim, StoreError> {
    let mut transaction = pool.begin().await?;
    // Claims of one tenant go one by one, so that what is counted below stays true: images may end meanwhile, but none begins.
    sqlx::query("select pg_advisory_xact_lock($1)").bind(claims_lock(entry.tenant)).execute(&mut *transaction).await?;
    let row = sqlx::query(sql(format!(
        "select coalesce(sum(samples) filter (where running and id <> $1), 0)::bigint as running,
                coalesce(sum(samples) filter (where not running and asked_at_ms > {NOW_MS} - $2 and (accepted_at_ms, id) < ($3, $1)), 0)::bigint as ahead
         from generations where tenant = $4 and finished_at_ms is null"
    )))
    .bind(entry.id)
    .bind(milliseconds(ASK_COUNTS))
    .bind(entry.accepted_at_ms)
    .bind(entry.tenant)
    .fetch_one(&mut *transaction)
    .await?;
    let fits = limit.fits(i64::from(entry.request.samples), row.try_get("running")?, row.try_get("ahead")?);
    let claimed = sqlx::query(sql(format!(
        "update generations set running = $1, asked_at_ms = {NOW_MS} where id = $2 and fence = $3 and finished_at_ms is null"
    )))
    .bind(fits)
    .bind(entry.id)
    .bind(entry.fence)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(ImageClaim::of(fits, claimed.rows_affected()))
}

fn claims_lock(tenant: Uuid) -> i64 {
    // The lower half of an id is random. Two tenants that met on one number would only wait for each other.
    CLAIMS_LOCK ^ tenant.as_u64_pair().1.cast_signed()
}
