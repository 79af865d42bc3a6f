-- The relation that a projection reads: the events of one partition that are new to it, in the order of their offsets.
-- Made once per session, empty at the start of every transaction. No parameters.
create temporary table new_events (
  ordinal int not null,
  event_id uuid not null,
  event_type text,
  aggregate_type text,
  aggregate_id text,
  event_version int not null,
  topic text not null,
  partition int not null,
  "offset" bigint not null,
  key text,
  payload jsonb,
  headers jsonb not null,
  event_time timestamptz,
  correlation_id text
) on commit delete rows
