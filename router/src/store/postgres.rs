//! The store on PostgreSQL, for several routers. Each write is durable when it returns (the server's `synchronous_commit` is on by
//! default, and is set here).
//!
//! Order of locks, the same everywhere, so that no two transactions wait for each other: a tenant's claims, a request's row, its tenant's row, the
//! tenant's windows (day before month).

use std::collections::HashSet;
use std::fmt::{Debug, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use runtime_api::ImageRequest;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgRow};
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::quota::Windows;
use super::{Admission, AdmitError, Allowance, Caller, Entry, KeyHash, Outcome, Store, StoreError, Usage};
use super::{ImageClaim, ParallelImages, Rate, RateLease};
use super::{from_json, milliseconds, random_public_id, read_secret, to_json};
use crate::generation::{Mode, StartReport};

mod limits;

/// One router's connections; a server takes 100 by default, so several routers fit beside each other.
const MAX_CONNECTIONS: u32 = 10;
/// How long a call waits for a connection, also while the server is away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server works on one statement, waiting for locks included.
const STATEMENT_TIMEOUT: &str = "10s";
/// How long the server keeps the locks of a transaction whose router fell silent.
const IDLE_TRANSACTION_TIMEOUT: &str = "10s";
/// Held by the router that takes up what others left; any number that nothing else in this database uses.
const TAKE_UP_LOCK: i64 = 0x656d_756c_7369_6f6e;
/// What the server's own views call a router's connections.
const APPLICATION_NAME: &str = "emulsion-router";

const NOW_MS: &str = "(extract(epoch from clock_timestamp()) * 1000)::bigint";
const ENTRY_COLUMNS: &str = "g.id, g.public_id, g.tenant, t.plan, g.request, g.mode, g.dialect, g.track_id, g.accepted_at_ms, \
     g.finished_at_ms, g.outcome, g.start, g.fence, g.takeovers";

/// Where a database is, as libpq reads a URL. Neither `Debug` nor `Display` shows the password.
#[derive(Clone)]
pub struct DatabaseUrl(Box<PgConnectOptions>);

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
        let options = PgConnectOptions::from_str(text).ok().filter(|_| known);
        options.map(|options| Self(Box::new(options))).ok_or_else(|| "postgres://USER:PASSWORD@HOST:PORT/DATABASE is needed".to_owned())
    }
}

impl Display for DatabaseUrl {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let (options, database) = (&self.0, self.0.get_database().unwrap_or(self.0.get_username()));
        match options.get_socket() {
            Some(socket) => write!(formatter, "database {database} at {}", socket.display()),
            None => write!(formatter, "database {database} at {}:{}", options.get_host(), options.get_port()),
        }
    }
}

impl Debug for DatabaseUrl {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "DatabaseUrl({self})")
    }
}

#[derive(Debug, Clone)]
pub struct PostgresStore {
    pool: PgPool,
}

impl PostgresStore {
    /// Connects and brings the schema up to date, one router at a time.
    ///
    /// # Errors
    /// When the server is not reached, or its schema is newer than this program.
    pub async fn open(url: &DatabaseUrl) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: url.to_string(), source };
        let options = PgConnectOptions::clone(&url.0).application_name(APPLICATION_NAME).options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("idle_in_transaction_session_timeout", IDLE_TRANSACTION_TIMEOUT),
            ("synchronous_commit", "on"),
            ("default_transaction_isolation", "read committed"),
        ]);
        let pool = PgPoolOptions::new().max_connections(MAX_CONNECTIONS).acquire_timeout(ACQUIRE_TIMEOUT);
        let pool = pool.connect_with(options).await.map_err(failed)?;
        sqlx::migrate!("migrations/postgres").run(&pool).await?;
        Ok(Self { pool })
    }
}

fn sql(statement: String) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(statement)
}

