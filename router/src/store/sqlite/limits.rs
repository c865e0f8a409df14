//! What is counted while requests come and run: the rate of calls, the images at once.

use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use crate::store::parallel::ASK_COUNTS;
use crate::store::{Entry, ImageClaim, ParallelImages, Rate, RateLease, StoreError, milliseconds};

pub(super) async fn lease_rate(pool: &SqlitePool, tenant: Uuid, rate: &Rate) -> Result<RateLease, StoreError> {
    let mut transaction = pool.begin_with("begin immediate").await?;
    let row = sqlx::query(
        "select coalesce((select due_us from rates where tenant = ?), 0) as due_us,
                cast(unixepoch('subsec') * 1000 as integer) * 1000 as now_us",
    )
    .bind(tenant.as_bytes().as_slice())
    .fetch_one(&mut *transaction)
    .await?;
    let (due_us, lease) = rate.take(row.try_get("due_us")?, row.try_get("now_us")?, rate.lease_slots());
    sqlx::query("insert into rates (tenant, due_us) values (?, ?) on conflict (tenant) do update set due_us = excluded.due_us")
        .bind(tenant.as_bytes().as_slice())
        .bind(due_us)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(lease)
}

pub(super) async fn claim_images(pool: &SqlitePool, entry: &Entry, limit: ParallelImages) -> Result<ImageClaim, StoreError> {
    let mut transaction = pool.begin_with("begin immediate").await?;
    let row = sqlx::query(
        "select coalesce(sum(samples) filter (where running and id <> ?1), 0) as running,
                coalesce(sum(samples) filter (where not running and asked_at_ms > unixepoch('subsec') * 1000 - ?2
                                              and (accepted_at_ms, id) < (?3, ?1)), 0) as ahead
         from generations where tenant = ?4 and finished_at_ms is null",
    )
    .bind(entry.id.as_bytes().as_slice())
    .bind(milliseconds(ASK_COUNTS))
    .bind(entry.accepted_at_ms)
    .bind(entry.tenant.as_bytes().as_slice())
    .fetch_one(&mut *transaction)
    .await?;
    let fits = limit.fits(i64::from(entry.request.samples), row.try_get("running")?, row.try_get("ahead")?);
    let claimed = sqlx::query(
        "update generations set running = ?, asked_at_ms = cast(unixepoch('subsec') * 1000 as integer)
         where id = ? and fence = ? and finished_at_ms is null",
    )
    .bind(fits)
    .bind(entry.id.as_bytes().as_slice())
    .bind(entry.fence)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(ImageClaim::of(fits, claimed.rows_affected()))
}
