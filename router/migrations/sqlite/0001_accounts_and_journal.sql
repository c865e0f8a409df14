-- Milliseconds are since 1970, by this database's clock. Ids are UUIDs as 16 bytes.
create table tenants (
    id             blob primary key,
    name           text not null unique,
    plan           text not null,
    -- The id its next request is known by outside; starts at random so that ids tell nothing of volume.
    next_public_id integer not null,
    images         integer not null default 0,
    created_at_ms  integer not null
) strict;

create table keys (
    hash          blob primary key,
    tenant        blob not null references tenants (id),
    created_at_ms integer not null
) strict;

create table routers (
    id         blob primary key,
    beat_at_ms integer not null
) strict;

-- The journal: one row per accepted request, unfinished while finished_at_ms is null.
create table generations (
    id             blob primary key,
    tenant         blob not null references tenants (id),
    public_id      integer not null,
    router         blob not null,
    fence          integer not null default 0,
    takeovers      integer not null default 0,
    request        text not null,
    samples        integer not null,
    mode           text not null,
    dialect        text not null,
    track_id       text,
    accepted_at_ms integer not null,
    -- The windows whose calls this request reserved, to be given back if it fails.
    day            text not null,
    month          text not null,
    finished_at_ms integer,
    outcome        text,
    start          text,
    unique (tenant, public_id)
) strict;

create index unfinished_by_router on generations (router) where finished_at_ms is null;
create index unfinished_by_tenant on generations (tenant) where finished_at_ms is null;

-- Calls per tenant and window ("2026-11-22" or "2026-11"), reservations included.
create table usage (
    tenant blob not null references tenants (id),
    period text not null,
    calls  integer not null,
    primary key (tenant, period)
) strict;
