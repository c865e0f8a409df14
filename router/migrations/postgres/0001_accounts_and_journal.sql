-- Milliseconds are since 1970, by this database's clock.
create table tenants (
    id             uuid primary key,
    name           text not null unique,
    plan           text not null,
    -- The id its next request is known by outside; starts at random so that ids tell nothing of volume.
    next_public_id integer not null,
    images         bigint not null default 0,
    created_at_ms  bigint not null
);

create table keys (
    hash          bytea primary key,
    tenant        uuid not null references tenants (id),
    created_at_ms bigint not null
);

create table routers (
    id         uuid primary key,
    beat_at_ms bigint not null
);

-- The journal: one row per accepted request, unfinished while finished_at_ms is null. JSON is kept as text: what callers wrote
-- may hold the character U+0000, which no JSON type of this database takes.
create table generations (
    id             uuid primary key,
    tenant         uuid not null references tenants (id),
    public_id      integer not null,
    router         uuid not null,
    fence          bigint not null default 0,
    takeovers      integer not null default 0,
    request        text not null,
    -- Sha256 of the pictures that the request names.
    inputs         text[] not null,
    samples        bigint not null,
    mode           text not null,
    dialect        text not null,
    track_id       text,
    accepted_at_ms bigint not null,
    -- The windows whose calls this request reserved, to be given back if it fails.
    day            text not null,
    month          text not null,
    finished_at_ms bigint,
    outcome        text,
    start          text,
    unique (tenant, public_id)
);

create index unfinished_by_router on generations (router) where finished_at_ms is null;
create index unfinished_by_tenant on generations (tenant) where finished_at_ms is null;

-- Calls per tenant and window ("2026-11-22" or "2026-11"), reservations included.
create table usage (
    tenant uuid not null references tenants (id),
    period text not null,
    calls  bigint not null,
    primary key (tenant, period)
);
