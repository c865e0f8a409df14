//! The store on SQLite: one file, embedded, for one machine. Every acknowledged write is on disk (`synchronous = full`).

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use runtime_api::ImageRequest;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{Row, SqlitePool};
use uuid::Uuid;

use super::quota::Windows;
use super::{Admission, AdmitError, Allowance, Caller, Entry, KeyHash, Outcome, Store, StoreError, Usage};
use super::{ImageClaim, ParallelImages, Rate, RateLease};
use super::{from_json, milliseconds, random_public_id, read_secret, to_json};
use crate::generation::{Mode, StartReport};

mod limits;

/// SQLite has one writer at a time; more connections only serve readers.
const MAX_CONNECTIONS: u32 = 4;
/// How long a write waits for another process's write, such as `key create` beside a running router.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const ENTRY_COLUMNS: &str = "g.id, g.public_id, g.tenant, t.plan, g.request, g.mode, g.dialect, g.track_id, g.accepted_at_ms, \
     g.finished_at_ms, g.outcome, g.start, g.fence, g.takeovers";

#[derive(Debug, Clone)]
pub struct SqliteStore {
    pool: SqlitePool,
}

impl SqliteStore {
    /// Opens the database file, makes it if it is missing, and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .connect_with(options)
            .await
            .map_err(|source| StoreError::Open { path: path.display().to_string(), source })?;
        sqlx::migrate!("migrations/sqlite").run(&pool).await?;
        Ok(Self { pool })
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn add_key(&self, tenant_name: &str, plan: &str, key: KeyHash) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("begin immediate").await?;
        let tenant: Vec<u8> = sqlx::query_scalar(
            "insert into tenants (id, name, plan, next_public_id, created_at_ms) values (?, ?, ?, ?, cast(unixepoch('subsec') * 1000 as integer))
             on conflict (name) do update set plan = excluded.plan returning id",
        )
        .bind(Uuid::now_v7().as_bytes().as_slice())
        .bind(tenant_name)
        .bind(plan)
        .bind(random_public_id())
        .fetch_one(&mut *transaction)
        .await?;
        sqlx::query("insert into keys (hash, tenant, created_at_ms) values (?, ?, cast(unixepoch('subsec') * 1000 as integer))")
            .bind(key.0.as_slice())
            .bind(tenant)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    async fn find_caller(&self, key: KeyHash) -> Result<Option<Caller>, StoreError> {
        let row = sqlx::query("select t.id, t.name, t.plan from keys k join tenants t on t.id = k.tenant where k.hash = ?")
            .bind(key.0.as_slice())
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| Ok(Caller { tenant: uuid(&row, "id")?, tenant_name: row.try_get("name")?, plan: row.try_get("plan")? })).transpose()
    }

    async fn admit(&self, admission: &Admission) -> Result<Entry, AdmitError> {
        let mut transaction = self.pool.begin_with("begin immediate").await.map_err(StoreError::from)?;
        let windows = current_windows(&mut transaction).await?;
        check_queue(&mut transaction, admission).await?;
        check_quota(&mut transaction, admission.tenant, &admission.allowance, &windows).await?;
        let entry = insert_entry(&mut transaction, admission, &windows).await?;
        for period in [&windows.day, &windows.month] {
            add_calls(&mut transaction, admission.tenant.as_bytes(), period, 1).await?;
        }
        transaction.commit().await.map_err(StoreError::from)?;
        Ok(entry)
    }

    async fn lease_rate(&self, tenant: Uuid, rate: &Rate) -> Result<RateLease, StoreError> {
        limits::lease_rate(&self.pool, tenant, rate).await
    }

    async fn claim_images(&self, entry: &Entry, limit: ParallelImages) -> Result<ImageClaim, StoreError> {
        limits::claim_images(&self.pool, entry, limit).await
    }

    async fn detach(&self, id: Uuid) -> Result<(), StoreError> {
        sqlx::query("update generations set mode = ? where id = ? and finished_at_ms is null")
            .bind(to_json(&Mode::Detached)?)
            .bind(id.as_bytes().as_slice())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn finish(&self, id: Uuid, fence: i64, outcome: &Outcome, start: &StartReport) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin_with("begin immediate").await?;
        let row = sqlx::query(
            "update generations set finished_at_ms = cast(unixepoch('subsec') * 1000 as integer), outcome = ?, start = ?
             where id = ? and fence = ? and finished_at_ms is null returning tenant, samples, day, month",
        )
        .bind(to_json(outcome)?)
        .bind(to_json(start)?)
        .bind(id.as_bytes().as_slice())
        .bind(fence)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let tenant: Vec<u8> = row.try_get("tenant")?;
        if matches!(outcome, Outcome::Succeeded { .. }) {
            sqlx::query("update tenants set images = images + ? where id = ?")
                .bind(row.try_get::<i64, _>("samples")?)
                .bind(tenant)
                .execute(&mut *transaction)
                .await?;
        } else {
            for column in ["day", "month"] {
                add_calls(&mut transaction, &tenant, row.try_get(column)?, -1).await?;
            }
        }
        transaction.commit().await?;
        Ok(true)
    }

    async fn find_entry(&self, tenant: Uuid, public_id: i32) -> Result<Option<Entry>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {ENTRY_COLUMNS} from generations g join tenants t on t.id = g.tenant where g.tenant = ? and g.public_id = ?"
        )))
        .bind(tenant.as_bytes().as_slice())
        .bind(public_id)
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(read_entry).transpose()
    }

    async fn heartbeat(&self, router: Uuid) -> Result<(), StoreError> {
        sqlx::query(
            "insert into routers (id, beat_at_ms) values (?, cast(unixepoch('subsec') * 1000 as integer)) on conflict (id) do update set beat_at_ms = excluded.beat_at_ms",
        )
        .bind(router.as_bytes().as_slice())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn take_up(&self, router: Uuid, silence: Duration, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let silence_ms = milliseconds(silence);
        let mut transaction = self.pool.begin_with("begin immediate").await?;
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(
            "select g.id from generations g left join routers r on r.id = g.router
             where g.finished_at_ms is null and g.router <> ?1 and (r.id is null or r.beat_at_ms <= unixepoch('subsec') * 1000 - ?2)
             order by g.accepted_at_ms, g.id limit ?3",
        )
        .bind(router.as_bytes().as_slice())
        .bind(silence_ms)
        .bind(limit)
        .fetch_all(&mut *transaction)
        .await?;
        let mut entries = Vec::with_capacity(ids.len());
        for id in ids {
            sqlx::query("update generations set router = ?, fence = fence + 1, takeovers = takeovers + 1, running = false, asked_at_ms = null where id = ?")
                .bind(router.as_bytes().as_slice())
                .bind(id.as_slice())
                .execute(&mut *transaction)
                .await?;
            let row = sqlx::query(sqlx::AssertSqlSafe(format!(
                "select {ENTRY_COLUMNS} from generations g join tenants t on t.id = g.tenant where g.id = ?"
            )))
            .bind(id)
            .fetch_one(&mut *transaction)
            .await?;
            entries.push(read_entry(&row)?);
        }
        forget_silent_routers(&mut transaction, router, silence_ms).await?;
        transaction.commit().await?;
        Ok(entries)
    }

    async fn usage(&self, tenant: Uuid) -> Result<Usage, StoreError> {
        let row = sqlx::query(
            "select images,
                    coalesce((select calls from usage where tenant = t.id and period = strftime('%Y-%m-%d', 'now')), 0) as today,
                    coalesce((select calls from usage where tenant = t.id and period = strftime('%Y-%m', 'now')), 0) as month
             from tenants t where id = ?",
        )
        .bind(tenant.as_bytes().as_slice())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(Usage::default()) };
        Ok(Usage { calls_today: count(&row, "today")?, calls_this_month: count(&row, "month")?, images: count(&row, "images")? })
    }

    async fn needed_inputs(&self, retention: Duration) -> Result<HashSet<String>, StoreError> {
        let inputs: Vec<Option<String>> = sqlx::query_scalar(
            "with needing as materialized (
                 select request from generations where finished_at_ms is null or finished_at_ms > unixepoch('subsec') * 1000 - ?)
             select request ->> '$.image' from needing union select request ->> '$.mask_image' from needing",
        )
        .bind(milliseconds(retention))
        .fetch_all(&self.pool)
        .await?;
        Ok(inputs.into_iter().flatten().collect())
    }

    async fn expired(&self, plan: &str, retention: Duration, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {ENTRY_COLUMNS} from generations g join tenants t on t.id = g.tenant
             where t.plan = ? and g.finished_at_ms <= unixepoch('subsec') * 1000 - ? order by g.finished_at_ms, g.id limit ?"
        )))
        .bind(plan)
        .bind(milliseconds(retention))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(read_entry).collect()
    }

    async fn forget(&self, id: Uuid) -> Result<(), StoreError> {
        sqlx::query("delete from generations where id = ? and finished_at_ms is not null")
            .bind(id.as_bytes().as_slice())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn shared_secret(&self) -> Result<[u8; 32], StoreError> {
        // Updating nothing makes the statement return the row that was there.
        let secret: Vec<u8> = sqlx::query_scalar(
            "insert into secrets (name, value) values ('outputs', ?) on conflict (name) do update set value = value returning value",
        )
        .bind(rand::random::<[u8; 32]>().as_slice())
        .fetch_one(&self.pool)
        .await?;
        read_secret(&secret)
    }
}

