-- When each tenant's next call is due if it kept exactly to its rate, in microseconds since 1970.
create table rates (
    tenant blob primary key references tenants (id),
    due_us integer not null
) strict;

-- Whether its images are being made: they count among those its tenant has made at once.
alter table generations add column running integer not null default 0;
-- When its router last asked whether they may be.
alter table generations add column asked_at_ms integer;
