-- What routers of one database share and nobody else may know.
create table secrets (
    name  text primary key,
    value blob not null
) strict;

-- For what is looked for by when it ended: outputs whose time is up, inputs that are still kept.
create index finished on generations (finished_at_ms) where finished_at_ms is not null;