async fn current_windows(connection: &mut SqliteConnection) -> Result<Windows, StoreError> {
    let row = sqlx::query(
        "select strftime('%Y-%m-%d', 'now') as day, strftime('%Y-%m', 'now') as month,
                unixepoch('now', 'start of day', '+1 day') - unixepoch('now') as day_left,
                unixepoch('now', 'start of month', '+1 month') - unixepoch('now') as month_left",
    )
    .fetch_one(connection)
    .await?;
    Ok(Windows {
        day: row.try_get("day")?,
        month: row.try_get("month")?,
        day_left: Duration::from_secs(count(&row, "day_left")?),
        month_left: Duration::from_secs(count(&row, "month_left")?),
    })
}

async fn check_queue(connection: &mut SqliteConnection, admission: &Admission) -> Result<(), AdmitError> {
    let unfinished: i64 = sqlx::query_scalar("select count(*) from generations where tenant = ? and finished_at_ms is null")
        .bind(admission.tenant.as_bytes().as_slice())
        .fetch_one(connection)
        .await
        .map_err(StoreError::from)?;
    admission.allowance.check_queue(unfinished)
}

async fn check_quota(connection: &mut SqliteConnection, tenant: Uuid, allowance: &Allowance, windows: &Windows) -> Result<(), AdmitError> {
    for limit in windows.limits(allowance) {
        let used: Option<i64> = sqlx::query_scalar("select calls from usage where tenant = ? and period = ?")
            .bind(tenant.as_bytes().as_slice())
            .bind(limit.period)
            .fetch_optional(&mut *connection)
            .await
            .map_err(StoreError::from)?;
        limit.check(used)?;
    }
    Ok(())
}