#[async_trait]
impl Store for PostgresStore {
    async fn add_key(&self, tenant_name: &str, plan: &str, key: KeyHash) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        let tenant: Uuid = sqlx::query_scalar(sql(format!(
            "insert into tenants (id, name, plan, next_public_id, created_at_ms) values ($1, $2, $3, $4, {NOW_MS})
             on conflict (name) do update set plan = excluded.plan returning id"
        )))
        .bind(Uuid::now_v7())
        .bind(tenant_name)
        .bind(plan)
        .bind(random_public_id())
        .fetch_one(&mut *transaction)
        .await?;
        sqlx::query(sql(format!("insert into keys (hash, tenant, created_at_ms) values ($1, $2, {NOW_MS})")))
            .bind(key.0.as_slice())
            .bind(tenant)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    async fn find_caller(&self, key: KeyHash) -> Result<Option<Caller>, StoreError> {
        let row = sqlx::query("select t.id, t.name, t.plan from keys k join tenants t on t.id = k.tenant where k.hash = $1")
            .bind(key.0.as_slice())
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| Ok(Caller { tenant: row.try_get("id")?, tenant_name: row.try_get("name")?, plan: row.try_get("plan")? })).transpose()
    }

    async fn admit(&self, admission: &Admission) -> Result<Entry, AdmitError> {
        let mut transaction = self.pool.begin().await.map_err(StoreError::from)?;
        // From here to the commit this tenant's admissions go one by one, so that what is counted below stays true.
        let plan = lock_tenant(&mut transaction, admission.tenant).await?;
        let windows = current_windows(&mut transaction).await?;
        check_queue(&mut transaction, admission).await?;
        check_quota(&mut transaction, admission.tenant, &admission.allowance, &windows).await?;
        let entry = insert_entry(&mut transaction, admission, plan, &windows).await?;
        for period in [&windows.day, &windows.month] {
            add_calls(&mut transaction, admission.tenant, period, 1).await?;
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
        sqlx::query("update generations set mode = $1 where id = $2 and finished_at_ms is null")
            .bind(to_json(&Mode::Detached)?)
            .bind(id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn finish(&self, id: Uuid, fence: i64, outcome: &Outcome, start: &StartReport) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let row = sqlx::query(sql(format!(
            "update generations set finished_at_ms = {NOW_MS}, outcome = $1, start = $2
             where id = $3 and fence = $4 and finished_at_ms is null returning tenant, samples, day, month"
        )))
        .bind(to_json(outcome)?)
        .bind(to_json(start)?)
        .bind(id)
        .bind(fence)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let tenant: Uuid = row.try_get("tenant")?;
        if matches!(outcome, Outcome::Succeeded { .. }) {
            sqlx::query("update tenants set images = images + $1 where id = $2")
                .bind(row.try_get::<i64, _>("samples")?)
                .bind(tenant)
                .execute(&mut *transaction)
                .await?;
        } else {
            for column in ["day", "month"] {
                add_calls(&mut transaction, tenant, row.try_get(column)?, -1).await?;
            }
        }
        transaction.commit().await?;
        Ok(true)
    }

    async fn find_entry(&self, tenant: Uuid, public_id: i32) -> Result<Option<Entry>, StoreError> {
        let row = sqlx::query(sql(format!(
            "select {ENTRY_COLUMNS} from generations g join tenants t on t.id = g.tenant where g.tenant = $1 and g.public_id = $2"
        )))
        .bind(tenant)
        .bind(public_id)
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(read_entry).transpose()
    }

    async fn heartbeat(&self, router: Uuid) -> Result<(), StoreError> {
        sqlx::query(sql(format!(
            "insert into routers (id, beat_at_ms) values ($1, {NOW_MS}) on conflict (id) do update set beat_at_ms = excluded.beat_at_ms"
        )))
        .bind(router)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn take_up(&self, router: Uuid, silence: Duration, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let silence_ms = milliseconds(silence);
        let mut transaction = self.pool.begin().await?;
        // One router looks at a time. With a lock on rows alone, a second one could take what the first had just taken: the row it then
        // reads is new, but whether its router is silent was asked of the old one.
        let is_alone: bool =
            sqlx::query_scalar("select pg_try_advisory_xact_lock($1)").bind(TAKE_UP_LOCK).fetch_one(&mut *transaction).await?;
        if !is_alone {
            return Ok(Vec::new());
        }
        // Rows that are just being finished are skipped, not waited for.
        let rows = sqlx::query(sql(format!(
            "with left_behind as (
                 select g.id from generations g left join routers r on r.id = g.router
                 where g.finished_at_ms is null and g.router <> $1 and (r.id is null or r.beat_at_ms <= {NOW_MS} - $2)
                 order by g.accepted_at_ms, g.id limit $3 for update of g skip locked),
             g as (
                 update generations set router = $1, fence = fence + 1, takeovers = takeovers + 1, running = false, asked_at_ms = null
                 where id in (select id from left_behind) returning *)
             select {ENTRY_COLUMNS} from g join tenants t on t.id = g.tenant order by g.accepted_at_ms, g.id"
        )))
        .bind(router)
        .bind(silence_ms)
        .bind(i64::from(limit))
        .fetch_all(&mut *transaction)
        .await?;
        let entries = rows.iter().map(read_entry).collect::<Result<_, _>>()?;
        forget_silent_routers(&mut transaction, router, silence_ms).await?;
        transaction.commit().await?;
        Ok(entries)
    }

    async fn usage(&self, tenant: Uuid) -> Result<Usage, StoreError> {
        let row = sqlx::query(
            "select images,
                    coalesce((select calls from usage where tenant = t.id and period = to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD')), 0) as today,
                    coalesce((select calls from usage where tenant = t.id and period = to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM')), 0) as month
             from tenants t where id = $1",
        )
        .bind(tenant)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(Usage::default()) };
        Ok(Usage { calls_today: count(&row, "today")?, calls_this_month: count(&row, "month")?, images: count(&row, "images")? })
    }

    async fn needed_inputs(&self, retention: Duration) -> Result<HashSet<String>, StoreError> {
        let inputs: Vec<String> = sqlx::query_scalar(sql(format!(
            "select distinct unnest(inputs) from generations where finished_at_ms is null or finished_at_ms > {NOW_MS} - $1"
        )))
        .bind(milliseconds(retention))
        .fetch_all(&self.pool)
        .await?;
        Ok(inputs.into_iter().collect())
    }

    async fn expired(&self, plan: &str, retention: Duration, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let rows = sqlx::query(sql(format!(
            "select {ENTRY_COLUMNS} from generations g join tenants t on t.id = g.tenant
             where t.plan = $1 and g.finished_at_ms <= {NOW_MS} - $2 order by g.finished_at_ms, g.id limit $3"
        )))
        .bind(plan)
        .bind(milliseconds(retention))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(read_entry).collect()
    }

    async fn forget(&self, id: Uuid) -> Result<(), StoreError> {
        sqlx::query("delete from generations where id = $1 and finished_at_ms is not null").bind(id).execute(&self.pool).await?;
        Ok(())
    }

    async fn shared_secret(&self) -> Result<[u8; 32], StoreError> {
        // Updating nothing makes the statement return the row that was there.
        let secret: Vec<u8> = sqlx::query_scalar(
            "insert into secrets (name, value) values ('outputs', $1)
             on conflict (name) do update set value = secrets.value returning value",
        )
        .bind(rand::random::<[u8; 32]>().as_slice())
        .fetch_one(&self.pool)
        .await?;
        read_secret(&secret)
    }
}

/// The tenant's plan; nobody else changes the tenant until the transaction ends.
async fn lock_tenant(connection: &mut PgConnection, tenant: Uuid) -> Result<String, StoreError> {
    let plan =
        sqlx::query_scalar("select plan from tenants where id = $1 for no key update").bind(tenant).fetch_optional(connection).await?;
    plan.ok_or_else(|| StoreError::Corrupt(format!("no tenant {tenant}")))
}

async fn current_windows(connection: &mut PgConnection) -> Result<Windows, StoreError> {
    let row = sqlx::query(
        "select to_char(utc, 'YYYY-MM-DD') as day, to_char(utc, 'YYYY-MM') as month,
                ceil(extract(epoch from date_trunc('day', utc) + interval '1 day' - utc))::bigint as day_left,
                ceil(extract(epoch from date_trunc('month', utc) + interval '1 month' - utc))::bigint as month_left
         from (select clock_timestamp() at time zone 'utc' as utc) as now",
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

async fn check_queue(connection: &mut PgConnection, admission: &Admission) -> Result<(), AdmitError> {
    let unfinished: i64 = sqlx::query_scalar("select count(*) from generations where tenant = $1 and finished_at_ms is null")
        .bind(admission.tenant)
        .fetch_one(connection)
        .await
        .map_err(StoreError::from)?;
    admission.allowance.check_queue(unfinished)
}

async fn check_quota(connection: &mut PgConnection, tenant: Uuid, allowance: &Allowance, windows: &Windows) -> Result<(), AdmitError> {
    for limit in windows.limits(allowance) {
        let used: Option<i64> = sqlx::query_scalar("select calls from usage where tenant = $1 and period = $2")
            .bind(tenant)
            .bind(limit.period)
            .fetch_optional(&mut *connection)
            .await
            .map_err(StoreError::from)?;
        limit.check(used)?;
    }
    Ok(())
}

async fn insert_entry(connection: &mut PgConnection, admission: &Admission, plan: String, windows: &Windows) -> Result<Entry, StoreError> {
    let inputs: Vec<&str> = [&admission.request.image, &admission.request.mask_image].into_iter().flatten().map(String::as_str).collect();
    let row = sqlx::query(sql(format!(
        "with numbered as (update tenants set next_public_id = next_public_id + 1 where id = $2 returning next_public_id - 1 as public_id)
         insert into generations (id, tenant, public_id, router, request, inputs, samples, mode, dialect, track_id, accepted_at_ms, day, month)
         select $1, $2, public_id, $3, $4, $5, $6, $7, $8, $9, {NOW_MS}, $10, $11 from numbered returning public_id, accepted_at_ms"
    )))
    .bind(admission.id)
    .bind(admission.tenant)
    .bind(admission.router)
    .bind(to_json(&admission.request)?)
    .bind(inputs)
    .bind(i64::from(admission.request.samples))
    .bind(to_json(&admission.mode)?)
    .bind(admission.dialect)
    .bind(admission.track_id.as_ref().map(to_json).transpose()?)
    .bind(&windows.day)
    .bind(&windows.month)
    .fetch_one(connection)
    .await?;
    Ok(Entry::admitted(admission, plan, row.try_get("public_id")?, row.try_get("accepted_at_ms")?))
}

async fn add_calls(connection: &mut PgConnection, tenant: Uuid, period: &str, calls: i64) -> Result<(), StoreError> {
    sqlx::query(
        "insert into usage (tenant, period, calls) values ($1, $2, $3)
         on conflict (tenant, period) do update set calls = usage.calls + excluded.calls",
    )
    .bind(tenant)
    .bind(period)
    .bind(calls)
    .execute(connection)
    .await?;
    Ok(())
}

/// A silent router's row may go once nothing unfinished names it: its entries count as a dead one's without it, too.
async fn forget_silent_routers(connection: &mut PgConnection, own: Uuid, silence_ms: i64) -> Result<(), StoreError> {
    sqlx::query(sql(format!(
        "delete from routers where id in (
             select id from routers where id <> $1 and beat_at_ms <= {NOW_MS} - $2
             and not exists (select 1 from generations where router = routers.id and finished_at_ms is null) for update skip locked)"
    )))
    .bind(own)
    .bind(silence_ms)
    .execute(connection)
    .await?;
    Ok(())
}

fn read_entry(row: &PgRow) -> Result<Entry, StoreError> {
    let text = |column: &str| row.try_get::<Option<&str>, _>(column);
    Ok(Entry {
        id: row.try_get("id")?,
        public_id: row.try_get("public_id")?,
        tenant: row.try_get("tenant")?,
        plan: row.try_get("plan")?,
        request: from_json::<ImageRequest>(row.try_get("request")?)?,
        mode: from_json::<Mode>(row.try_get("mode")?)?,
        dialect: row.try_get("dialect")?,
        track_id: text("track_id")?.map(from_json::<String>).transpose()?,
        accepted_at_ms: row.try_get("accepted_at_ms")?,
        finished_at_ms: row.try_get("finished_at_ms")?,
        outcome: text("outcome")?.map(from_json::<Outcome>).transpose()?,
        start: text("start")?.map(from_json::<StartReport>).transpose()?.unwrap_or_default(),
        fence: row.try_get("fence")?,
        takeovers: u32::try_from(row.try_get::<i32, _>("takeovers")?).unwrap_or(0),
    })
}

fn count(row: &PgRow, column: &str) -> Result<u64, StoreError> {
    let number: i64 = row.try_get(column)?;
    Ok(u64::try_from(number).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_keeps_its_password_to_itself() {
        let url: DatabaseUrl = "postgres://emulsion:secret@db.example:6432/books?sslmode=require".parse().unwrap();
        assert_eq!(url.to_string(), "database books at db.example:6432");
        assert_eq!(format!("{url:?}"), "DatabaseUrl(database books at db.example:6432)");
        for text in ["", "books", "mysql://db.example/books", "postgres://db.example:port/books"] {
            let refused = text.parse::<DatabaseUrl>().unwrap_err();
            assert!(refused.contains("postgres://"), "{refused}");
        }
    }
}
