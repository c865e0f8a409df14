-- When each tenant's next call is due if it kept exactly to its rate, in microseconds since 1970.
create table rates (
    tenant uuid primary key references tenants (id),
    due_us bigint not null
);

alter table generations
    -- Whether its images are being made: they count among those its tenant has made at once.
    add column running boolean not null default false,
    -- When its router last asked whether they may be.
    add column asked_at_ms bigint;