async fn insert_entry(connection: &mut SqliteConnection, admission: &Admission, windows: &Windows) -> Result<Entry, StoreError> {
    let tenant =
        sqlx::query("update tenants set next_public_id = next_public_id + 1 where id = ? returning next_public_id - 1 as public_id, plan")
            .bind(admission.tenant.as_bytes().as_slice())
            .fetch_optional(&mut *connection)
            .await?
            .ok_or_else(|| StoreError::Corrupt(format!("no tenant {}", admission.tenant)))?;
    let public_id: i32 = tenant.try_get("public_id")?;
    let accepted_at_ms: i64 = sqlx::query_scalar(
        "insert into generations (id, tenant, public_id, router, request, samples, mode, dialect, track_id, accepted_at_ms, day, month)
         values (?, ?, ?, ?, ?, ?, ?, ?, ?, cast(unixepoch('subsec') * 1000 as integer), ?, ?) returning accepted_at_ms",
    )
    .bind(admission.id.as_bytes().as_slice())
    .bind(admission.tenant.as_bytes().as_slice())
    .bind(public_id)
    .bind(admission.router.as_bytes().as_slice())
    .bind(to_json(&admission.request)?)
    .bind(admission.request.samples)
    .bind(to_json(&admission.mode)?)
    .bind(admission.dialect)
    .bind(&admission.track_id)
    .bind(&windows.day)
    .bind(&windows.month)
    .fetch_one(connection)
    .await?;
    Ok(Entry::admitted(admission, tenant.try_get("plan")?, public_id, accepted_at_ms))
}

async fn add_calls(connection: &mut SqliteConnection, tenant: &[u8], period: &str, calls: i64) -> Result<(), StoreError> {
    sqlx::query("insert into usage (tenant, period, calls) values (?, ?, ?) on conflict (tenant, period) do update set calls = calls + excluded.calls")
        .bind(tenant)
        .bind(period)
        .bind(calls)
        .execute(connection)
        .await?;
    Ok(())
}

/// A silent router's row may go once nothing unfinished names it: its entries count as a dead one's without it, too.
async fn forget_silent_routers(connection: &mut SqliteConnection, own: Uuid, silence_ms: i64) -> Result<(), StoreError> {
    sqlx::query(
        "delete from routers where id <> ? and beat_at_ms <= unixepoch('subsec') * 1000 - ?
         and not exists (select 1 from generations where router = routers.id and finished_at_ms is null)",
    )
    .bind(own.as_bytes().as_slice())
    .bind(silence_ms)
    .execute(connection)
    .await?;
    Ok(())
}

fn read_entry(row: &SqliteRow) -> Result<Entry, StoreError> {
    Ok(Entry {
        id: uuid(row, "id")?,
        public_id: row.try_get("public_id")?,
        tenant: uuid(row, "tenant")?,
        plan: row.try_get("plan")?,
        request: from_json::<ImageRequest>(row.try_get("request")?)?,
        mode: from_json::<Mode>(row.try_get("mode")?)?,
        dialect: row.try_get("dialect")?,
        track_id: row.try_get("track_id")?,
        accepted_at_ms: row.try_get("accepted_at_ms")?,
        finished_at_ms: row.try_get("finished_at_ms")?,
        outcome: row.try_get::<Option<&str>, _>("outcome")?.map(from_json::<Outcome>).transpose()?,
        start: row.try_get::<Option<&str>, _>("start")?.map(from_json::<StartReport>).transpose()?.unwrap_or_default(),
        fence: row.try_get("fence")?,
        takeovers: row.try_get("takeovers")?,
    })
}

fn uuid(row: &SqliteRow, column: &str) -> Result<Uuid, StoreError> {
    Uuid::from_slice(row.try_get(column)?).map_err(|error| StoreError::Corrupt(format!("{column}: {error}")))
}

fn count(row: &SqliteRow, column: &str) -> Result<u64, StoreError> {
    let number: i64 = row.try_get(column)?;
    Ok(u64::try_from(number).unwrap_or(0))
}
